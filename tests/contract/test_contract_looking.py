"""Commands, console, counters, lists and events: what a driver tells of its guests."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from engine import wait_until
from guests import HOST, Guests, Life
from subject import CHATTER
from subjects import Subject

from hypervisor.hypervisor_base import GuestEvent, HypervisorBase, Phase
from hypervisor.hypervisor_return_codes import SUCCESS
from nfio.errors import HypervisorError, HypervisorTimeout, NfioError

# -- commands -------------------------------------------------------------------------------


def test_a_command_gives_its_exit_code_and_all_it_wrote(driver: HypervisorBase, shared: str) -> None:
    vnf_id = shared
    for script, code, output in (
        ("true", 0, b""),
        ("echo out; exit 3", 3, b"out\n"),
        ("echo err >&2; exit 255", 255, b"err\n"),
        ("printf 'no newline'", 0, b"no newline"),
        (r"printf '\377\000\n'", 0, b"\xff\x00\n"),
    ):
        result = driver.execute_in_guest(HOST, vnf_id, ["sh", "-c", script])
        assert (result.exit_code, result.output) == (code, output), script


def test_a_command_gives_stdout_and_stderr_together(driver: HypervisorBase, shared: str) -> None:
    script = "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo three"
    result = driver.execute_in_guest(HOST, shared, ["sh", "-c", script])
    assert result.output == b"one\ntwo\nthree\n"


def test_a_command_is_a_list_of_arguments_and_no_shell_line(driver: HypervisorBase, shared: str) -> None:
    words = "a b; exit 7 $(id) 'c' \"d\" ✓ *"
    result = driver.execute_in_guest(HOST, shared, ["echo", words])
    assert (result.exit_code, result.output.decode()) == (0, f"{words}\n")


def test_a_command_gives_a_mebibyte_of_output_whole(driver: HypervisorBase, shared: str) -> None:
    script = "head -c 1048576 /dev/zero | tr '\\0' x"
    result = driver.execute_in_guest(HOST, shared, ["sh", "-c", script])
    assert result.exit_code == 0
    assert result.output == b"x" * (1 << 20)


def test_a_program_that_is_not_there_fails_in_words(driver: HypervisorBase, shared: str) -> None:
    vnf_id = shared
    try:
        result = driver.execute_in_guest(HOST, vnf_id, ["there-is-none"])
    except HypervisorError as error:
        words = error.reason
    else:
        assert result.exit_code in (126, 127)
        words = result.output.decode()
    assert "there-is-none" in words


def test_a_command_needs_a_guest_that_runs(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.deploy()
    with pytest.raises(HypervisorError):
        driver.execute_in_guest(HOST, vnf_id, ["true"])


def processes_with(mark: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if mark in " ".join(process.info["cmdline"] or ())
    ]


@pytest.fixture(scope="module")
def impatient(subject: Subject) -> HypervisorBase:
    """A driver that waits for two seconds only."""
    return subject.driver(timeout_s=2.0)


@pytest.mark.parametrize("command", [["sleep", "98761"], ["sh", "-c", "sleep 98762; echo never"]], ids=str)
def test_a_command_that_never_ends_is_given_up_and_ended(
    impatient: HypervisorBase, shared: str, command: list[str]
) -> None:
    vnf_id = shared
    begun = time.monotonic()
    with pytest.raises(HypervisorTimeout):
        impatient.execute_in_guest(HOST, vnf_id, command)
    assert 1.9 < time.monotonic() - begun < 5
    mark = "98761" if command[0] == "sleep" else "98762"
    wait_until(lambda: not processes_with(f"sleep {mark}"), what="the command's processes are gone")
    assert impatient.inspect(HOST, vnf_id).phase is Phase.RUNNING
    assert impatient.execute_in_guest(HOST, vnf_id, ["echo", "still here"]).output == b"still here\n"


def test_a_command_that_goes_on_writing_is_given_up_too(impatient: HypervisorBase, shared: str) -> None:
    vnf_id = shared
    with pytest.raises(HypervisorTimeout):
        impatient.execute_in_guest(HOST, vnf_id, ["sh", "-c", "while :; do echo 98763; sleep 0.1; done"])
    wait_until(lambda: not processes_with("echo 98763"), what="the command's processes are gone")


# -- console --------------------------------------------------------------------------------


def test_the_console_log_is_the_last_part_of_what_was_written(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.run("chatty")
    last = f"12000{CHATTER}\n".encode()
    for limit in (1000, 100_000):
        log = wait_until(
            lambda limit=limit: (text := driver.console_log(HOST, vnf_id, limit)).endswith(last) and text
        )
        assert len(log) <= limit
        assert log.count(b"\n") >= limit // len(last) - 1


def test_the_console_log_outlives_the_guests_end_but_not_the_guest(
    driver: HypervisorBase, life: Life
) -> None:
    assert (life.made.log, life.started.log, life.stopped.log) == (b"", b"started\n", b"started\n")
    with pytest.raises(NfioError):
        driver.console_log(HOST, life.vnf_id, 1000)


# -- counters -------------------------------------------------------------------------------


def interface(pid: int) -> tuple[int, int, int, int]:
    """rx_bytes, tx_bytes, rx_packets, tx_packets of all but lo, as the guest's kernel counts them."""
    rows = [line.split(":") for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]]
    columns = [values.split() for name, values in rows if name.strip() != "lo"]
    return tuple(sum(int(row[i]) for row in columns) for i in (0, 8, 1, 9))  # type: ignore[return-value]


@pytest.mark.containers
def test_counters_are_those_of_the_guest_itself(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.run()
    status = driver.inspect(HOST, vnf_id)
    done = subprocess.run(
        ["ping", "-q", "-c", "20", "-i", "0.01", "-s", "700", status.address],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0

    def agree() -> bool:
        links, _ = driver.counters(HOST, vnf_id)
        seen = (links.rx_bytes, links.tx_bytes, links.rx_packets, links.tx_packets)
        return seen == interface(status.pid or 0)

    # The bridge's neighbour discovery may come between the two looks.
    wait_until(agree, what="both views agree")
    links, usage = driver.counters(HOST, vnf_id)
    assert links.rx_packets >= 20 and links.rx_bytes >= 20 * 728
    assert usage.cpu_seconds > 0 and usage.memory_bytes > 0


@pytest.mark.machines
def test_counters_of_a_machine_grow_as_it_counts_itself(driver: HypervisorBase, shared: str) -> None:
    def own() -> list[int]:
        text = driver.execute_in_guest(HOST, shared, ["cat", "/proc/net/dev"]).output.decode()
        columns = next(line.split(":")[1].split() for line in text.splitlines() if "eth0:" in line)
        return [int(columns[i]) for i in (0, 8, 1, 9)]

    def seen() -> list[int]:
        links, _ = driver.counters(HOST, shared)
        return [links.rx_bytes, links.tx_bytes, links.rx_packets, links.tx_packets]

    # The tap also carried what came before the machine's kernel was there to count it.
    before = [ours - theirs for ours, theirs in zip(seen(), own(), strict=True)]
    address = driver.inspect(HOST, shared).address
    ping = ["ping", "-q", "-c", "20", "-i", "0.05", "-s", "700", address]
    assert subprocess.run(ping, capture_output=True, check=False).returncode == 0
    wait_until(lambda: [a - b for a, b in zip(seen(), own(), strict=True)] == before, what="both agree")
    assert seen()[2] >= 20


def test_usage_grows_with_what_a_guest_does(driver: HypervisorBase, shared: str) -> None:
    vnf_id = shared
    _, before = driver.counters(HOST, vnf_id)
    driver.execute_in_guest(HOST, vnf_id, ["sh", "-c", "i=0; while test $i -lt 30000; do i=$((i+1)); done"])
    _, after = driver.counters(HOST, vnf_id)
    assert 0.01 < after.cpu_seconds - before.cpu_seconds < 10


# -- lists ----------------------------------------------------------------------------------


def test_a_list_has_the_guests_of_its_root_whatever_they_do_and_no_others(
    driver: HypervisorBase, subject: Subject, guests: Guests, shared_guests: Guests, shared: str
) -> None:
    made = guests.deploy()
    with ThreadPoolExecutor(2) as pool:
        paused, ended = pool.map(lambda _: guests.run(), range(2))
    driver.pause(HOST, paused)
    subject.kill(ended)
    wait_until(lambda: driver.inspect(HOST, ended).phase is Phase.EXITED, what="its end is seen")
    expected = {made: Phase.CONFIGURED, paused: Phase.PAUSED, ended: Phase.EXITED}
    for root, phases in ((guests, expected), (shared_guests, {shared: Phase.RUNNING})):
        found = {guest.vnf_id: guest for guest in driver.list_guests(HOST, root.root)}
        assert {vnf_id: guest.phase for vnf_id, guest in found.items()} == phases
        assert all(guest == driver.inspect(HOST, vnf_id) for vnf_id, guest in found.items())
    assert driver.list_guests(HOST, "no such root") == []


def test_the_exit_code_of_a_guest_that_ended_by_itself(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    vnf_id = guests.run("ending")
    driver.execute_in_guest(HOST, vnf_id, ["touch", "/end"])
    status = wait_until(lambda: (s := driver.inspect(HOST, vnf_id)).phase is Phase.EXITED and s)
    assert (status.word, status.exit_code, status.reason) == (subject.ended, 4, "")


# -- events ---------------------------------------------------------------------------------


class Listener:
    """Follows the events of one root in a thread."""

    def __init__(self, driver: HypervisorBase, root: str) -> None:
        self._driver = driver
        self._root = root
        self._ending = threading.Event()
        self.items: queue.SimpleQueue[GuestEvent | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        events = self._driver.events(HOST, self._root)
        for event in events:
            self.items.put(event)
            if self._ending.is_set():
                break
        events.close()  # type: ignore[attr-defined]  # it is a generator

    def next_of(self, vnf_id: str) -> GuestEvent:
        """The next event, which must be of that guest; those that follow at once are taken too."""
        event = self.items.get(timeout=5)
        assert event is not None and event.vnf_id == vnf_id
        return event

    def drain(self, vnf_id: str) -> None:
        deadline = time.monotonic() + 0.3
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self.items.get(timeout=left)
            except queue.Empty:
                return
            assert event is not None and event.vnf_id == vnf_id

    def end_with_next(self) -> None:
        self._ending.set()


@contextmanager
def listening(driver: HypervisorBase, guests: Guests) -> Iterator[Listener]:
    listener = Listener(driver, guests.root)
    listener.thread.start()
    yield listener
    listener.end_with_next()
    last = guests.deploy()  # one more event, so that the thread wakes up and ends
    listener.thread.join(10)
    assert not listener.thread.is_alive()
    driver.destroy(HOST, last)


def test_events_tell_of_every_move_of_the_guests_of_one_root_within_half_a_second(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    others = Guests(subject, driver)
    with listening(driver, guests) as listener:
        assert listener.items.get(timeout=5) is None
        spec = guests.spec(instance="contract-events")
        vnf_id, *_ = driver.deploy(HOST, "nfio", subject.image("idle"), "contract-events", spec=spec)
        assert vnf_id is not None
        listener.next_of(vnf_id)
        listener.drain(vnf_id)
        for move in (driver.start, driver.pause, driver.unpause, driver.stop, driver.start):
            assert move(HOST, vnf_id) is SUCCESS
            assert listener.next_of(vnf_id).uuid == spec.uuid
            others.deploy()  # nobody here is told of it
            listener.drain(vnf_id)
        begun = time.monotonic()
        subject.kill(vnf_id)
        killed = time.monotonic()
        listener.next_of(vnf_id)
        assert time.monotonic() - killed < 0.5, f"kill itself took {killed - begun} s"
        listener.drain(vnf_id)
        driver.destroy(HOST, vnf_id)
        assert listener.next_of(vnf_id).uuid == spec.uuid
        listener.drain(vnf_id)
    others.remove()


def test_commands_in_a_guest_are_no_events(
    driver: HypervisorBase, shared_guests: Guests, shared: str
) -> None:
    with listening(driver, shared_guests) as listener:
        assert listener.items.get(timeout=5) is None
        driver.execute_in_guest(HOST, shared, ["echo"])
        with pytest.raises(queue.Empty):
            listener.items.get(timeout=0.3)
