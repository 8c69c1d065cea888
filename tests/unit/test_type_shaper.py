"""The pure parts of the shaper: rates, the discipline it asks tc for, tc's statistics."""

from __future__ import annotations

import json
import subprocess

import pytest

from middleboxes import Guest, Settings, shaper
from nfio.errors import HypervisorError, NotSupported


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10mbit", 10_000_000),
        ("1.5Gbit", 1_500_000_000),
        ("64000", 64_000),
        ("2mbps", 16_000_000),
        ("1mibit", 1 << 20),
        ("8kbit", 8000),
    ],
)
def test_rates_are_tcs(text: str, bits: int) -> None:
    assert shaper.bits_per_s(text) == bits


@pytest.mark.parametrize(
    "text", ["fast", "10", "10 mbit", "-1mbit", "10mb", "0", "2tbit", "1mbit\nfilter add", "٣mbit"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        shaper.check_rate(text)


def rendered(rate: str = "", delay: str = "", loss: str = "") -> list[str]:
    (text,) = shaper.render(Settings({"rate": rate, "delay": delay, "loss": loss})).values()
    return text.splitlines()


def test_the_discipline_is_what_the_knobs_ask_for() -> None:
    assert rendered() == []
    tbf = "tbf rate 100000000bit burst 125000 limit 1375000"
    assert rendered("100mbit") == [f"qdisc replace dev eth0 root handle 1: {tbf}"]
    netem = "netem limit 10000 delay 20ms loss 1%"
    assert rendered("", "20ms", "1%") == [f"qdisc replace dev eth0 root handle 2: {netem}"]
    assert rendered("100mbit", "20ms", "1%") == [
        f"qdisc replace dev eth0 root handle 3: {netem}",
        f"qdisc replace dev eth0 parent 3:1 handle 30: {tbf}",
    ]


def test_a_slow_rate_has_room_for_whole_frames() -> None:
    (line,) = rendered("8kbit")
    assert line.endswith("burst 3028 limit 18168")


def test_the_highest_rate_has_a_queue_that_tc_takes() -> None:
    (line,) = rendered("1tbit")
    assert line.endswith("rate 1000000000000bit burst 1250000000 limit 4294967295")


def test_netem_is_tried_before_a_value_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(status: int):
        return lambda command, **_: subprocess.CompletedProcess(command, status, b"", b"Error: unknown.\n")

    monkeypatch.setattr(subprocess, "run", attempt(2))
    for check, value in ((shaper.check_delay, "20ms"), (shaper.check_loss, "0.5%")):
        check("")
        with pytest.raises(NotSupported, match=r"no netem .* Error: unknown"):
            check(value)
    monkeypatch.setattr(subprocess, "run", attempt(0))
    shaper.check_delay("1.5s")
    shaper.check_loss("100%")
    for bad in ("20", "soon", "1m"):
        with pytest.raises(ValueError):
            shaper.check_delay(bad)
    for bad in ("1", "101%", "-1%"):
        with pytest.raises(ValueError):
            shaper.check_loss(bad)


def listing(drops: int, backlog: int = 0) -> str:
    root = {"kind": "tbf", "handle": "1:", "root": True, "drops": drops, "backlog": backlog}
    return json.dumps([root, {"kind": "pfifo", "parent": "1:1", "drops": drops, "backlog": backlog}])


def test_the_root_alone_is_counted() -> None:
    assert shaper.root_statistics(listing(3, 1514)) == {"drops": 3, "backlog": 1514}
    assert shaper.root_statistics("[]") == {"drops": 0, "backlog": 0}
    for bad in ("x", "{}x", "[1]"):
        with pytest.raises(HypervisorError):
            shaper.root_statistics(bad)


def test_a_count_goes_on_when_another_discipline_takes_its_place() -> None:
    said: list[int] = []

    class Seen(Guest):
        def tool(self, *_command: str) -> str:
            return listing(said.pop(0))

    guest = Seen("shaper/a", "", None, (), lambda _: None)
    said[:] = [5, 7, 0, 2, 0]
    assert [shaper.drops(guest) for _ in range(5)] == [5, 7, 7, 9, 9]
