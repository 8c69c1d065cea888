"""From mkdir to live counters, with real traffic."""

from __future__ import annotations

import os
import subprocess
import urllib.request

import pytest
from engine import wait_until
from mount import Mount, errno_of
from views import CONTAINERS, MAIN_LINE

pytestmark = pytest.mark.engines(*MAIN_LINE)

DROP_HTTP = """\
table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 80 drop
	}
}
"""


def get(address: str, timeout: float = 5) -> str:
    with urllib.request.urlopen(f"http://{address}/", timeout=timeout) as answer:
        return answer.read().decode()


def ping(address: str, count: int, size: int = 56) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ping", "-q", "-c", str(count), "-i", "0.002", "-W", "1", "-s", str(size), address],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def nfio(shared: Mount) -> Mount:
    """These tests leave nothing behind that could disturb the next one."""
    return shared


def test_life_of_a_web_vnf(nfio: Mount) -> None:
    web = nfio.make("web", "www")
    assert web.state == "DEFINED" and web.status == "undeployed"
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    web.act("activate")
    assert web.value("action") == "activate"
    assert (web.state, web.status, web.error) == ("RUNNING", nfio.engine.running, "")
    before = web.number("stats/rx_bytes")
    for _ in range(10):
        assert "nfio web" in get(web.address)
    assert web.number("stats/rx_bytes") > before
    assert web.number("requests") == 10
    web.act("pause")
    assert (web.state, web.status) == ("PAUSED", nfio.engine.paused)
    web.act("resume")
    assert "nfio web" in get(web.address)
    web.act("stop")
    assert (web.state, web.status) == ("CONFIGURED", nfio.engine.ended)
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    web.act("start")
    assert "nfio web" in get(web.address)
    assert errno_of(web.path.rmdir) == "EBUSY"
    web.act("destroy")
    assert web.state == "DEFINED" and nfio.guests() == []
    web.path.rmdir()
    assert not web.path.exists()


@pytest.mark.engines(*CONTAINERS)  # a machine's link carries frames before its kernel counts them
def test_counters_equal_those_of_the_vnf_itself_to_the_byte(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.act("activate")
    (guest,) = nfio.guests()
    assert ", 0% packet loss" in ping(firewall.address, 1000, 1000).stdout

    def settled() -> bool:
        names = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets")
        return nfio.engine.counters(guest) == {name: firewall.number(f"stats/{name}") for name in names}

    # The host's bridge goes on sending neighbour discovery for a while: the two views are
    # compared at a moment when none came between them.
    wait_until(settled, 10, "both views agree")
    assert firewall.number("stats/rx_packets") >= 1000


def test_a_firewall_counts_exactly_what_it_drops(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.act("activate")
    assert ", 0% packet loss" in ping(firewall.address, 5).stdout
    before = firewall.number("stats/pkt_drops")
    firewall.write("config/nf_conf", DROP_HTTP.replace("tcp dport 80", "icmp type echo-request"))
    firewall.act("reload")
    assert "100% packet loss" in ping(firewall.address, 100).stdout
    assert firewall.number("stats/pkt_drops") - before == 100
    assert "icmp type echo-request drop" in firewall.read("rules")
    # Reloading keeps the count.
    firewall.act("reload")
    assert firewall.number("stats/pkt_drops") - before == 100


def test_a_bad_ruleset_is_refused_and_the_old_one_stays(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.write("config/nf_conf", DROP_HTTP)
    firewall.act("activate")
    rules = firewall.read("rules")
    firewall.write("config/nf_conf", "table inet filter { nonsense }\n")
    assert errno_of(lambda: firewall.act("reload")) == "EINVAL"
    assert "syntax error" in firewall.error and "nonsense" in firewall.error
    assert firewall.read("rules") == rules
    assert firewall.state == "RUNNING"
    if nfio.engine.restarts:  # whoever does that gets the rules that were accepted
        (guest,) = nfio.guests()
        nfio.engine.restart(guest)
        wait_until(lambda: firewall.state == "RUNNING" and firewall.read("rules") == rules)


def test_a_vnf_that_is_activated_with_a_bad_configuration_leaves_nothing(nfio: Mount) -> None:
    web = nfio.make("web", "www")
    web.write("config/nf_conf", "http { no such directive }\n")
    assert errno_of(lambda: web.act("activate")) == "EINVAL"
    assert "nf_conf:1" in web.error and "[emerg]" in web.error
    assert web.state == "DEFINED" and nfio.guests() == []


def test_what_happens_behind_nfios_back_is_seen(nfio: Mount) -> None:
    web = nfio.make("web", "www")
    web.act("activate")
    (guest,) = nfio.guests()
    engine = nfio.engine
    for act, state, status in (
        (engine.pause, "PAUSED", engine.paused),
        (engine.unpause, "RUNNING", engine.running),
        (engine.kill, "ERROR", engine.ended),
    ):
        act(guest)
        wait_until(lambda state=state: web.state == state, 0.5, f"{act.__name__} is seen")
        assert web.status == status
    assert nfio.engine.killed in web.error
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    assert errno_of(lambda: web.act("start")) == "EBUSY"
    web.write("state", "RUNNING\n")
    assert web.state == "RUNNING" and web.error == ""
    assert [event["cause"] for event in nfio.events(web)].count("engine") == 3


@pytest.mark.engines(*CONTAINERS)
def test_a_vnf_that_dies_is_started_again_if_its_boot_conf_says_so(nfio: Mount) -> None:
    web = nfio.make("web", "www")
    web.write("config/boot.conf", "restart=on-failure\n")
    web.act("activate")
    (guest,) = nfio.guests()
    nfio.engine.kill(guest)
    last = {"cause": "on-failure", "to": "RUNNING"}
    wait_until(lambda: last.items() <= nfio.events(web)[-1].items(), 10, "it runs again")
    assert "nfio web" in get(web.address)
    assert [event["cause"] for event in nfio.events(web)][-4:] == ["engine", *["on-failure"] * 3]


@pytest.mark.engines(*CONTAINERS)  # a machine is limited by what it was started with
def test_limits_hold_and_are_lifted_while_it_runs(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.write("machine/vm.memory", "64M\n")
    firewall.act("activate")
    (guest,) = nfio.guests()

    def limit() -> int:
        return nfio.engine.memory_limit(guest)

    assert limit() == 64 << 20
    firewall.write("machine/vm.memory", "128M\n")
    assert limit() == 128 << 20
    assert errno_of(lambda: firewall.write("machine/vm.memory", "-1\n")) == "EINVAL"
    assert firewall.value("machine/vm.memory") == "128M" and limit() == 128 << 20
    firewall.write("machine/vm.memory", "\n")  # `echo > vm.memory`
    assert limit() > 1 << 30
    firewall.write("machine/vm.memory", "64M\n")
    os.close(os.open(firewall.path / "machine/vm.memory", os.O_WRONLY | os.O_TRUNC))  # `: > vm.memory`
    wait_until(lambda: limit() > 1 << 30, 5, "the limit is lifted")
    wait_until(lambda: firewall.state == "RUNNING", 5, "it has been scaled")
    assert firewall.read("machine/vm.memory") == ""
    assert [event["to"] for event in nfio.events(firewall)].count("SCALING") == 4
