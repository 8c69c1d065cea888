"""Two routers and two clients: each client's prefix is behind a router of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import psutil
import pytest
from engine import wait_until
from lab import Client, NewClient
from mount import Mount, Vnf, errno_of
from views import CONTAINERS

pytestmark = pytest.mark.engines(*CONTAINERS)
TYPES = ("router",)

LEFT, RIGHT = "198.51.100.0/24", "192.0.2.0/24"
#: addresses of the routers in a network of their own, on their only interface
TRANSIT = ("10.255.0.1", "10.255.0.2")
AS = (65001, 65002)

CONFIG = """\
interface eth0
 ip address {transit}/30
 ip ospf network point-to-point
 ip ospf hello-interval 1
exit
router ospf
 timers throttle lsa all 0
 timers lsa min-arrival 0
 redistribute static
 network 10.255.0.0/30 area 0
exit
router bgp {own}
 no bgp ebgp-requires-policy
 neighbor {neighbor} remote-as {other}
 neighbor {neighbor} timers connect 1
exit
"""


@pytest.fixture
def pair(nfio: Mount) -> tuple[Vnf, Vnf]:
    """Two routers that know each other by OSPF and by BGP."""
    routers = nfio.make("router", "r1"), nfio.make("router", "r2")
    for i, router in enumerate(routers):
        conf = CONFIG.format(transit=TRANSIT[i], own=AS[i], neighbor=TRANSIT[1 - i], other=AS[1 - i])
        router.write("config/nf_conf", conf)
        router.act("activate")
    for router in routers:
        wait_until(lambda router=router: both_up(router), 20, "its neighbor is up")
    return routers


def states(router: Vnf) -> dict[str, tuple[str, int]]:
    """State and seconds by protocol."""
    lines = (line.split() for line in router.read("neighbors").splitlines())
    return {protocol: (state, int(up_s)) for protocol, _address, _peer, state, up_s in lines}


def both_up(router: Vnf) -> bool:
    return {state for state, _ in states(router).values()} == {"Full", "Established"}


def prefixed(client: Client, prefix: str, other: str, router: Vnf) -> str:
    """Give a client an address of a prefix, and the way to another; its address."""
    address = prefix.replace("0/24", "1")
    client.ip("address", "add", f"{address}/32", "dev", "lo")
    client.ip("route", "add", other, "via", router.address, "src", address)
    return address


def process_of(nfio: Mount, router: Vnf, name: str) -> psutil.Process:
    first = psutil.Process(nfio.engine.pid(nfio.guest_of(router)))
    (found,) = (child for child in first.children(recursive=True) if child.name() == name)
    return found


def test_routers_learn_each_others_routes_and_forward(pair: tuple[Vnf, Vnf], client: NewClient) -> None:
    left, right = pair
    a, b = client(left), client(right)
    prefixed(a, LEFT, RIGHT, left)
    there = prefixed(b, RIGHT, LEFT, right)
    assert not a.pings(there)
    left.write("static_routes", f"{LEFT} via {a.address}\n")
    right.write("static_routes", f"# the client\n{RIGHT} via {b.address}\n")
    # Each knows its own client's prefix and, by OSPF, the other's by way of the other.
    assert f"{LEFT} nhid" in left.read("routes")
    for i, (router, prefix) in enumerate(((left, RIGHT), (right, LEFT))):
        learnt = re.compile(rf"^{prefix} .*via {TRANSIT[1 - i]} dev eth0 proto ospf", re.MULTILINE)
        wait_until(lambda r=router, p=learnt: p.search(r.read("routes")) is not None, 20, "a route is learnt")
        ospf, bgp = (line.split() for line in router.read("neighbors").splitlines())
        assert ospf[:4] == ["ospf", TRANSIT[1 - i], ospf[2], "Full"]
        assert bgp[:4] == ["bgp", TRANSIT[1 - i], str(AS[1 - i]), "Established"]
    answers = a.run("ping", "-c", "3", "-i", "0.1", "-W", "2", there)
    assert answers.count("ttl=62") == 3  # through both

    # A reload that changes something else loses no packet and no neighbor.
    before = states(left)
    load = a.begin("ping", "-q", "-i", "0.01", "-c", "200", "-W", "2", there)
    more = f"ip route 203.0.113.0/24 {a.address}\naccess-list one permit any\n"
    left.write("config/nf_conf", left.read("config/nf_conf") + more)
    left.act("reload")
    assert ", 0% packet loss" in load.communicate(timeout=30)[0]
    wait_until(lambda: "203.0.113.0/24" in right.read("routes"), 20, "the new route is learnt")
    for router in pair:
        assert both_up(router)
    assert all(seconds >= before[name][1] for name, (_, seconds) in states(left).items())
    assert all(states(left)[name][1] > 0 for name in before)
    left.write("static_routes", "\n")
    wait_until(lambda: LEFT not in left.read("routes"))


def test_what_frr_refuses_changes_nothing(nfio: Mount) -> None:
    router = nfio.make("router", "r1")
    good = "router ospf\n network 0.0.0.0/0 area 0\nexit\nip route 192.0.2.0/24 Null0\n"
    router.write("config/nf_conf", good)
    router.act("activate")
    wait_until(lambda: "blackhole 192.0.2.0/24" in router.read("routes"))
    routes = router.read("routes")

    def running() -> str:
        router.write("command", "capsh --uid=200 --shell=/bin/sh -- -c 'vtysh -c \"show running-config\"'\n")
        return router.read("command")

    before = running()
    assert "network 0.0.0.0/0 area 0" in before
    # What vtysh does not know; and what it knows, and ospfd does not take then.
    for bad, words in (
        ("router ospf\n nonsense 5\n", "line 6: % Unknown command"),
        ("ip route 203.0.113.0/24 Null0\ninterface eth0\n ip ospf area 0\n", "remove all network commands"),
    ):
        router.write("config/nf_conf", good + bad)
        assert errno_of(lambda: router.act("reload")) == "EINVAL"
        assert words in router.error
        assert (router.state, router.read("routes"), running()) == ("RUNNING", routes, before)
    for bad in ("192.0.2.0/24", "192.0.2.1/24 via 10.0.0.1", "192.0.2.0/24 via eth0", "::/0 via ::1"):
        assert errno_of(lambda bad=bad: router.write("static_routes", f"{bad}\n")) == "EINVAL"
        assert "static_routes: " in router.error
    assert router.read("static_routes") == ""


def test_a_daemon_that_hangs_or_dies_is_seen(nfio: Mount) -> None:
    router = nfio.make("router", "r1")
    router.act("activate")
    bgpd = process_of(nfio, router, "bgpd")
    assert bgpd.uids().real == 200
    assert (
        subprocess.run(["grep", "-q", "CapEff:.*3000$", f"/proc/{bgpd.pid}/status"], check=False).returncode
        == 0
    )
    bgpd.send_signal(signal.SIGSTOP)
    assert errno_of(lambda: router.read("neighbors")) == "ETIMEDOUT"
    assert "default via" in router.read("routes") and router.number("stats/rx_bytes") >= 0
    bgpd.send_signal(signal.SIGCONT)
    assert router.read("neighbors") == ""
    os.kill(bgpd.pid, signal.SIGKILL)
    wait_until(lambda: router.state == "ERROR", 5, "it is seen")
    assert nfio.engine.killed in router.error
    assert router.read("log").count("bgpd has ended with status 137\n") == 1
    assert [event["to"] for event in nfio.events(router)][-1] == "ERROR"
    router.write("state", "RUNNING\n")
    assert (router.state, router.error, router.read("neighbors")) == ("RUNNING", "", "")
