"""Looks at the hypervisor: which one counts, and what it means."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.hypervisor_base import GuestStatus, Phase
from middleboxes import Guest
from nfio.errors import NetworkDown
from nfio.states import State
from nfio.store import Store
from nfio.vnf import Vnf, death_of, state_of, ticket


def status(phase: Phase, exit_code: int | None = None, reason: str = "", vnf_id: str = "id") -> GuestStatus:
    address = "192.0.2.1" if phase in (Phase.RUNNING, Phase.PAUSED) else ""
    return GuestStatus(vnf_id, "uuid", "name", "word", phase, None, address, exit_code, reason)


RUNNING, PAUSED, CONFIGURED = status(Phase.RUNNING), status(Phase.PAUSED), status(Phase.CONFIGURED)


def guest(seen: GuestStatus) -> Guest:
    def execute(command: list[str]) -> None:
        raise AssertionError(command)

    return Guest("plain/a", seen.address, None, (), execute)


@pytest.fixture
def vnf(tmp_path: Path) -> Iterator[Vnf]:
    store = Store(tmp_path / "root")
    store.acquire("/mnt")
    yield Vnf("plain", "a", store, store.create_instance("plain", "a", 0o755, (os.getuid(), os.getgid()), {}))
    store.release()


@pytest.mark.parametrize(
    ("seen", "intent", "state"),
    [
        (None, State.RUNNING, State.DEFINED),
        (RUNNING, State.DEFINED, State.RUNNING),
        (PAUSED, State.RUNNING, State.PAUSED),
        (CONFIGURED, State.RUNNING, State.CONFIGURED),
        (status(Phase.EXITED, 0), State.RUNNING, State.CONFIGURED),
        (status(Phase.EXITED, 143), State.RUNNING, State.CONFIGURED),
        (status(Phase.EXITED, 1), State.RUNNING, State.ERROR),
        (status(Phase.EXITED, 137), State.RUNNING, State.ERROR),
        (status(Phase.EXITED, 137), State.CONFIGURED, State.CONFIGURED),
        (status(Phase.EXITED, 1), State.CONFIGURED, State.CONFIGURED),
        (status(Phase.EXITED, 0, "out of memory"), State.CONFIGURED, State.ERROR),
        (status(Phase.BROKEN), State.CONFIGURED, State.ERROR),
    ],
)
def test_a_look_and_what_was_wanted_make_the_state(
    seen: GuestStatus | None, intent: State, state: State
) -> None:
    assert state_of(seen, intent) is state


def test_a_death_is_told_in_words_with_what_to_do() -> None:
    words = death_of(status(Phase.EXITED, 137, "out of memory"))
    assert words == (
        "it ended with exit code 137 (signal 9): out of memory; `echo RUNNING > state` starts it again"
    )
    assert "signal" not in death_of(status(Phase.EXITED, 1))


def test_of_two_looks_the_later_one_counts_in_whatever_order_they_arrive(vnf: Vnf) -> None:
    early, late = ticket(), ticket()
    assert early < late
    assert vnf.see(PAUSED, late, guest, own=False) == (State.DEFINED, State.PAUSED)
    assert vnf.see(RUNNING, early, guest, own=False) is None
    assert vnf.state is State.PAUSED and vnf.status is PAUSED


def test_whatever_the_order_of_arrival_the_last_look_taken_wins(vnf: Vnf) -> None:
    looks = [RUNNING, PAUSED, None]
    for order in itertools.permutations(range(3)):
        tickets = [ticket() for _ in looks]
        for index in order:
            vnf.see(looks[index], tickets[index], guest, own=False)
        assert vnf.state is State.DEFINED


def test_others_looks_are_dropped_while_an_operation_runs_and_not_forgotten(vnf: Vnf) -> None:
    vnf.begin("activate")
    assert vnf.see(PAUSED, ticket(), guest, own=False) is None and vnf.state is State.DEFINED
    assert vnf.see(RUNNING, ticket(), guest, own=True) == (State.DEFINED, State.RUNNING)
    assert vnf.end() is True
    vnf.begin("stop")
    assert vnf.end() is False


def test_a_look_that_shows_the_same_changes_nothing(vnf: Vnf) -> None:
    vnf.see(RUNNING, ticket(), guest, own=False)
    before = vnf.guest
    assert vnf.see(RUNNING, ticket(), guest, own=False) is None
    assert vnf.guest is before


def test_a_look_that_comes_after_the_removal_changes_nothing(vnf: Vnf) -> None:
    vnf.entity.set_state(State.UNDEFINED)
    for seen in (None, RUNNING):
        assert vnf.see(seen, ticket(), guest, own=False) is None
        assert vnf.removed


def test_only_what_runs_has_live_values(vnf: Vnf) -> None:
    for seen, runs in ((RUNNING, True), (PAUSED, False), (CONFIGURED, False), (RUNNING, True), (None, False)):
        vnf.see(seen, ticket(), guest, own=False)
        if runs:
            assert vnf.running_guest().address == "192.0.2.1"
        else:
            with pytest.raises(NetworkDown, match=f"it is {vnf.state.name}"):
                vnf.running_guest()


def test_what_is_saved_is_on_disk_at_once(vnf: Vnf) -> None:
    vnf.save(intent="RUNNING", error="words")
    assert vnf.store.read_record("plain", "a") == vnf.record
    assert vnf.intent is State.RUNNING


def test_a_value_that_was_truncated_reads_empty_until_it_is_written(vnf: Vnf) -> None:
    (vnf.path / "machine/ip").write_bytes(b"10.0.0.1\n")
    assert vnf.value("machine/ip") == b"10.0.0.1\n"
    vnf.emptied.add("machine/ip")
    assert vnf.value("machine/ip") == b""
