"""The first program of an ids: it runs ndpiReader and ulogd, and keeps what they have seen.

ndpiReader captures without a break: as Wireshark's helper (``--capture``) it hands every packet on
with its verdict behind it. ulogd hands on, as JSON, every packet that an nft rule logs. It ends,
with exit status 1, as soon as one of them does.

On its socket it answers the words ``alerts``, ``flows`` and ``protocols`` with JSON lines.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

PLACE = Path("/var/lib/nfio-ids")  # not in /run, which is empty in an image
SOCKET = PLACE / "socket"
ALERTS = PLACE / "alerts"
PACKETS = PLACE / "packets"
LOGGED = PLACE / "logged"
LOG_GROUP = 1

#: flows and alerts that are kept: the latest ones
FLOWS_KEPT = 4096
ALERTS_KEPT = 2000
#: the file of alerts begins anew at this size, when nobody can be behind in reading it; at twice
#: this size in any case
ALERTS_BYTES = 256 << 10
ALERTS_PAUSE_S = 1.0
#: ndpiReader forgets a flow that is silent for so long (MAX_IDLE_TIME); then it is another one
IDLE_S = 30.0
#: the same between the same two is raised once in this time
QUIET_S = 60.0
RECENT_KEPT = 10_000
START_S = 5.0
ASKER_S = 1.0
PIPE_BYTES = 1 << 20

_RECORD = struct.Struct("<IIII")  # seconds, microseconds, bytes that follow, bytes it had
_COOKED = 16  # Linux's cooked header (LINKTYPE_LINUX_SLL); its last two bytes are the Ethernet type
_VERDICT = struct.Struct(">IHHQH16sI")  # struct ndpi_packet_trailer of ndpiReader.c, and a checksum
_VERDICT_MAGIC = 0x19680924
_IPV4 = struct.Struct(">6xH1xB2x4s4s")  # fragment, protocol, source, destination
_IPV6 = struct.Struct(">6xB1x16s16s")
_HEADER = struct.Struct(">BB")
_FURTHER_HEADERS = (0, 43, 60)  # of IPv6: hop-by-hop options, routing, destination options
_PORTS = struct.Struct(">HH")
_TRANSPORTS = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    47: "gre",
    50: "esp",
    58: "icmpv6",
    89: "ospf",
    132: "sctp",
}
_WITH_PORTS = (6, 17, 132)

Key = tuple[int, bytes, int, bytes, int]


def stamp(seconds: float) -> str:
    """A time as ISO 8601 writes it, in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@dataclass(slots=True)
class Flow:
    """Packets of both directions between two ends, from the end that was the first to send."""

    key: Key
    first: float
    last: float
    protocol: str = "Unknown"
    packets: int = 0
    bytes: int = 0
    risk: int = 0

    def ends(self) -> dict[str, str | int]:
        """Both ends; ports only where the transport has them."""
        transport, source, source_port, destination, port = self.key
        ends: dict[str, str | int] = {
            "source": str(ipaddress.ip_address(source)),
            "destination": str(ipaddress.ip_address(destination)),
            "transport": _TRANSPORTS.get(transport, str(transport)),
        }
        return ends | ({"source_port": source_port, "port": port} if transport in _WITH_PORTS else {})


class Alerts:
    """What was raised: the latest in memory, and a file that others follow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._recent: OrderedDict[tuple[object, ...], float] = OrderedDict()
        self._written = 0.0
        self.lines: deque[str] = deque(maxlen=ALERTS_KEPT)
        self._begin()

    def _begin(self) -> None:
        # The old file is there until the new one has its place: they are told apart by inode.
        new = self._path.with_suffix(".new")
        new.write_text("")
        new.rename(self._path)

    def add(self, when: float, kind: str, raised_by: str, ends: dict[str, str | int], **more: str) -> None:
        """Raise an alert, unless the same one was raised within QUIET_S."""
        key = (kind, raised_by, ends["source"], None if kind == "scan" else ends["destination"])
        if abs(when - self._recent.get(key, -QUIET_S)) < QUIET_S:  # a clock that was set back hides nothing
            return
        self._recent[key] = when
        self._recent.move_to_end(key)
        if len(self._recent) > RECENT_KEPT:
            self._recent.popitem(last=False)
        line = json.dumps({"time": stamp(when), "kind": kind, "raised_by": raised_by, **more, **ends}) + "\n"
        self.lines.append(line)
        size, now = self._path.stat().st_size, time.monotonic()
        if size > 2 * ALERTS_BYTES or (size > ALERTS_BYTES and now - self._written > ALERTS_PAUSE_S):
            self._begin()
        with self._path.open("a") as file:
            file.write(line)
        self._written = now


class Flows:
    """Flows by their ends, and sums by protocol, from what ndpiReader hands on.

    Args:
        risks: names and severities of nDPI's risks, by number.
    """

    def __init__(self, alerts: Alerts, risks: dict[int, tuple[str, str]]) -> None:
        self._alerts = alerts
        self._risks = risks
        self._flows: OrderedDict[tuple[object, ...], Flow] = OrderedDict()
        self._protocols: dict[str, list[int]] = {}  # flows, packets, bytes

    def packet(self, when: float, frame: bytes, length: int) -> None:
        """Count a packet.

        Args:
            frame: a cooked header, the packet as far as it was captured, and the verdict.
            length: what the frame has been, with all that.
        """
        _, _, _, risk, _, name, _ = verdict = _VERDICT.unpack_from(frame, len(frame) - _VERDICT.size)
        key = key_of(frame[_COOKED - 2 : -_VERDICT.size])
        if key is None or verdict[0] != _VERDICT_MAGIC:
            return
        flow = self._flow(key, when)
        # Where it gives no name, it has looked at no flow, and the risk is not one.
        protocol = name.rstrip(b"\0").decode(errors="replace")
        known = protocol not in ("Unknown", "")
        old = self._sums(flow.protocol)
        if known and protocol != flow.protocol:
            flow.protocol = protocol
            new = self._sums(protocol)
            for place, amount in enumerate((1, flow.packets, flow.bytes)):
                old[place] -= amount
                new[place] += amount
            old = new
        size = length - _COOKED - _VERDICT.size
        flow.last = when
        flow.packets += 1
        flow.bytes += size
        old[1] += 1
        old[2] += size
        if known and risk & ~flow.risk:
            for number in bits(risk & ~flow.risk):
                named, severity = self._risks.get(number, (f"risk {number}", "unknown"))
                self._alerts.add(when, "risk", named, flow.ends(), severity=severity, protocol=flow.protocol)
            flow.risk |= risk

    def _sums(self, protocol: str) -> list[int]:
        return self._protocols.setdefault(protocol, [0, 0, 0])

    def _flow(self, key: Key, when: float) -> Flow:
        transport, source, source_port, destination, port = key
        back = (transport, destination, port, source, source_port)
        flow = self._flows.get(key) or self._flows.get(back)
        if flow is not None and when - flow.last <= IDLE_S:
            self._flows.move_to_end(flow.key)
            return flow
        if flow is not None:  # it is over: another one has its ends now
            del self._flows[flow.key]
            self._flows[(*flow.key, flow.first)] = flow
        flow = self._flows[key] = Flow(key, when, when)
        self._sums(flow.protocol)[0] += 1
        if len(self._flows) > FLOWS_KEPT:
            self._flows.popitem(last=False)
        return flow

    def listing(self) -> Iterator[str]:
        """The flows that are kept, the one that spoke last at the end."""
        for flow in self._flows.values():
            risks = [self._risks.get(number, (f"risk {number}", ""))[0] for number in bits(flow.risk)]
            times = {"first": stamp(flow.first), "last": stamp(flow.last)}
            counts = {"protocol": flow.protocol, "packets": flow.packets, "bytes": flow.bytes}
            yield json.dumps({**times, **flow.ends(), **counts, "risks": risks}) + "\n"

    def protocols(self) -> Iterator[str]:
        """Sums since it was started, by protocol."""
        for name, (flows, packets, size) in sorted(self._protocols.items()):
            if flows:
                counts = {"protocol": name, "flows": flows, "packets": packets, "bytes": size}
                yield json.dumps(counts) + "\n"


def bits(number: int) -> list[int]:
    """Which bits are set, from the lowest."""
    return [place for place in range(number.bit_length()) if number >> place & 1]


def key_of(packet: bytes) -> Key | None:
    """The ends of an IP packet behind its Ethernet type; None if it is none, or cut off."""
    with suppress(struct.error):
        (kind,) = struct.unpack_from(">H", packet)
        if kind == 0x0800:
            fragment, transport, source, destination = _IPV4.unpack_from(packet, 2)
            behind = 2 + (packet[2] & 15) * 4
            later = fragment & 0x1FFF
        elif kind == 0x86DD:
            transport, source, destination = _IPV6.unpack_from(packet, 2)
            behind, later = 42, 0
            while transport in _FURTHER_HEADERS:
                transport, eights = _HEADER.unpack_from(packet, behind)
                behind += 8 + 8 * eights
        else:
            return None
        if transport in _WITH_PORTS and not later:
            source_port, port = _PORTS.unpack_from(packet, behind)
            return transport, source, source_port, destination, port
        return transport, source, 0, destination, 0
    return None


def logged(line: bytes, alerts: Alerts) -> None:
    """Raise what an nft rule has logged: a line of ulogd's, whose prefix is KIND:MESSAGE."""
    try:
        packet = json.loads(line)
    except ValueError:
        print(f"ids: ulogd wrote {line[:200]!r}", file=sys.stderr, flush=True)
        return
    kind, colon, message = str(packet.get("oob.prefix") or "rule:log").partition(":")
    if not colon:
        kind, message = "rule", kind
    number = packet.get("ip.protocol", 0)
    ends: dict[str, str | int] = {
        "source": packet.get("src_ip", ""),
        "destination": packet.get("dest_ip", ""),
        "transport": _TRANSPORTS.get(number, str(number)),
    }
    for name, port in (("source_port", "src_port"), ("port", "dest_port")):
        if port in packet:
            ends[name] = packet[port]
    seconds = packet.get("oob.time.sec")
    when = seconds + packet.get("oob.time.usec", 0) / 1e6 if seconds else time.time()
    alerts.add(when, kind, message, ends)


def known_risks() -> dict[int, tuple[str, str]]:
    """Names and severities of nDPI's risks by number, as ndpiReader lists them."""
    page = subprocess.run(["ndpiReader", "-h"], capture_output=True, text=True, check=False).stdout
    lines = re.findall(r"^ *(\d+) (.+?) {2,}(\w+) +\d+ +\d+ +\d+ *$", page, re.MULTILINE)
    return {int(number): (name, severity.lower()) for number, name, severity in lines}


def capture_filter() -> str:
    """All IP that comes in, and what the VNF itself sends: what it forwards is seen once."""
    found = subprocess.run(["ip", "-o", "address", "show"], capture_output=True, text=True, check=True)
    own = re.findall(r"inet6? ([0-9a-f.:]+)/", found.stdout)
    own = [address for address in own if not ipaddress.ip_address(address).is_loopback]
    sent = "".join(f" or src host {address}" for address in own)
    return f"(ip or ip6) and not net 127.0.0.0/8 and not host ::1 and (inbound{sent})"


def captures() -> bool:
    """Whether a packet socket takes packets (packet(7): running), and somebody the log group's."""
    sockets = Path("/proc/net/packet").read_text().splitlines()[1:]
    groups = Path("/proc/net/netfilter/nfnetlink_log").read_text().splitlines()
    return any(line.split()[5] == "1" for line in sockets) and str(LOG_GROUP) in [
        line.split()[0] for line in groups
    ]


class Recorder:
    """The two programs, the pipes they write to, and the socket that nfio asks."""

    def __init__(self) -> None:
        self.alerts = Alerts(ALERTS)
        self.flows = Flows(self.alerts, known_risks())
        self._selector = selectors.DefaultSelector()
        self._packets = b""
        self._header = 24  # bytes of the capture's own header that are still to come
        self._lines = b""
        self._programs: set[int] = set()

    def begin(self) -> None:
        """Start both programs. It listens to questions once both see packets."""
        capture = ("ndpiReader", "-i", "any", "-f", capture_filter(), "--capture", "--fifo", str(PACKETS))
        self._run(PACKETS, capture, self._take_packets)
        self._run(LOGGED, ("ulogd", "-c", "/etc/nfio/nfio-ulogd.conf"), self._take_lines)
        signal.signal(signal.SIGCHLD, self._reap)
        deadline = time.monotonic() + START_S
        while not captures():
            self.look(0.01)
            if time.monotonic() > deadline:
                sys.exit(f"ids: ndpiReader or ulogd does not capture after {START_S:.0f} s")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(SOCKET))
        listener.listen(16)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._answer(listener))

    def _run(self, output: Path, command: tuple[str, ...], take: Callable[[bytes], None]) -> None:
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        output.symlink_to(f"/proc/self/fd/{writing}")
        # Neither says anything there but ulogd what goes wrong.
        program = subprocess.Popen(command, stdout=sys.stderr, pass_fds=(writing,))
        os.close(writing)
        self._programs.add(program.pid)

        def come() -> None:
            data = os.read(reading, PIPE_BYTES)
            if not data:
                sys.exit(f"ids: {command[0]} has ended, with exit status {program.wait()}")
            take(data)

        self._selector.register(reading, selectors.EVENT_READ, come)

    def _reap(self, *_signal: object) -> None:
        # As the first program it inherits what others leave behind.
        looking = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (ended := os.waitid(os.P_ALL, 0, looking)) and ended.si_pid not in self._programs:
            os.waitpid(ended.si_pid, 0)

    def look(self, timeout_s: float | None = None) -> None:
        """Take in what has come; wait for it if nothing has."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def _take_packets(self, data: bytes) -> None:
        data = self._packets + data
        here = 0
        if self._header and len(data) >= self._header:
            here, self._header = self._header, 0
        while not self._header and len(data) - here >= _RECORD.size:
            seconds, microseconds, size, length = _RECORD.unpack_from(data, here)
            behind = here + _RECORD.size + size
            if behind > len(data):
                break
            self.flows.packet(seconds + microseconds / 1e6, data[here + _RECORD.size : behind], length)
            here = behind
        self._packets = data[here:]

    def _take_lines(self, data: bytes) -> None:
        *lines, self._lines = (self._lines + data).split(b"\n")
        for line in lines:
            logged(line, self.alerts)

    def _answer(self, listener: socket.socket) -> None:
        asker, _ = listener.accept()
        with asker, suppress(OSError):
            asker.settimeout(ASKER_S)
            word = asker.recv(64).strip()
            answers = {b"flows": self.flows.listing, b"protocols": self.flows.protocols}
            lines = answers[word]() if word in answers else self.alerts.lines
            asker.sendall("".join(lines).encode())


def main() -> NoReturn:
    """Run until something ends."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    recorder = Recorder()
    recorder.begin()
    while True:
        recorder.look()


if __name__ == "__main__":
    main()
