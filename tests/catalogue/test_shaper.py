"""A shaper between two clients: what leaves it arrives at the rate that its file says."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from engine import wait_until
from lab import Client, NewClient
from mount import Mount, Vnf, errno_of
from views import CONTAINERS

pytestmark = pytest.mark.engines(*CONTAINERS)
TYPES = ("shaper",)

THERE = "192.0.2.1"
MBIT = 1_000_000

#: sends 2 MB as fast as it can, to a port where nobody listens
BURST = f"""
from socket import *
s = socket(AF_INET, SOCK_DGRAM)
for _ in range(2000):
    s.sendto(bytes(1000), ("{THERE}", 9))
"""

HAS_NETEM = (
    subprocess.run(
        ["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
        capture_output=True,
        timeout=10,
        check=False,
    ).returncode
    == 0
)


def received(client: Client) -> int:
    return int(client.run("cat", "/sys/class/net/eth0/statistics/rx_bytes"))


def datagrams(client: Client) -> int:
    """UDP datagrams that came to a client for ports where nobody listens (RFC 4113 udpNoPorts)."""
    names, values = (line.split() for line in client.run("grep", "^Udp:", "/proc/net/snmp").splitlines())
    return int(dict(zip(names, values, strict=True))["NoPorts"])


def bits_per_s(count, seconds: float) -> float:
    """How fast a count of bytes grows."""
    first, begun = count(), time.monotonic()
    time.sleep(seconds)  # the measurement itself
    last, ended = count(), time.monotonic()
    return 8 * (last - first) / (ended - begun)


@pytest.fixture
def shaper(nfio: Mount) -> Vnf:
    made = nfio.make("shaper", "s0")
    made.act("activate")
    return made


@pytest.fixture
def sender(shaper: Vnf, client: NewClient) -> Client:
    """Its way to THERE leads through the shaper; answers come back directly."""
    made = client(shaper)
    made.ip("route", "add", THERE, "via", shaper.address)
    return made


@pytest.fixture
def receiver(shaper: Vnf, sender: Client, client: NewClient) -> Client:
    made = client(shaper)
    made.ip("address", "add", f"{THERE}/32", "dev", "lo")
    shaper.write("command", f"ip route add {THERE} via {made.address}\n")
    assert shaper.read("command") == ""
    made.begin("iperf3", "-s", "-B", THERE)
    wait_until(lambda: ":5201" in made.run("ss", "-ltn"), what="iperf3 listens")
    return made


def test_the_rate_is_held_and_changed_while_traffic_flows(
    shaper: Vnf, sender: Client, receiver: Client
) -> None:
    assert not sender.succeeds("ping", "-c", "1", "-W", "1", "-t", "1", THERE)  # it is on the way
    assert sender.succeeds("ping", "-c", "3", "-i", "0.1", "-t", "2", THERE)
    assert shaper.number("backlog") == shaper.number("drops") == 0
    shaper.write("rate", "20mbit\n")
    load = sender.begin("iperf3", "-c", THERE, "-t", "60")
    wait_until(lambda: shaper.number("backlog") > 0, what="it has something to hold back")
    time.sleep(0.5)  # what a bucket that was full let through
    # With segments of many frames, of which an interface counts one header: the other 66 of each
    # 1514 bytes are on the wire and not in the count.
    assert bits_per_s(lambda: received(receiver), 3) == pytest.approx(0.96 * 20 * MBIT, rel=0.05)
    sender.ip("link", "set", "eth0", "gso_max_segs", "1")
    shaper.write("rate", "50mbit\n")
    time.sleep(0.5)  # what was queued under the old rate, and in large segments
    assert bits_per_s(lambda: received(receiver), 3) == pytest.approx(50 * MBIT, rel=0.05)
    load.kill()
    wait_until(lambda: shaper.number("backlog") == 0, what="its queue is empty")
    arrived, drops = datagrams(receiver), shaper.number("drops")
    sender.run(sys.executable, "-c", BURST)
    wait_until(lambda: shaper.number("backlog") == 0, what="its queue is empty")
    drops = shaper.number("drops") - drops
    assert 500 < drops == 2000 - (datagrams(receiver) - arrived)
    drops = shaper.number("drops")
    assert drops == shaper.number("stats/pkt_drops")
    shaper.write("rate", "\n")
    assert shaper.number("drops") == drops
    fast = json.loads(sender.run("iperf3", "-c", THERE, "-t", "1", "-J"))
    assert fast["end"]["sum_received"]["bits_per_second"] > 100 * MBIT


def test_what_tc_refuses_changes_nothing(shaper: Vnf) -> None:
    for file, bad in (
        ("rate", "fast"),
        ("rate", "1kbit"),
        ("delay", "soon"),
        ("loss", "101%"),
        ("loss", "1"),
    ):
        assert errno_of(lambda file=file, bad=bad: shaper.write(file, f"{bad}\n")) == "EINVAL"
        assert f"{file}: '{bad}' is not" in shaper.error
    shaper.write("rate", "1mbit\n")

    def shown() -> str:
        shaper.write("command", "/sbin/tc qdisc show dev eth0; /sbin/tc class show dev eth0; ip link\n")
        return shaper.read("command")

    before = shown()
    assert "tbf 1: root" in before and "rate 1Mbit" in before
    shaper.write("config/nf_conf", "qdisc add dev lo root handle 7: pfifo\n")
    assert errno_of(lambda: shaper.act("reload")) == "EINVAL" and "dev lo: " in shaper.error
    htb = "qdisc replace  dev  eth0 root handle 10: htb default 1\n"
    shaper.write("config/nf_conf", f"# mine\n{htb}class add dev eth0 parent 10: classid 10:1 htb rate lots\n")
    assert errno_of(lambda: shaper.act("reload")) == "EINVAL"
    assert "rate" in shaper.error and "nf_conf:3" in shaper.error
    assert shown() == before
    shaper.write("config/nf_conf", f"{htb}class add dev eth0 parent 10: classid 10:1 htb rate 2mbit\n")
    for _ in range(2):  # what `add` says is as true the second time
        shaper.act("reload")
        assert "htb 10: root" in shown() and "rate 2Mbit" in shown()
    shaper.write("config/nf_conf", "# nothing\n")
    shaper.act("reload")
    assert shown() == before
    shaper.act("restart")
    assert "rate 1Mbit" in shown()


def test_delay_and_loss_are_there_or_say_why_not(shaper: Vnf, sender: Client, receiver: Client) -> None:
    if not HAS_NETEM:
        for file, value in (("delay", "50ms"), ("loss", "100%")):
            assert errno_of(lambda file=file, value=value: shaper.write(file, f"{value}\n")) == "ENOTSUP"
            assert "no netem (CONFIG_NET_SCH_NETEM)" in shaper.error and shaper.read(file) == ""
        shaper.write("delay", "\n")
        return
    shaper.write("rate", "10mbit\n")
    shaper.write("delay", "50ms\n")
    assert "min/avg/max/mdev = 5" in sender.run("ping", "-q", "-c", "5", "-i", "0.1", THERE)
    shaper.write("loss", "100%\n")
    assert not sender.pings(THERE)
    shaper.write("loss", "\n")
    assert sender.pings(THERE)


def test_one_whose_program_ends_is_seen(nfio: Mount, shaper: Vnf) -> None:
    nfio.engine.kill(nfio.guest_of(shaper))
    wait_until(lambda: shaper.state == "ERROR", 5, "it is seen")
    assert nfio.engine.killed in shaper.error
    assert errno_of(lambda: shaper.read("drops")) == "ENETDOWN"
    shaper.write("state", "RUNNING\n")
    assert (shaper.number("drops"), shaper.error) == (0, "")
