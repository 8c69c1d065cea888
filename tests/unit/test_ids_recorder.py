"""The ids type's rules, and what its recorder makes of packets and logged lines."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

import pytest

from middleboxes import Settings, ids
from middleboxes.ids import parse_rule, render
from middleboxes.inside import ids_recorder
from middleboxes.inside.ids_recorder import Alerts, Flows, bits, key_of, logged

RISKS = {11: ("HTTP Suspicious User-Agent", "high"), 12: ("HTTP Numeric IP Address", "low")}
CLIENT, SERVER = "192.0.2.1", "192.0.2.2"


def ipv4(source: str, port: int, destination: str, to: int, payload: int = 0, fragment: int = 0) -> bytes:
    """A TCP packet behind its Ethernet type."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 40 + payload, 0, fragment, 64, 6, 0) + addresses
    return b"\x08\x00" + header + struct.pack(">HH16x", port, to) + bytes(payload)


def frame(packet: bytes, protocol: str = "Unknown", risk: int = 0) -> tuple[bytes, int]:
    """What ndpiReader hands on of a packet, and its length."""
    verdict = struct.pack(">IHHQH16sI", 0x19680924, 0, 7, risk, 0, protocol.encode(), 0)
    whole = bytes(14) + packet + verdict
    return whole, len(whole)


@pytest.fixture
def alerts(tmp_path: Path) -> Alerts:
    return Alerts(tmp_path / "alerts")


@pytest.fixture
def flows(alerts: Alerts) -> Flows:
    return Flows(alerts, RISKS)


def listed(flows: Flows) -> list[dict[str, object]]:
    return [json.loads(line) for line in flows.listing()]


def summed(flows: Flows) -> dict[str, tuple[int, int, int]]:
    sums = [json.loads(line) for line in flows.protocols()]
    return {line["protocol"]: (line["flows"], line["packets"], line["bytes"]) for line in sums}


def test_a_rule_is_a_message_and_a_match() -> None:
    assert parse_rule('"telnet, or so"  tcp dport { 23, 2323 }') == (
        "telnet, or so",
        "tcp dport { 23, 2323 }",
    )
    ruleset = render(Settings({"rules": '# mine\n\n"lo" iifname "lo"'}))[ids.RULESET]
    assert '\t\tiifname "lo" limit rate 100/second' in ruleset and 'prefix "rule:lo" group 1' in ruleset


@pytest.mark.parametrize(
    "line",
    [
        "tcp dport 23",
        '"" tcp dport 23',
        '"x"',
        '"x" tcp dport 23; drop',
        '"x" # y',
        '"a\tb" y',
        f'"{"x" * 101}" y',
        f'"{"ä" * 51}" y',
        '"$x" y',
    ],
)
def test_anything_else_is_none(line: str) -> None:
    with pytest.raises(ValueError, match="a rule is"):
        parse_rule(line)


def test_a_rule_changes_no_packet() -> None:
    for match in ("ip ttl set 0", "notrack", 'iifname "set" meta mark set 1', "tproxy to :80"):
        with pytest.raises(ValueError, match="changes packets"):
            parse_rule(f'"x" {match}')
    assert parse_rule('"set" ip saddr @set iifname "set"')[0] == "set"


def test_both_directions_are_one_flow_whose_protocol_and_risks_come_later(
    flows: Flows, alerts: Alerts
) -> None:
    there, back = ipv4(CLIENT, 4000, SERVER, 80, 10), ipv4(SERVER, 80, CLIENT, 4000, 30)
    flows.packet(1.0, *frame(there))
    assert summed(flows) == {"Unknown": (1, 1, 50)}
    flows.packet(1.5, *frame(back, "HTTP", 1 << 11 | 1 << 12))
    flows.packet(2.0, *frame(there, "Unknown", 0xFFFF))  # a verdict on no flow
    assert summed(flows) == {"HTTP": (1, 3, 170)}
    (flow,) = listed(flows)
    assert (flow["source"], flow["source_port"], flow["port"]) == (CLIENT, 4000, 80)
    assert (flow["first"], flow["last"]) == ("1970-01-01T00:00:01.000+00:00", "1970-01-01T00:00:02.000+00:00")
    assert flow["risks"] == [name for name, _ in RISKS.values()]
    assert [json.loads(line)["severity"] for line in alerts.lines] == ["high", "low"]


def test_after_a_silence_the_same_ends_have_another_flow(flows: Flows) -> None:
    for when in (0.0, 30.0, 60.5):
        flows.packet(when, *frame(ipv4(CLIENT, 4000, SERVER, 80), "HTTP"))
    assert [flow["packets"] for flow in listed(flows)] == [2, 1]
    assert summed(flows) == {"HTTP": (2, 3, 120)}


def test_only_the_latest_flows_are_kept_and_the_sums_hold_all(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids_recorder, "FLOWS_KEPT", 2)
    for port in (1, 2, 1, 3):
        flows.packet(1.0, *frame(ipv4(CLIENT, port, SERVER, 80), "HTTP"))
    assert [flow["source_port"] for flow in listed(flows)] == [1, 3]
    assert summed(flows) == {"HTTP": (3, 4, 160)}


def test_the_ends_of_a_packet() -> None:
    addresses = socket.inet_aton(CLIENT), socket.inet_aton(SERVER)
    assert key_of(ipv4(CLIENT, 5, SERVER, 6)) == (6, addresses[0], 5, addresses[1], 6)
    assert key_of(ipv4(CLIENT, 5, SERVER, 6, fragment=0x2001)) == (6, addresses[0], 0, addresses[1], 0)
    six = b"\x86\xdd" + struct.pack(">IHBB16s16sHH", 6 << 28, 4, 17, 64, b"a" * 16, b"b" * 16, 5, 6)
    assert key_of(six) == (17, b"a" * 16, 5, b"b" * 16, 6)
    options = b"\x86\xdd" + struct.pack(">IHBB16s16sBB6x", 6 << 28, 8, 0, 64, b"a" * 16, b"b" * 16, 58, 0)
    assert key_of(options) == (58, b"a" * 16, 0, b"b" * 16, 0)
    assert key_of(six[:-1]) is None and key_of(b"\x08\x06" + bytes(28)) is None and key_of(b"") is None
    assert bits(0b1010) == [1, 3]


def test_the_same_is_raised_once_in_a_while(alerts: Alerts) -> None:
    one, other = {"source": CLIENT, "destination": SERVER}, {"source": CLIENT, "destination": CLIENT}
    for when in (0.0, 59.9, 60.0):
        alerts.add(when, "rule", "telnet", dict(one))
        alerts.add(when, "scan", "ports", dict(one))
        alerts.add(when, "scan", "ports", dict(other))  # a scan is its source's
    alerts.add(60.0, "rule", "telnet", dict(other))
    assert [json.loads(line)["kind"] for line in alerts.lines] == ["rule", "scan", "rule", "scan", "rule"]


def test_the_file_of_alerts_begins_anew_before_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids_recorder, "ALERTS_BYTES", 500)
    alerts = Alerts(tmp_path / "alerts")
    sizes = []
    for number in range(100):
        alerts.add(0.0, "rule", f"number {number}", {"source": CLIENT, "destination": SERVER})
        sizes.append((tmp_path / "alerts").stat().st_size)
    assert 1000 < max(sizes) < 1300 and len(alerts.lines) == 100
    assert (tmp_path / "alerts").read_text().splitlines()[-1] == alerts.lines[-1].strip()


def test_what_a_rule_logged_is_raised_by_its_prefix(
    alerts: Alerts, capsys: pytest.CaptureFixture[str]
) -> None:
    packet = {
        "src_ip": CLIENT,
        "dest_ip": SERVER,
        "ip.protocol": 6,
        "src_port": 9,
        "dest_port": 23,
        "oob.time.sec": 1,
    }
    for prefix in ("scan:ports", "mine"):
        logged(json.dumps({**packet, "oob.prefix": prefix}).encode(), alerts)
    logged(b"{", alerts)
    first, second = map(json.loads, alerts.lines)
    assert first == {
        "time": "1970-01-01T00:00:01.000+00:00", "kind": "scan", "raised_by": "ports", "source": CLIENT,
        "destination": SERVER, "transport": "tcp", "source_port": 9, "port": 23,
    }  # fmt: skip
    assert (second["kind"], second["raised_by"]) == ("rule", "mine")
    assert "ulogd wrote" in capsys.readouterr().err
