"""nat with real clients and servers, on one link and through one VNF."""

from __future__ import annotations

import pytest
from engine import wait_until
from lab import NewClient
from mount import Mount, errno_of
from peers import Connection, seen_by, serve
from views import CONTAINERS, MAIN_LINE

TYPES = ("nat",)
pytestmark = pytest.mark.engines(*CONTAINERS)


@pytest.mark.engines(*MAIN_LINE)
def test_a_server_sees_the_vnf_and_bindings_say_for_whom_it_stands(nfio: Mount, client: NewClient) -> None:
    nat = nfio.make("nat", "n0")
    nat.act("activate")
    user, server = client(nat), client(nat)
    serve(server, 80)
    user.ip("route", "add", server.address, "via", nat.address)
    masqueraded = Connection(user, server.address, 80, own_port=41000)
    assert masqueraded.ask() == f"{nat.address} 41000"
    inside, outside, remote = f"{user.address}:41000", f"{nat.address}:41000", f"{server.address}:80"
    assert nat.read("bindings") == f"masquerade tcp {inside} {outside} {remote}\n"
    (line,) = nat.read("connections").splitlines()
    assert f"src={user.address} dst={server.address} sport=41000 dport=80" in line

    nat.write("forwards", f"tcp 8080 {server.address} 80\nudp 5353 {server.address} 80\n")
    assert seen_by(user, nat.address, 8080, own_port=41001) == f"{nat.address} 41001"
    forwarded = f"forward tcp {server.address}:80 {nat.address}:8080 {user.address}:41001\n"
    assert forwarded in nat.read("bindings")
    assert seen_by(user, nat.address, 5353, own_port=41002, kind="DGRAM") == f"{nat.address} 41002"
    forwarded = f"forward udp {server.address}:80 {nat.address}:5353 {user.address}:41002\n"
    assert forwarded in nat.read("bindings")
    assert masqueraded.ask() == f"{nat.address} 41000"  # a change of the forwards is nothing to it


def test_without_masquerading_clients_keep_their_addresses(nfio: Mount, client: NewClient) -> None:
    nat = nfio.make("nat", "n0")
    nat.write("masquerade", "off\n")
    nat.act("activate")
    user, server = client(nat), client(nat)
    serve(server, 80)
    user.ip("route", "add", server.address, "via", nat.address)
    server.ip("route", "add", user.address, "via", nat.address)
    kept = Connection(user, server.address, 80, own_port=41000)
    assert kept.ask() == f"{user.address} 41000"
    assert nat.read("bindings") == "" and "sport=41000" in nat.read("connections")
    nat.write("masquerade", "on\n")
    assert seen_by(user, server.address, 80, own_port=41001) == f"{nat.address} 41001"
    assert kept.ask() == f"{user.address} 41000"
    # What passes through to the same port of somebody else is not forwarded.
    nat.write("forwards", f"tcp 80 {server.address} 81\n")
    assert seen_by(user, server.address, 80) != "nothing"
    assert "Refused" in seen_by(user, nat.address, 80)
    assert errno_of(lambda: nat.write("forwards", "tcp 80 ::1 81\n")) == "EINVAL"
    assert "no IPv4 address" in nat.error and nat.value("forwards") == f"tcp 80 {server.address} 81"
    assert errno_of(lambda: nat.write("masquerade", "yes\n")) == "EINVAL"
    assert nat.value("masquerade") == "on"
    nat.write("forwards", "\n")
    assert nat.read("forwards") == "\n"


def test_a_bad_ruleset_is_refused_and_one_that_died_comes_back(nfio: Mount, client: NewClient) -> None:
    nat = nfio.make("nat", "n0")
    nat.act("activate")
    nfio.make("nat", "n1").act("activate")  # a bridge goes with the last VNF that is on it
    user, server = client(nat), client(nat)
    serve(server, 80)
    nat.write("forwards", f"tcp 8080 {server.address} 80\n")
    rules = nat.read("config/nf_conf")
    nat.write("config/nf_conf", "table inet filter { nonsense }\n")
    assert errno_of(lambda: nat.act("reload")) == "EINVAL"
    assert "syntax error" in nat.error and "nonsense" in nat.error
    kept = Connection(user, nat.address, 8080)
    address = nat.address
    assert kept.ask().startswith(f"{address} ")
    nat.write("config/nf_conf", rules)
    for _ in range(5):
        nat.act("reload")
        assert kept.ask().startswith(f"{address} ")
    kept.close()
    nfio.engine.kill(nfio.guest_of(nat))
    wait_until(lambda: nat.state == "ERROR", 5, "its death is seen")
    assert nfio.engine.killed in nat.error
    assert errno_of(lambda: nat.read("bindings")) == "ENETDOWN"
    nat.write("state", "RUNNING\n")
    assert seen_by(user, nat.address, 8080).startswith(f"{nat.address} ")
