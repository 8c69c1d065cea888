"""A load balancer before three web servers: what clients see while its servers come and go."""

from __future__ import annotations

import pytest
from engine import wait_until
from http_load import Load
from lab import Client
from mount import Mount, Vnf, errno_of
from views import CONTAINERS

TYPES = ("loadbalancer", "web")
pytestmark = pytest.mark.engines(*CONTAINERS)

NAMES = ("w1", "w2", "w3")


@pytest.fixture
def webs(nfio: Mount) -> dict[str, Vnf]:
    """Three web servers, each of which says its name."""
    made = {name: nfio.make("web", name) for name in NAMES}
    for name, web in made.items():
        (web.path / "config/index.html").write_text(f"{name}\n")
        web.write("config/nf_conf", web.read("config/nf_conf").replace("/var/www/html", "/etc/nfio"))
        web.act("activate")
    return made


@pytest.fixture
def balancer(nfio: Mount, webs: dict[str, Vnf]) -> Vnf:
    """A load balancer before them that runs."""
    made = nfio.make("loadbalancer", "lb")
    made.act("activate")
    for name, web in webs.items():
        add(made, name, web)
    return made


def add(balancer: Vnf, name: str, web: Vnf) -> None:
    (balancer.path / "backends" / name).mkdir()
    balancer.write(f"backends/{name}/address", f"{web.address}:80\n")


def numbers(balancer: Vnf, file: str) -> dict[str, int]:
    return {place.name: int((place / file).read_text()) for place in (balancer.path / "backends").iterdir()}


def frontend(balancer: Vnf) -> dict[str, str]:
    names, values = (line.split() for line in balancer.read("frontends").splitlines())
    return dict(zip(names, values, strict=True))


def test_requests_are_shared_and_a_drained_server_loses_none(
    webs: dict[str, Vnf], balancer: Vnf, client
) -> None:
    assert {balancer.value(f"backends/{name}/status") for name in NAMES} == {"UP"}
    load = Load(client(balancer), f"http://{balancer.address}/")
    wait_until(lambda: all(web.number("requests") > 50 for web in webs.values()))
    balancer.write("backends/w1/state", "drain\n")
    wait_until(lambda: balancer.number("backends/w1/active_sessions") == 0)
    assert balancer.value("backends/w1/status") == "DRAIN"
    drained = webs["w1"].number("requests")
    seen = webs["w2"].number("requests")
    wait_until(lambda: webs["w2"].number("requests") > seen + 200)
    assert webs["w1"].number("requests") == drained
    webs["w1"].act("stop")
    done = load.end()
    assert done.failed == [] and done.requests >= 1000
    # The clients, haproxy and the servers have counted the same.
    wait_until(lambda: int(frontend(balancer)["active_sessions"]) == 0)
    assert numbers(balancer, "sessions") == done.pages
    assert done.pages["w1"] == drained
    assert {name: webs[name].number("requests") for name in ("w2", "w3")} == {
        name: done.pages[name] for name in ("w2", "w3")
    }
    seen_by_frontend = frontend(balancer)
    assert seen_by_frontend["name"] == "www" and seen_by_frontend["status"] == "OPEN"
    assert int(seen_by_frontend["requests"]) == done.requests
    for file in ("rx_bytes", "tx_bytes"):
        assert int(seen_by_frontend[file]) == sum(numbers(balancer, file).values()) > 0


def test_servers_come_and_go_and_a_reload_loses_no_request(
    webs: dict[str, Vnf], balancer: Vnf, client
) -> None:
    load = Load(client(balancer), f"http://{balancer.address}/")
    wait_until(lambda: webs["w3"].number("requests") > 50)
    (balancer.path / "backends/w3").rmdir()
    gone = webs["w3"].number("requests")
    config = balancer.read("config/nf_conf")
    balancer.write("config/nf_conf", config.replace("bind :80", "bind :80\n    bind :81"))
    for _ in range(3):
        balancer.act("reload")
    balancer.write("config/nf_conf", config.replace("bind :80", "bind nonsense"))
    assert errno_of(lambda: balancer.act("reload")) == "EINVAL"
    assert "bind" in balancer.error and "nf_conf:" in balancer.error
    before = webs["w2"].number("requests")
    wait_until(lambda: webs["w2"].number("requests") > before + 50)
    assert webs["w3"].number("requests") == gone
    balancer.write("backends/w2/state", "maint\n")
    balancer.write("backends/w1/weight", "1\n")
    add(balancer, "w3", webs["w3"])
    before = webs["w1"].number("requests")
    wait_until(lambda: webs["w3"].number("requests") > gone + 300)
    assert webs["w1"].number("requests") - before < 60
    assert balancer.value("backends/w2/status") == "MAINT"
    done = load.end()
    assert done.failed == [] and done.requests >= 1000
    assert "w3" in client(balancer).run("curl", "-s", f"http://{balancer.address}:81/")


@pytest.mark.parametrize(
    ("file", "value"),
    [("address", "w1:80"), ("address", "192.0.2.1"), ("weight", "257"), ("weight", "-1"), ("state", "up")],
)
def test_what_is_no_value_is_refused(nfio: Mount, file: str, value: str) -> None:
    balancer = nfio.make("loadbalancer", "lb")
    (balancer.path / "backends/a").mkdir()
    before = balancer.read(f"backends/a/{file}")
    assert errno_of(lambda: balancer.write(f"backends/a/{file}", f"{value}\n")) == "EINVAL"
    assert value in balancer.error and balancer.read(f"backends/a/{file}") == before


def test_a_worker_that_is_killed_is_seen_and_comes_back_with_its_servers(
    nfio: Mount, webs: dict[str, Vnf], balancer: Vnf, client
) -> None:
    here: Client = client(balancer)
    balancer.write("backends/w1/state", "drain\n")
    balancer.write("backends/w2/state", "maint\n")
    # One that does not answer keeps its own files alone waiting.
    kill = "kill -{} $(ps -o pid,comm | sed -n 's/ haproxy$//p' | grep -vx ' *1')\n"
    balancer.write("command", kill.format("STOP"))
    assert errno_of(lambda: balancer.read("frontends")) == "ETIMEDOUT"
    assert balancer.state == "RUNNING" and balancer.number("stats/rx_bytes") > 0
    balancer.write("command", kill.format("KILL"))
    wait_until(lambda: balancer.state == "ERROR", 2, "it is seen")
    assert balancer.error
    assert nfio.events(balancer)[-1]["to"] == "ERROR"
    assert errno_of(lambda: balancer.read("frontends")) == "ENETDOWN"
    balancer.write("state", "RUNNING\n")
    words = {name: balancer.value(f"backends/{name}/status") for name in NAMES}
    assert words == {"w1": "DRAIN", "w2": "MAINT", "w3": "UP"}
    assert {here.run("curl", "-s", f"http://{balancer.address}/").strip() for _ in range(4)} == {"w3"}
    balancer.write("backends/w1/state", "ready\n")
    pages = {here.run("curl", "-s", f"http://{balancer.address}/").strip() for _ in range(4)}
    assert pages == {"w1", "w3"}
