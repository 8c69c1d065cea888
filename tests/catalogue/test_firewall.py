"""firewall between real clients: its policy, its sets, its counters, what it tracks."""

from __future__ import annotations

import re

import pytest
from engine import wait_until
from lab import Client, NewClient
from mount import Mount, Vnf, errno_of
from peers import Connection, seen_by, serve
from views import CONTAINERS, MAIN_LINE

TYPES = ("firewall",)
pytestmark = pytest.mark.engines(*CONTAINERS)

CONF = """\
table inet filter {
	chain forward {
		type filter hook forward priority filter; policy $POLICY;
		ip saddr @blocked counter drop
		ct state established,related accept
		tcp dport 80 counter accept
	}
}
"""


def between(firewall: Vnf, client: NewClient) -> tuple[Client, Client]:
    """A client and a server; all that they send each other goes through the firewall."""
    user, server = client(firewall), client(firewall)
    serve(server, 80, 81)
    user.ip("route", "add", server.address, "via", firewall.address)
    server.ip("route", "add", user.address, "via", firewall.address)
    return user, server


def blocking(nfio: Mount) -> Vnf:
    """A firewall that runs CONF."""
    firewall = nfio.make("firewall", "fw0")
    (firewall.path / "sets/blocked").mkdir()
    firewall.write("config/nf_conf", CONF)
    firewall.act("activate")
    return firewall


def packets(firewall: Vnf, rule: str) -> int:
    found = re.search(rf"{rule} counter packets (\d+)", firewall.read("rules"))
    assert found, firewall.read("rules")
    return int(found[1])


@pytest.mark.engines(*MAIN_LINE)
def test_what_a_client_sees_is_what_the_files_say(nfio: Mount, client: NewClient) -> None:
    firewall = blocking(nfio)
    user, server = between(firewall, client)
    kept = Connection(user, server.address, 80, own_port=41000)
    also_kept = Connection(user, server.address, 81)
    assert kept.ask() == f"{user.address} 41000" and also_kept.ask() != "nothing"
    assert packets(firewall, "tcp dport 80") == 1  # of those that follow the rule above decides
    assert f"src={user.address} dst={server.address} sport=41000 dport=80" in firewall.read("connections")

    # The policy decides on what is new and has no rule.
    firewall.write("policy", "drop\n")
    assert kept.ask() == f"{user.address} 41000" and also_kept.ask() != "nothing"
    assert seen_by(user, server.address, 80) != "nothing"
    assert "Timeout" in seen_by(user, server.address, 81)
    firewall.write("policy", "accept\n")
    assert seen_by(user, server.address, 81) != "nothing"

    # An element that is there is blocked, by an exact count of packets, and one that is gone is not.
    assert user.pings(server.address)
    drops = firewall.number("stats/pkt_drops")
    element = firewall.path / "sets/blocked" / user.address
    element.touch()
    for _ in range(3):
        assert not user.succeeds("ping", "-q", "-c", "1", "-W", "0.2", server.address)
    assert packets(firewall, "@blocked") == 3
    assert firewall.number("stats/pkt_drops") - drops == 3
    firewall.write("zero_counters", "1\n")
    assert packets(firewall, "@blocked") == 0 and packets(firewall, "tcp dport 80") == 0
    assert firewall.number("stats/pkt_drops") - drops == 3
    element.unlink()
    assert user.pings(server.address) and kept.ask() == f"{user.address} 41000"


def test_a_set_changes_at_once_and_nothing_else_does(nfio: Mount, client: NewClient) -> None:
    firewall = blocking(nfio)
    user, server = between(firewall, client)
    sets = firewall.path / "sets"
    (sets / "blocked" / user.address).touch()
    assert not user.succeeds("ping", "-q", "-c", "1", "-W", "0.2", server.address)
    (sets / "blocked/192.0.2.0_24").write_text("from the list of Monday\n")
    (sets / "blocked/192.0.2.7").touch()
    (sets / "blocked/2001:db8::1").touch()
    (sets / "other").mkdir()
    assert packets(firewall, "@blocked") == 1  # no rule was replaced
    rules = firewall.read("rules")
    assert "192.0.2.0/24" in rules and "192.0.2.7" not in rules  # the one contains the other
    assert "elements = { 2001:db8::1 }" in rules and "set other-v6 {" in rules
    (sets / "blocked/192.0.2.0_24").unlink()
    assert "192.0.2.7" in firewall.read("rules") and "192.0.2.0/24" not in firewall.read("rules")
    (sets / "other").rmdir()
    assert "set other" not in firewall.read("rules")
    for path, name in ((sets, "1st"), (sets, "accept"), (sets, "a-v6")):
        assert errno_of((path / name).mkdir) == "EINVAL", name
    for name in ("host", "192.0.2.1_24", "192.0.2.300", "192.0.2.1-192.0.2.9", "22"):
        assert errno_of((sets / "blocked" / name).touch) == "EINVAL", name
    assert "is no address or prefix" in firewall.error
    for element in (sets / "blocked").iterdir():
        if element.name != user.address:
            element.unlink()
    assert errno_of((sets / "blocked").rmdir) == "ENOTEMPTY"
    firewall.act("restart")
    assert not user.succeeds("ping", "-q", "-c", "1", "-W", "0.2", server.address)
    (sets / "blocked" / user.address).unlink()
    assert errno_of((sets / "blocked").rmdir) == "EBUSY" and "rules refer to it" in firewall.error
    assert (sets / "blocked").is_dir()
    assert user.pings(server.address)


def test_a_policy_that_no_chain_takes_is_refused(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    taken = CONF.replace("$POLICY", "accept").replace("@blocked", "192.0.2.1")
    firewall.write("config/nf_conf", taken.rstrip())
    (firewall.path / "config/old").write_text(CONF)  # which nf_conf does not include
    firewall.act("activate")
    rules = firewall.read("rules")
    assert errno_of(lambda: firewall.write("policy", "reject\n")) == "EINVAL"
    assert "accept or drop" in firewall.error
    assert errno_of(lambda: firewall.write("policy", "drop\n")) == "EINVAL"
    assert "no chain of nf_conf takes it" in firewall.error
    assert firewall.value("policy") == "accept" and firewall.read("rules") == rules
    assert errno_of(lambda: firewall.write("zero_counters", "all\n")) == "EINVAL"
    firewall.act("stop")
    assert errno_of(lambda: firewall.write("zero_counters", "1\n")) == "ENETDOWN"
    firewall.write("policy", "drop\n")  # it is looked at when it starts
    assert errno_of(lambda: firewall.act("start")) == "EINVAL"
    assert "no chain of nf_conf takes it" in firewall.error


def test_no_packet_is_lost_while_rules_are_replaced(nfio: Mount, client: NewClient) -> None:
    firewall = blocking(nfio)
    user, server = between(firewall, client)
    for interface in ("all", "eth0"):
        user.run("sysctl", "-qw", f"net.ipv4.conf.{interface}.accept_redirects=1")
    kept = Connection(user, server.address, 80)
    flood = user.begin("ping", "-q", "-c", "400", "-i", "0.005", server.address)
    reloads = 0
    while flood.poll() is None:
        firewall.act("reload")
        reloads += 1
        assert kept.ask() != "nothing"
    assert flood.stdout is not None
    assert " 0% packet loss" in flood.stdout.read() and reloads >= 5
    assert "redirected" not in user.ip("route", "get", server.address)  # nobody showed it the way past
    nfio.engine.kill(nfio.guest_of(firewall))
    wait_until(lambda: firewall.state == "ERROR", 5, "its death is seen")
    firewall.write("state", "RUNNING\n")
    assert "@blocked" in firewall.read("rules")
