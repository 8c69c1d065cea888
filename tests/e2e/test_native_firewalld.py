"""Native on a host whose firewalld rejects what it was not told of."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from engine import wait_until
from engine_view import EngineView
from firewalld_host import FirewalldHost
from inside import MountInside
from mount import Vnf, errno_of

pytestmark = pytest.mark.engines("Native")

#: the network is looked at every 5 s
MENDED_S = 12


class TellAddress(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def host(stocked: EngineView) -> Iterator[FirewalldHost]:
    with tempfile.TemporaryDirectory(prefix="nfio-") as place, FirewalldHost(Path(place)) as made:
        yield made


@pytest.fixture
def nfio(stocked: EngineView, host: FirewalldHost, directory: Path) -> Iterator[MountInside]:
    made = MountInside(directory, stocked, host)
    made.mount()
    yield made
    made.close()


@pytest.fixture
def server(host: FirewalldHost) -> Iterator[str]:
    """The address of a web server outside, on this host; it tells its clients theirs."""
    made = ThreadingHTTPServer((f"{host.network}.1", 0), TellAddress)
    thread = Thread(target=made.serve_forever)
    thread.start()
    yield f"{host.network}.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


def fetch(vnf: Vnf, address: str) -> str:
    failed = errno_of(lambda: vnf.write("command", f"wget -q -O - http://{address}/\n"))
    return failed or vnf.read("command")


def test_vnfs_reach_the_outside_and_each_other_and_firewalld_may_reload(
    nfio: MountInside, host: FirewalldHost, server: str
) -> None:
    www, other = nfio.make("web", "www"), nfio.make("web", "other")
    for vnf in (www, other):
        vnf.act("activate")
    bridge = nfio.engine.variables["NFIO_NATIVE_BRIDGE"]
    own_table = f"table ip nfio-{bridge} {{"

    def all_pass() -> bool:
        return fetch(www, server) == host.address and "nfio web" in fetch(www, other.address)

    assert all_pass()
    assert "nfio web" in host.run("curl", "-s", "-m", "5", f"http://{www.address}/")
    for order in ("--reload", "--complete-reload"):
        host.firewall(order)
        assert own_table in host.rules()
        wait_until(all_pass, MENDED_S, f"the way is open again after {order}")

    # What the page says of clients outside.
    route = (f"{www.address}/32", "via", host.address)
    subprocess.run(["ip", "route", "add", *route], check=True)
    try:
        outside = ("curl", "-s", "-m", "5", f"http://{www.address}/")
        assert subprocess.run(outside, check=False, capture_output=True).returncode != 0
        policy = ("--permanent", "--policy=to-nfio")
        host.firewall("--permanent", "--new-policy=to-nfio")
        host.firewall(*policy, "--add-ingress-zone=public")
        host.firewall(*policy, "--add-egress-zone=trusted")
        host.firewall(*policy, "--set-target=ACCEPT")
        host.firewall("--reload")
        wait_until(all_pass, MENDED_S, "the way is open again")
        assert b"nfio web" in subprocess.run(outside, check=True, capture_output=True).stdout
    finally:
        subprocess.run(["ip", "route", "del", *route], check=True)

    for vnf in (www, other):
        vnf.write("state", "DEFINED\n")
    assert bridge not in host.rules()


def test_a_bridge_that_the_administrator_gave_a_zone_stays_in_it(
    nfio: MountInside, host: FirewalldHost, server: str
) -> None:
    bridge = nfio.engine.variables["NFIO_NATIVE_BRIDGE"]
    host.firewall("--zone=internal", f"--add-interface={bridge}")
    vnf = nfio.make("web", "www")
    vnf.act("activate")
    assert host.firewall(f"--get-zone-of-interface={bridge}") == "internal"
    vnf.write("state", "DEFINED\n")
    assert host.firewall(f"--get-zone-of-interface={bridge}") == "internal"
