"""A DHCP server and clients that ask it: what they are given, and what is remembered."""

from __future__ import annotations

import ipaddress
import os
import signal
import time
from pathlib import Path

import pytest
from engine import wait_until
from lab import Client
from mount import Mount, Vnf, errno_of
from views import CONTAINERS

TYPES = ("dhcp",)
pytestmark = pytest.mark.engines(*CONTAINERS)

_SAY = '#!/bin/sh\n[ "$1" != bound ] || echo "given $ip $mask $lease ${router:--} ${hostname:--}"\n'


@pytest.fixture
def say(directory: Path) -> Path:
    """What udhcpc calls: it says what the client was given, and leaves its address alone."""
    made = directory / "say"
    made.write_text(_SAY)
    made.chmod(0o755)
    return made


@pytest.fixture
def lasting_bridge(nfio: Mount) -> None:
    """One that no VNF is on any more may go, and come back with other addresses."""
    nfio.make("dhcp", "idle").act("activate")


@pytest.fixture
def server(nfio: Mount) -> Vnf:
    made = nfio.make("dhcp", "dnsmasq")
    made.act("activate")
    return made


def addresses(here: Client, below: int) -> tuple[str, str]:
    """Nine addresses of its network that nobody has."""
    last = ipaddress.ip_network(here.network).broadcast_address - below
    return str(last - 8), str(last)


def ask(here: Client, say: Path, tries: int = 5) -> list[str]:
    """What a DHCP client is given: address, bits of the mask, seconds, router, name; [] if nothing."""
    command = ["busybox", "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-s", str(say)]
    command += ["-t", str(tries), "-T", "1"]
    given = [line for line in here.run(*command, check=False).splitlines() if line.startswith("given ")]
    return given[0].split()[1:] if given else []


def mac(here: Client) -> str:
    return here.run("cat", "/sys/class/net/eth0/address").strip()


@pytest.mark.usefixtures("lasting_bridge")
def test_a_client_is_given_an_address_of_the_pool_and_it_is_remembered(
    server: Vnf, say: Path, client
) -> None:
    here: Client = client(server)
    assert server.read("leases") == ""
    assert ask(here, say, 1) == []  # nothing is given that nobody has written
    first, last = addresses(here, 230)
    server.write("pool", f"{first} {last} 20m\n")
    address, bits, seconds, router, name = ask(here, say)
    assert ipaddress.ip_address(first) <= ipaddress.ip_address(address) <= ipaddress.ip_address(last)
    assert (bits, seconds, router, name) == (here.network.partition("/")[2], "1200", "-", "-")
    (lease,) = server.read("leases").splitlines()
    end, *columns = lease.split()
    assert columns == [mac(here), address, "*", f"01:{mac(here)}"]
    assert abs(int(end) - time.time() - 1200) < 20
    # A reload and another pool start dnsmasq anew; a stop ends the VNF.
    server.write(
        "config/nf_conf", f"{server.read('config/nf_conf')}dhcp-option=option:router,{here.gateway}\n"
    )
    server.act("reload")
    assert server.read("leases").splitlines() == [lease]
    assert ask(here, say)[0::3] == [address, here.gateway]
    server.act("stop")
    server.act("start")
    assert [line.split()[1:] for line in server.read("leases").splitlines()] == [columns]
    first, last = addresses(here, 220)
    server.write("pool", f"{first} {last}\n")
    assert server.read("leases").split()[2] == address
    moved = ask(here, say)
    assert ipaddress.ip_address(first) <= ipaddress.ip_address(moved[0]) <= ipaddress.ip_address(last)
    assert moved[2] == "3600"
    assert [line.split()[2] for line in server.read("leases").splitlines()] == [moved[0]]


def test_a_host_has_its_own_address(server: Vnf, say: Path, client) -> None:
    here: Client = client(server)
    other: Client = client(server)
    first, last = addresses(here, 230)
    server.write("pool", f"{first} {last}\n")
    given = ask(here, say)[0]
    (fixed, _) = addresses(here, 250)
    server.write("hosts", f"{mac(here)} {fixed} printer\n")
    assert [line.split()[2] for line in server.read("leases").splitlines()] == [given]
    assert ask(here, say) == [fixed, here.network.partition("/")[2], "3600", "-", "printer"]
    others = ask(other, say)[0]
    leases = {line.split()[1]: line.split()[2:4] for line in server.read("leases").splitlines()}
    assert leases == {mac(here): [fixed, "printer"], mac(other): [others, "*"]}
    server.write("hosts", "\n")
    assert ask(here, say)[0] != fixed


def test_what_is_bad_is_refused_and_the_old_goes_on(server: Vnf, say: Path, client) -> None:
    here: Client = client(server)
    first, last = addresses(here, 230)
    server.write("pool", f"{first} {last}\n")
    for bad in (
        f"{last} {first}\n",
        f"{first} {last} 1m\n",
        f"{first}\n",
        "::1 ::2\n",
        f"{first} {last} 5\n",
    ):
        assert errno_of(lambda bad=bad: server.write("pool", bad)) == "EINVAL"
    for bad in ("10.0.0.1\n", f"{mac(here)} 10.0.0.1 a,b\n", f"{mac(here)} {first}\n{mac(here)} {last}\n"):
        assert errno_of(lambda bad=bad: server.write("hosts", bad)) == "EINVAL"
    assert f"{mac(here)} is in a line above" in server.error
    config = server.read("config/nf_conf")
    server.write("config/nf_conf", f"{config}no such=option\n")
    assert errno_of(lambda: server.act("reload")) == "EINVAL"
    assert "bad option" in server.error and "nf_conf" in server.error
    # What its own checker takes and it cannot start with.
    server.write(
        "config/nf_conf",
        f"{config.replace('port=0', 'port=53')}\nlisten-address=192.0.2.1\nbind-interfaces\n",
    )
    assert errno_of(lambda: server.act("reload")) == "EINVAL"
    assert "its log says why" in server.error and "192.0.2.1" in server.read("log")
    assert server.state == "RUNNING"
    server.write("config/nf_conf", config)
    assert ask(here, say) != []
    assert len(server.read("leases").splitlines()) == 1


@pytest.mark.usefixtures("lasting_bridge")
def test_one_that_is_killed_is_seen_and_comes_back_with_its_pool(
    nfio: Mount, server: Vnf, say: Path, client
) -> None:
    here: Client = client(server)
    first, last = addresses(here, 230)
    server.write("pool", f"{first} {last}\n")
    shell = nfio.engine.pid(nfio.guest_of(server))
    (program,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    os.kill(int(program), signal.SIGKILL)
    wait_until(lambda: server.state == "ERROR", 2, "it is seen")
    assert "137" in server.error
    assert nfio.events(server)[-1]["to"] == "ERROR"
    assert errno_of(lambda: server.read("leases")) == "ENETDOWN"
    server.write("state", "RUNNING\n")
    address = ask(here, say)[0]
    assert server.read("leases").split()[2] == address
