"""Native's own network, root file systems and console: what its VNFs reach, see and may fill."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from engine import wait_until
from engine_view import output_of
from mount import Mount, Vnf, errno_of
from native_view import NativeView

pytestmark = pytest.mark.engines("Native")

#: of a console log; at that size it is begun anew
CONSOLE_BYTES = 4 << 20
OUTSIDE = "10.214.77"
#: a web server that tells its clients their address
SERVER = """\
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
HTTPServer(("", 80), Handler).serve_forever()
"""


@pytest.fixture
def nfio(shared: Mount) -> Mount:
    """These tests leave nothing behind that could disturb the next one."""
    return shared


@pytest.fixture
def native(nfio: Mount) -> NativeView:
    assert isinstance(nfio.engine, NativeView)
    return nfio.engine


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def outside() -> Iterator[str]:
    """Address of a host behind this one, which has no route to any VNF; a web server listens there."""
    name = f"nfioout{os.getpid()}"
    with ExitStack() as undo:
        ip("netns", "add", name)
        undo.callback(ip, "netns", "del", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        undo.callback(ip, "link", "del", name)
        ip("addr", "add", f"{OUTSIDE}.1/24", "dev", name)
        ip("link", "set", name, "up")
        ip("-n", name, "addr", "add", f"{OUTSIDE}.2/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", SERVER], stderr=subprocess.DEVNULL
        )
        undo.callback(server.wait, 10)
        undo.callback(server.kill)
        command = ["ip", "netns", "exec", name, "ss", "-Hltn"]
        wait_until(lambda: ":80 " in output_of(*command), 10, "the server listens")
        yield f"{OUTSIDE}.2"


def run(vnf: Vnf, command: str) -> str:
    """Output of a command in a VNF, whether it succeeds or not."""
    failed = errno_of(lambda: vnf.write("command", f"{command}\n"))
    return vnf.read("command") if not failed else f"{failed}: {vnf.error}"


def fetch(vnf: Vnf, address: str) -> str:
    return run(vnf, f"wget -q -O - http://{address}/")


def running(nfio: Mount, kind: str, name: str) -> Vnf:
    vnf = nfio.make(kind, name)
    vnf.act("activate")
    return vnf


def test_a_vnf_reaches_a_host_outside_that_knows_no_way_back(nfio: Mount, outside: str) -> None:
    firewall = running(nfio, "firewall", "fw0")
    # The outside sees this host's address, whatever Docker's chains think of strangers.
    assert fetch(firewall, outside) == f"{OUTSIDE}.1"
    assert firewall.number("stats/tx_packets") >= 4


def test_vnfs_reach_each_other_while_the_host_drops_what_it_forwards(nfio: Mount) -> None:
    subprocess.run(["modprobe", "-q", "br_netfilter"], check=False)
    firewall, web = running(nfio, "firewall", "fw0"), running(nfio, "web", "www")
    before = web.number("stats/rx_packets")
    assert "nfio web" in fetch(firewall, web.address)
    assert web.number("stats/rx_packets") >= before + 4
    assert web.number("requests") == 1


def test_what_is_sent_to_all_while_vnfs_start_is_not_dropped(nfio: Mount, native: NativeView) -> None:
    running(nfio, "firewall", "fw0")
    subnet = ipaddress.ip_interface(
        json.loads((native.directory / "network.json").read_text())["gateway"]
    ).network
    started = threading.Event()

    def call_all() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for _ in range(100_000):
                caller.sendto(b"hello", (str(subnet.broadcast_address), 9))
                if started.wait(0.0001):
                    return

    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(call_all)
        try:
            vnfs = [running(nfio, "firewall", f"new{number}") for number in range(8)]
        finally:
            started.set()
        caller.result()
    assert all(vnf.number("stats/rx_packets") > 0 for vnf in vnfs)
    assert [vnf.number("stats/pkt_drops") for vnf in vnfs] == [0] * 8


def test_a_firewall_on_the_hosts_root_works_and_the_host_stays_as_it_is(
    nfio: Mount, native: NativeView
) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.write("machine/vm.image", "host\n")
    firewall.act("activate")
    assert (firewall.state, firewall.error) == ("RUNNING", "")
    assert "table inet filter" in firewall.read("rules")
    ping = ["ping", "-q", "-c", "10", "-i", "0.01", "-W", "1", firewall.address]
    assert ", 0% packet loss" in output_of(*ping)
    firewall.write(
        "config/nf_conf",
        "table inet filter { chain input { type filter hook input priority 0; icmp type echo-request drop; }; }\n",
    )
    firewall.act("reload")
    before = firewall.number("stats/pkt_drops")
    assert "100% packet loss" in output_of(*ping, check=False)
    assert firewall.number("stats/pkt_drops") == before + 10

    secret = Path("/root/.nfio-test-secret")
    secret.write_text("secret\n")
    try:
        for place in ("/root", "/home"):
            assert run(firewall, f"ls -A {place}") == ""
        for place in ("/etc/shadow", "/etc/shadow-", str(secret), str(nfio.root), str(native.directory)):
            assert "EIO" in run(firewall, f"cat {place} || ls {place}"), place
        for place in ("/etc/nfio-test", "/usr/bin/nfio-test", "/tmp/nfio-test", "/root/nfio-test"):
            run(firewall, f"echo x > {place}")
            assert not Path(place).exists(), place
        passwd = Path("/etc/passwd").read_text()
        run(firewall, "echo 'x' >> /etc/passwd; rm -f /usr/bin/nft; chmod 0 /etc/hostname")
        assert Path("/etc/passwd").read_text() == passwd
        assert os.access("/usr/sbin/nft", os.X_OK)
    finally:
        secret.unlink()
    firewall.act("destroy")
    firewall.act("activate")
    assert "EIO" in run(firewall, "cat /etc/nfio-test")


def test_a_console_that_is_written_to_without_end_does_not_fill_the_disk(
    nfio: Mount, native: NativeView
) -> None:
    firewall = running(nfio, "firewall", "fw0")
    # The first process's output is the console; what is written there by others comes out too.
    script = "yes 'a line of a console that is written to a lot' | head -c 12000000 > /proc/1/fd/1"
    firewall.write("command", f"{script}\n")
    logs = list(native.path(nfio.guest_of(firewall)).glob("console.log*"))
    assert logs
    assert sum(log.stat().st_size for log in logs) < 2 * CONSOLE_BYTES + (1 << 20)
    assert "a line of a console" in firewall.read("log")
    assert firewall.state == "RUNNING"
    firewall.act("stop")


def test_the_subnet_avoids_what_this_host_has_routes_to(directory: Path, stocked: NativeView) -> None:
    native = NativeView("nfiosub")
    native.begin(directory)
    native.stock()
    link = f"nfioroute{os.getpid()}"[:15]
    taken = ["10.201.4.0/24", "10.202.0.0/15"]
    ip("link", "add", link, "type", "bridge")
    try:
        ip("link", "set", link, "up")
        for route in taken:
            ip("route", "add", route, "dev", link)
        nfio = Mount(directory, native)
        nfio.mount()
        firewall = running(nfio, "firewall", "fw0")
        told = json.loads((native.directory / "network.json").read_text())
        assert told["gateway"].split(".")[0] == "10" and int(told["gateway"].split(".")[1]) >= 204
        assert firewall.address.split(".")[:2] == told["gateway"].split(".")[:2]
        nfio.close()
        wait_until(lambda: not native.leftovers(), 10, "nothing is left behind")
    finally:
        ip("link", "del", link)
