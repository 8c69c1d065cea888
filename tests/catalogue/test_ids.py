"""ids: what clients did is raised, listed and summed, and what dies is seen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import wait_until
from lab import Client, NewClient
from mount import Mount, Vnf, errno_of
from views import CONTAINERS

TYPES = ("ids",)
pytestmark = pytest.mark.engines(*CONTAINERS)

SCAN = """\
import socket, sys
for port in range(2000, 2200):
    try:
        socket.create_connection((sys.argv[1], port), 2).close()
    except ConnectionRefusedError:
        pass
"""

SERVER = """\
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"page\\n")
server = http.server.HTTPServer((sys.argv[1], 80), Page)
print("listens", flush=True)
server.serve_forever()
"""


@pytest.fixture
def ids(nfio: Mount) -> Vnf:
    ids = nfio.make("ids", "sensor")
    ids.act("activate")
    return ids


def lines(vnf: Vnf, file: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in vnf.read(file).splitlines()]


def raised(vnf: Vnf, **wanted: object) -> list[dict[str, object]]:
    """Alerts that hold all these values."""
    return [alert for alert in lines(vnf, "alerts") if wanted.items() <= alert.items()]


def flows(vnf: Vnf, client: Client, **wanted: object) -> list[dict[str, object]]:
    """Flows that a client began, and that hold all these values."""
    wanted["source"] = client.address
    return [flow for flow in lines(vnf, "flows") if wanted.items() <= flow.items()]


def through(vnf: Vnf, one: Client, other: Client) -> None:
    one.ip("route", "add", other.address, "via", vnf.address)
    other.ip("route", "add", one.address, "via", vnf.address)


def process(nfio: Mount, ids: Vnf, program: str) -> int:
    """A program of the VNF's, as this machine numbers it."""
    place = os.readlink(f"/proc/{nfio.engine.pid(nfio.guest_of(ids))}/ns/pid")
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (entry / "cmdline").read_text().split("\0")[0]
            if name == program and os.readlink(entry / "ns/pid") == place:
                return int(entry.name)
    raise AssertionError(f"no {program}")


@contextlib.contextmanager
def follower(path: Path) -> Iterator[list[str]]:
    """The lines that a reader of a stream has got so far."""
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.extend(reader.stdout))
        thread.start()
        opened = Path(f"/proc/{reader.pid}/fd/3")
        wait_until(opened.exists, what="the stream is open")
        try:
            yield got
        finally:
            reader.kill()
            thread.join(10)


def test_what_clients_did_is_raised_listed_and_summed(ids: Vnf, client: NewClient) -> None:
    one, server = client(ids), client(ids)
    through(ids, one, server)
    web = server.begin(sys.executable, "-c", SERVER, server.address)
    assert web.stdout is not None and web.stdout.readline() == "listens\n"
    one.run(sys.executable, "-c", SCAN, ids.address)
    assert one.pings(server.address, 20)
    page = one.run("curl", "-s", "-A", "<?php echo 1", f"http://{server.address}/")
    assert page == "page\n"

    wait_until(
        lambda: raised(ids, kind="risk", raised_by="HTTP Suspicious User-Agent"), 5, "the risk is raised"
    )
    (risk,) = raised(ids, kind="risk", raised_by="HTTP Suspicious User-Agent")
    assert (risk["source"], risk["destination"], risk["port"]) == (one.address, server.address, 80)
    assert raised(ids, kind="risk", raised_by="HTTP Numeric IP Address", severity="low", source=one.address)
    (scan,) = raised(ids, kind="scan")
    assert (scan["source"], scan["destination"]) == (one.address, ids.address)
    # Each of them once, and nobody else's.
    assert {alert["source"] for alert in lines(ids, "alerts")} == {one.address}

    # A port that refuses: a SYN and a RST. What is routed through is seen once, not twice.
    probes = {
        flow["port"]: flow["packets"] for flow in flows(ids, one, destination=ids.address, transport="tcp")
    }
    assert probes == dict.fromkeys(range(2000, 2200), 2)
    (echo,) = flows(ids, one, protocol="ICMP")
    assert (echo["destination"], echo["packets"], echo["bytes"]) == (server.address, 40, 40 * 84)
    (http,) = flows(ids, one, port=80)
    assert http["protocol"] == "HTTP" and "HTTP Suspicious User-Agent" in http["risks"]
    sums = {line.pop("protocol"): line for line in lines(ids, "protocols")}
    assert sums["HTTP"] == {"flows": 1, "packets": http["packets"], "bytes": http["bytes"]}
    assert sums["ICMP"] == {"flows": 1, "packets": 40, "bytes": 40 * 84}
    assert sums["Unknown"]["flows"] == 200


def test_a_rule_raises_an_alert_that_a_reader_of_the_stream_gets(ids: Vnf, client: NewClient) -> None:
    one = client(ids)
    ids.write("rules", '# comment\n"telnet" tcp dport { 23, 2323 }\n')
    with follower(ids.path / "pipes/alerts") as got:
        connect = "import socket, sys; socket.socket().connect_ex((sys.argv[1], 2323))"
        one.run(sys.executable, "-c", connect, ids.address)
        (line,) = wait_until(lambda: got, 5, "the reader gets the alert")
    alert = json.loads(line)
    assert (alert["kind"], alert["raised_by"], alert["source"]) == ("rule", "telnet", one.address)
    assert lines(ids, "alerts") == [alert]
    # What is no rule, and what nft does not take, changes nothing.
    before = ids.read("rules")
    for bad, why in (
        ("tcp dport 23\n", "a rule is"),
        ('"x" tcp dprot 23\n', "syntax error"),
        ('"x" ip ttl 9 drop\n', "terminal"),
    ):
        assert errno_of(lambda bad=bad: ids.write("rules", bad)) == "EINVAL"
        assert why in ids.error
    assert ids.read("rules") == before
    ids.write("config/nf_conf", "nonsense\n")
    assert errno_of(lambda: ids.act("reload")) == "EINVAL" and "nonsense" in ids.error
    two = client(ids)
    two.run(sys.executable, "-c", connect, ids.address)
    wait_until(lambda: raised(ids, raised_by="telnet", source=two.address), 5, "the old rule holds")


def test_a_program_that_dies_is_seen(nfio: Mount, ids: Vnf) -> None:
    for program in ("ndpiReader", "ulogd"):
        os.kill(process(nfio, ids, program), signal.SIGKILL)
        wait_until(lambda: ids.state == "ERROR", 5, "the death is seen")
        assert "exit code 1" in ids.error and f"{program} has ended" in ids.read("log")
        assert errno_of(lambda: ids.read("flows")) == "ENETDOWN"
        assert nfio.events(ids)[-1]["to"] == "ERROR"
        ids.write("state", "RUNNING\n")
        assert ids.state == "RUNNING" and lines(ids, "alerts") == []


def test_one_that_does_not_answer_holds_up_nobody_else(nfio: Mount, ids: Vnf) -> None:
    recorder = nfio.engine.pid(nfio.guest_of(ids))
    os.kill(recorder, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert errno_of(lambda: ids.read("flows")) == "ETIMEDOUT"
        assert time.monotonic() - began < 4
        assert ids.state == "RUNNING" and ids.number("stats/rx_bytes") >= 0
    finally:
        os.kill(recorder, signal.SIGCONT)
    wait_until(lambda: ids.read("flows") is not None)
