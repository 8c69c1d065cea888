"""A web server under load: what its clients see is what its files say, whatever happens to its configuration."""

from __future__ import annotations

import os
import signal

import pytest
from engine import wait_until
from http_load import Load
from lab import Client
from mount import Mount, Vnf, errno_of
from views import CONTAINERS, MAIN_LINE

TYPES = ("web",)
pytestmark = pytest.mark.engines(*MAIN_LINE)


def running(nfio: Mount) -> Vnf:
    web = nfio.make("web", "www")
    web.act("activate")
    return web


def page(client: Client, web: Vnf, path: str = "/") -> str:
    return client.run("curl", "-sS", "-m", "5", f"http://{web.address}{path}").strip()


def test_a_reload_under_load_fails_no_request(nfio: Mount, client) -> None:
    web = running(nfio)
    here: Client = client(web)
    load = Load(here, f"http://{web.address}/")
    wait_until(lambda: web.number("requests") > 50)
    config = web.read("config/nf_conf")
    new = config.replace("listen 80;", "listen 80;\n        location = /new { return 200 new; }")
    web.write("config/nf_conf", new)
    for _ in range(3):
        web.act("reload")
    assert page(here, web, "/new") == "new"
    # One that nginx refuses changes nothing.
    web.write("config/nf_conf", config.replace("listen 80;", "listen nowhere:80;"))
    assert errno_of(lambda: web.act("reload")) == "EINVAL"
    assert "nowhere" in web.error and "nf_conf:" in web.error
    assert page(here, web, "/new") == "new"
    seen = web.number("requests")
    wait_until(lambda: web.number("requests") > seen + 50)
    done = load.end()
    assert done.failed == [] and done.requests >= 1000
    assert done.pages == {"<h1>nfio web</h1>": done.requests}
    # Every request was one of the load's connections, or one of the two above.
    assert web.number("requests") == web.number("connections") == done.requests + 2
    wait_until(lambda: web.number("active_connections") == 0)


def test_a_server_that_is_killed_is_seen_and_comes_back(nfio: Mount, client) -> None:
    web = running(nfio)
    assert page(client(web), web) == "<h1>nfio web</h1>" and web.number("requests") == 1
    if nfio.engine.name in CONTAINERS:
        os.kill(nfio.engine.pid(nfio.guest_of(web)), signal.SIGKILL)
    else:
        web.write("command", "kill -9 $(cat /run/nginx.pid)\n")
    wait_until(lambda: web.state == "ERROR", 10, "it is seen")
    assert web.error and nfio.events(web)[-1]["to"] == "ERROR"
    assert errno_of(lambda: web.read("requests")) == "ENETDOWN"
    web.write("state", "RUNNING\n")
    # Its network may have gone with it, and it may have another address now.
    assert page(client(web), web) == "<h1>nfio web</h1>" and web.number("requests") == 1


@pytest.mark.engines(*CONTAINERS)
def test_one_that_does_not_answer_keeps_its_own_files_alone_waiting(nfio: Mount) -> None:
    web = running(nfio)
    other = nfio.make("web", "other")
    other.act("activate")
    workers = "kill -{} $(grep -ls 'nginx: [w]orker' /proc/[0-9]*/cmdline | cut -d/ -f3)\n"
    web.write("command", workers.format("STOP"))
    assert errno_of(lambda: web.read("requests")) == "ETIMEDOUT"
    assert other.number("requests") == 0
    assert web.state == "RUNNING" and web.number("stats/rx_packets") >= 0
    web.write("command", workers.format("CONT"))
    wait_until(lambda: errno_of(lambda: web.read("requests")) == "", 5, "it answers again")
