"""The journal of events."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from nfio import journal as journals
from nfio.journal import Journal


def append(journal: Journal, number: int, reason: str = "") -> None:
    journal.append(
        **{"type": "web", "instance": str(number), "from": "DEFINED", "to": "RUNNING", "reason": reason}
    )


def numbers(lines: bytes) -> list[int]:
    return [int(json.loads(line)["instance"]) for line in lines.splitlines()]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "events.jsonl")


def test_events_are_whole_lines_of_json_in_the_order_they_happened(journal: Journal) -> None:
    assert journal.read() == b""
    for number in range(5):
        append(journal, number, 'a "reason"\nof two lines, ä and \udcff')
    assert numbers(journal.read()) == [0, 1, 2, 3, 4]
    assert journal.read().isascii()
    event = json.loads(journal.read().splitlines()[0])
    assert event["time"].endswith("+00:00") and event["to"] == "RUNNING"


def test_events_outlive_the_process(journal: Journal, tmp_path: Path) -> None:
    append(journal, 1)
    later = Journal(tmp_path / "events.jsonl")
    append(later, 2)
    assert numbers(later.read()) == [1, 2]


def test_the_journal_is_bounded_and_loses_the_older_half_only(journal: Journal, tmp_path: Path) -> None:
    size = 64 << 10
    count = 2 * journals.LIMIT_BYTES // size
    for number in range(count):
        append(journal, number, "x" * size)
        assert (tmp_path / "events.jsonl").stat().st_size <= journals.LIMIT_BYTES
    kept = numbers(journal.read())
    assert kept == list(range(kept[0], count)) and len(kept) >= count // 4 - 1


def test_every_stream_gets_every_event_after_it_began(journal: Journal) -> None:
    append(journal, 0)
    got: dict[str, list[int]] = {"a": [], "b": []}
    begun = threading.Barrier(3)

    def follow(name: str) -> None:
        position = journal.position
        begun.wait()
        while len(got[name]) < 100:
            position, lines = journal.wait(position, lambda: False)
            got[name] += numbers(lines)

    threads = [threading.Thread(target=follow, args=(name,)) for name in got]
    for thread in threads:
        thread.start()
    begun.wait()
    for number in range(1, 101):
        append(journal, number)
    for thread in threads:
        thread.join(10)
    assert got == {"a": list(range(1, 101)), "b": list(range(1, 101))}


def test_a_stream_that_is_cancelled_gives_nothing(journal: Journal) -> None:
    append(journal, 0)
    position = journal.position
    assert journal.wait(position, lambda: True) == (position, b"")


def test_a_slow_stream_goes_on_with_what_is_still_there(journal: Journal) -> None:
    append(journal, 0)
    position = journal.position
    for number in range(3):
        append(journal, number)
    after, lines = journal.wait(position, lambda: False)
    assert numbers(lines) == [0, 1, 2] and after == journal.position
