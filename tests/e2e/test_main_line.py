"""From mkdir to live counters, with real traffic."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request

import pytest
from engine import docker as docker_command
from engine import wait_until
from mount import Mount, errno_of

pytestmark = pytest.mark.docker

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


def witness(container: str) -> dict[str, int]:
    """The VNF's own view of its interface: its /proc/net/dev."""
    text = docker_command("exec", container, "cat", "/proc/net/dev")
    columns = next(line.split(":")[1].split() for line in text.splitlines() if "eth0:" in line)
    names = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets")
    return dict(zip(names, (int(columns[i]) for i in (0, 1, 8, 9)), strict=True))


def test_life_of_a_web_vnf(nfio: Mount) -> None:
    web = nfio.make("web", "www")
    assert web.state == "DEFINED" and web.status == "undeployed"
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    web.act("activate")
    assert web.value("action") == "activate"
    assert (web.state, web.status, web.error) == ("RUNNING", "running", "")
    before = web.number("stats/rx_bytes")
    for _ in range(10):
        assert "nfio web" in get(web.address)
    assert web.number("stats/rx_bytes") > before
    assert web.number("requests") == 10
    web.act("pause")
    assert (web.state, web.status) == ("PAUSED", "paused")
    web.act("resume")
    assert "nfio web" in get(web.address)
    web.act("stop")
    assert (web.state, web.status) == ("CONFIGURED", "exited")
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    web.act("start")
    assert "nfio web" in get(web.address)
    assert errno_of(web.path.rmdir) == "EBUSY"
    web.act("destroy")
    assert web.state == "DEFINED" and nfio.containers() == []
    web.path.rmdir()
    assert not web.path.exists()


def test_counters_equal_those_of_the_vnf_itself_to_the_byte(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.act("activate")
    (container,) = nfio.containers()
    assert ", 0% packet loss" in ping(firewall.address, 1000, 1000).stdout

    def settled() -> bool:
        names = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets")
        return witness(container) == {name: firewall.number(f"stats/{name}") for name in names}

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
    # Whoever restarts the container gets the rules that were accepted.
    (container,) = nfio.containers()
    docker_command("restart", "-t", "1", container)
    wait_until(lambda: firewall.state == "RUNNING" and firewall.read("rules") == rules)


def test_a_vnf_that_is_activated_with_a_bad_configuration_leaves_nothing(nfio: Mount) -> None:
    web = nfio.make("web", "www")
    web.write("config/nf_conf", "http { no such directive }\n")
    assert errno_of(lambda: web.act("activate")) == "EINVAL"
    assert "nf_conf:1" in web.error and "[emerg]" in web.error
    assert web.state == "DEFINED" and nfio.containers() == []


def test_what_happens_behind_nfios_back_is_seen(nfio: Mount) -> None:
    web = nfio.make("web", "www")
    web.act("activate")
    (container,) = nfio.containers()
    for command, state, status in (
        ("pause", "PAUSED", "paused"),
        ("unpause", "RUNNING", "running"),
        ("kill", "ERROR", "exited"),
    ):
        docker_command(command, container)
        wait_until(lambda state=state: web.state == state, 0.5, f"{command} is seen")
        assert web.status == status
    assert "signal 9" in web.error
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    assert errno_of(lambda: web.act("start")) == "EBUSY"
    web.write("state", "RUNNING\n")
    assert web.state == "RUNNING" and web.error == ""
    causes = [json.loads(line)["cause"] for line in (nfio.path / "events").read_text().splitlines()]
    assert causes.count("engine") == 3


def test_limits_hold_and_are_lifted_while_it_runs(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.write("machine/vm.memory", "64M\n")
    firewall.act("activate")
    (container,) = nfio.containers()

    def limit() -> int:
        return int(docker_command("inspect", "-f", "{{.HostConfig.Memory}}", container))

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
    states = [json.loads(line)["to"] for line in (nfio.path / "events").read_text().splitlines()]
    assert states.count("SCALING") == 4
