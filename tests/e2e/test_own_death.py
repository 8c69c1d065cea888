"""What is left when the process of nfio is killed or ended, and what the next mount makes of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import client as clients
import pytest
from engine import wait_until
from mount import Mount, Vnf, errno_of, is_gone, opened_by
from views import MAIN_LINE

from middleboxes.firewall import MIDDLEBOX

ROUNDS = 6
CLIENTS = 2
NEW_INSTANCES = 5  # of each round: 50 in all
LONGEST_ROUND_S = 4.0
SETTLED_S = 15

#: where a word leads; what the instance may be when it was killed on its way there
TARGET = {
    "mkdir": "DEFINED",
    "deploy": "CONFIGURED",
    "activate": "RUNNING",
    "start": "RUNNING",
    "restart": "RUNNING",
    "resume": "RUNNING",
    "pause": "PAUSED",
    "stop": "CONFIGURED",
    "destroy": "DEFINED",
}
ON_THE_WAY = {
    "activate": {"DEFINED", "CONFIGURED", "RUNNING"},
    # It is stopped first, and started once it has.
    "restart": {"CONFIGURED", "RUNNING", "PAUSED"},
    # What is paused goes on to run before it can be stopped.
    "stop": {"RUNNING", "PAUSED", "CONFIGURED"},
    "rmdir": {"", "DEFINED", "CONFIGURED"},
    # Without an engine it is ended first, and taken away then.
    "destroy": {"RUNNING", "CONFIGURED", "DEFINED"},
}
#: of the files that clients write to, and what they hold after mkdir
AT_FIRST = {"config/nf_conf": MIDDLEBOX.default_config, "config/notes": "", "machine/vm.memory": ""}


@dataclass
class Expected:
    """What the acknowledged operations made of an instance. A set holds what is possible.

    Attributes:
        states: "" is an instance that is not there.
        uuid: empty if it is not known.
        contents: of its files.
    """

    states: set[str] = field(default_factory=lambda: {""})
    uuid: str = ""
    contents: dict[str, set[str]] = field(default_factory=dict)

    def begin(self, operation: str, argument: str) -> None:
        """An operation that may or may not have been carried out."""
        if operation == "write":
            file, number = argument.split()
            self.contents[file] = self.contents[file] | {clients.content_of(file, int(number))}
            if file.startswith("config/"):
                self.contents[file] |= {""}  # `>` empties such a file before it writes
        elif operation == "mkdir":
            self.states = {"", "DEFINED"}
            self.uuid, self.contents = "", {file: {content} for file, content in AT_FIRST.items()}
        else:
            self.states = self.states | {TARGET.get(operation, "")} | ON_THE_WAY.get(operation, set())

    def done(self, operation: str, argument: str, uuid: str = "") -> None:
        if operation == "write":
            file, number = argument.split()
            self.contents[file] = {clients.content_of(file, int(number))}
        elif operation == "rmdir":
            self.__init__()  # type: ignore[misc]
        else:
            self.states = {TARGET[operation]}
            self.uuid = uuid or self.uuid


def replay(expected: dict[str, Expected], log: Path) -> int:
    """Take over what a client's log says; how many operations were acknowledged."""
    count = 0
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        instance = expected.setdefault(entry["name"], Expected())
        if entry["result"] == "begun":
            instance.begin(entry["operation"], entry["argument"])
        else:
            instance.done(entry["operation"], entry["argument"], entry.get("uuid", ""))
            count += 1
    return count


def states_by_uuid(nfio: Mount) -> dict[str, str]:
    """The state that the engine's word means, for the guest of each uuid. There is one of each."""
    engine = nfio.engine
    states = {
        engine.created: "CONFIGURED",
        engine.ended: "CONFIGURED",
        engine.running: "RUNNING",
        engine.paused: "PAUSED",
    }
    seen = engine.seen(nfio.root_id)
    count = Counter(guest.uuid for guest in seen)
    assert max(count.values(), default=1) == 1, f"more than one guest of one VNF: {count}"
    return {guest.uuid: states[guest.word] for guest in seen}


def check(nfio: Mount, expected: dict[str, Expected]) -> None:
    """The mount shows what was acknowledged, and agrees with the engine."""
    for name, instance in expected.items():
        vnf = nfio.vnf("firewall", name)
        if not vnf.path.is_dir():
            assert "" in instance.states, f"{name} is lost: {instance}"
            instance.__init__()  # type: ignore[misc]
            continue
        assert instance.states != {""}, f"{name} was removed and is back"
        uuid = vnf.value("uuid")
        assert instance.uuid in ("", uuid), name
        instance.uuid = uuid
        for file, possible in instance.contents.items():
            content = vnf.read(file) if (vnf.path / file).exists() else ""
            assert content in possible, f"{name}/{file}"
            instance.contents[file] = {content}

    defined = {instance.uuid: name for name, instance in expected.items() if instance.states != {""}}

    def differences() -> list[str]:
        states = states_by_uuid(nfio)
        found = [f"{uuid} is left over" for uuid in set(states) - set(defined)]
        for uuid, name in defined.items():
            shown, is_ = nfio.vnf("firewall", name).state if uuid else "", states.get(uuid, "DEFINED")
            if uuid and shown != is_:
                why = nfio.vnf("firewall", name).error
                found.append(f"{name} is said to be {shown} ({why}) and is {is_}: {expected[name].states}")
        return found

    try:
        wait_until(lambda: not differences(), SETTLED_S)
    except AssertionError:
        raise AssertionError(f"{differences()}") from None
    for name, instance in expected.items():
        if instance.uuid:
            vnf = nfio.vnf("firewall", name)
            state = vnf.state
            assert state in instance.states, f"{name} is {state}: {instance}"
            instance.states = {state}
            if state == "RUNNING":
                assert vnf.number("stats/rx_bytes") >= 0 and vnf.address


@pytest.mark.slow
def test_killed_at_any_moment_nothing_that_was_acknowledged_is_lost(nfio: Mount, directory: Path) -> None:
    seed = os.environ.get("NFIO_TEST_SEED") or str(random.randrange(10**6))
    print(f"NFIO_TEST_SEED={seed}")
    chance = random.Random(seed)
    expected: dict[str, Expected] = {}
    acknowledged = 0
    for turn in range(ROUNDS):
        names = [*expected, *(f"vnf-{turn}-{number}" for number in range(NEW_INSTANCES))]
        running = []
        for number in range(CLIENTS):
            log = directory / f"log-{turn}-{number}"
            log.touch()
            command = [sys.executable, clients.__file__, str(nfio.path), str(log), f"{seed}.{turn}.{number}"]
            running.append(
                (log, subprocess.Popen([*command, *names[number::CLIENTS]], stderr=subprocess.PIPE))
            )
        time.sleep(chance.uniform(0.2, LONGEST_ROUND_S))  # the random moment; nothing is waited for
        nfio.kill()
        for log, process in running:
            _, words = process.communicate(timeout=30)
            assert process.returncode == 0, words.decode()
            acknowledged += replay(expected, log)
        nfio.mount()
        check(nfio, expected)
    print(f"{acknowledged} operations on {len(expected)} instances")
    assert acknowledged > 5 * ROUNDS


def activate(nfio: Mount, name: str = "fw0") -> Vnf:
    vnf = nfio.make("firewall", name)
    vnf.act("activate")
    return vnf


@pytest.mark.engines(*MAIN_LINE)
@pytest.mark.parametrize("leave", ["umount", "kill"])
def test_what_runs_goes_on_while_nfio_does_not_and_is_adopted(nfio: Mount, leave: str) -> None:
    firewall = activate(nfio)
    (guest,) = nfio.guests()
    address, pid = firewall.address, nfio.engine.pid(guest)

    def ping(count: int) -> None:
        command = ["ping", "-q", "-c", str(count), "-i", "0.01", "-W", "1", address]
        subprocess.run(command, check=True, capture_output=True)

    ping(20)
    before = firewall.number("stats/rx_packets")
    getattr(nfio, leave)()
    ping(50)
    nfio.mount()
    assert firewall.state == "RUNNING" and firewall.address == address
    assert nfio.guests() == [guest] and nfio.engine.pid(guest) == pid
    assert firewall.number("stats/rx_packets") >= before + 50

    def settled() -> bool:
        return firewall.number("stats/rx_bytes") == nfio.engine.counters(guest)["rx_bytes"]

    # QEMU keeps multicast from a machine that has not asked for it: its link carries more.
    if nfio.engine.whole_suite:
        wait_until(settled, 10, "it counts as the VNF itself does")
    firewall.act("stop")
    assert firewall.state == "CONFIGURED"


def test_autostart_runs_a_vnf_again_on_mount(nfio: Mount) -> None:
    for name, setting in (("wanted", "autostart=yes\n"), ("unwanted", "autostart=no\n")):
        vnf = nfio.make("firewall", name)
        vnf.write("config/boot.conf", setting)
        vnf.act("activate")
    nfio.umount()
    nfio.engine.remove(*nfio.guests())
    nfio.mount()
    wait_until(lambda: nfio.vnf("firewall", "wanted").state == "RUNNING", SETTLED_S, "it runs again")
    assert nfio.vnf("firewall", "unwanted").state == "DEFINED"
    assert len(nfio.guests()) == 1


def test_what_happened_while_it_was_not_mounted_is_seen(nfio: Mount) -> None:
    killed, stopped, removed = (activate(nfio, name) for name in ("killed", "stopped", "removed"))
    guests = [nfio.guest_of(vnf) for vnf in (killed, stopped, removed)]
    nfio.umount()
    for act, guest in zip((nfio.engine.kill, nfio.engine.stop, nfio.engine.remove), guests, strict=True):
        act(guest)
    nfio.mount()
    assert (killed.state, stopped.state, removed.state) == ("ERROR", "CONFIGURED", "DEFINED")
    assert "signal 9" in killed.error
    removed.act("activate")
    killed.write("state", "RUNNING\n")
    assert (killed.state, removed.state) == ("RUNNING", "RUNNING")


def test_a_dead_mount_can_be_unmounted(nfio: Mount) -> None:
    nfio.kill()
    assert errno_of(lambda: os.listdir(nfio.path)) == "ENOTCONN"
    assert "was killed" in nfio.nfio("doctor", check=False).stdout
    nfio.umount()
    assert os.listdir(nfio.path) == []
    nfio.mount()
    assert "nf-types" in os.listdir(nfio.path)


def test_unmounting_while_a_file_is_open_names_who_holds_it(nfio: Mount) -> None:
    vnf = nfio.make("firewall", "fw0")
    with (vnf.path / "config" / "nf_conf").open() as file:
        holder = subprocess.Popen(["sleep", "60"], stdin=file)
    try:
        refused = nfio.nfio("umount", str(nfio.path), check=False)
        assert refused.returncode == 1
        assert f"sleep ({holder.pid})" in refused.stderr and len(refused.stderr.splitlines()) == 1
        assert vnf.state == "DEFINED"
    finally:
        holder.kill()
        holder.wait(10)
    nfio.umount()
    assert not nfio.is_mounted
    nfio.mount()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_reader_of_the_event_stream_does_not_keep_it_from_ending(
    nfio: Mount, number: signal.Signals
) -> None:
    stream = nfio.path / "pipes" / "events"
    # Whatever fails, the reader is killed before it is waited for.
    with subprocess.Popen(["cat", str(stream)], stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            wait_until(lambda: str(stream.resolve()) in opened_by(reader.pid), 10, "it is opened")
            activate(nfio)
            assert json.loads(reader.stdout.readline())["to"] == "DEFINED"
            assert json.loads(reader.stdout.readline())["to"] == "CONFIGURED"
            assert json.loads(reader.stdout.readline())["to"] == "RUNNING"
            pid = nfio.pid
            os.kill(pid, number)
            wait_until(lambda: is_gone(pid), SETTLED_S, "it ends")
            reader.wait(10)
            assert reader.stdout.read() == b""
        finally:
            reader.kill()
    assert not nfio.is_mounted
    nfio.mount()
    assert nfio.vnf("firewall", "fw0").state == "RUNNING"
