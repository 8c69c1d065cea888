"""What a guest's programs are given to answer in, and how much of an answer is taken."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from middleboxes import Guest, web
from middleboxes.host import guest as module
from nfio.errors import HypervisorError, HypervisorTimeout


def a_guest(pid: int | None = None) -> Guest:
    return Guest("t/a", "", pid, (), lambda command: None)  # type: ignore[arg-type, return-value]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A unix socket that listens, and where it is."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        yield str(tmp_path / "s"), listener


def test_waiting_for_ones_turn_is_part_of_the_time_for_an_answer(
    place: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.6)
    guest = a_guest(os.getpid())
    took: list[float] = []

    def ask() -> None:
        begun = time.monotonic()
        with pytest.raises(HypervisorTimeout), guest.turn():
            guest.exchange(place[0], b"?")
        took.append(time.monotonic() - begun)

    threads = [threading.Timer(delay_s, ask) for delay_s in (0, 0.2, 0.4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(took) == 3 and max(took) < 0.75


def test_an_answer_without_an_end_is_cut(
    place: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_LIMIT_BYTES", 100_000)

    def answer() -> None:
        with place[1].accept()[0] as asker, pytest.raises(OSError):
            while True:
                asker.sendall(bytes(1 << 16))

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(HypervisorError, match="answers without an end"):
        a_guest(os.getpid()).exchange(place[0], b"?")
    thread.join(10)


def test_a_question_that_nginx_answers_too_late_is_no_clients_either(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def answer(guest: Guest, port: int, path: str) -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise HypervisorTimeout("late")
        if asked == 3:
            asked = 2
            raise HypervisorError("nothing listens")
        counts = f"server accepts handled requests\n {asked + 5} {asked + 5} {asked + 5}\n"
        return f"Active connections: 1\n{counts}"

    monkeypatch.setattr(Guest, "http_get", answer)
    guest, read = a_guest(), web.status("requests")
    assert read(guest) == 5
    for error in (HypervisorTimeout, HypervisorError):
        with pytest.raises(error):
            read(guest)
    monkeypatch.setattr(
        Guest, "http_get", lambda *_: "Active connections: 1\nserver accepts handled requests\n 8 8 8\n"
    )
    assert read(guest) == 5
