"""What users see while the Docker engine is stopped, hung, restarted or refuses, and afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_view import DockerView
from engine import PrivateEngine, wait_until
from faults import CALL_S, answers, look_around, orders_time_out, running
from mount import Mount, Vnf, errno_of, seconds
from probes import need

pytestmark = pytest.mark.docker  # Native has no engine that could fail: see test_native_faults.py

#: a stopped engine is noticed by its closed event stream, a hung one by a ping that times out
NOTICED_S = 15
BACK_S = 10

STATE_OF = {"created": "CONFIGURED", "running": "RUNNING", "": "DEFINED"}


@pytest.fixture
def engine(images: None, directory: Path) -> Iterator[PrivateEngine]:
    need("docker", shutil.which("containerd") is not None, "containerd is not installed")
    made = PrivateEngine(directory / "engine")
    try:
        made.start()
        made.load("nfio/firewall")
        yield made
    finally:
        made.remove()


@pytest.fixture
def nfio(engine: PrivateEngine, directory: Path) -> Iterator[Mount]:
    mount = Mount(directory, DockerView(engine.url))
    mount.mount()
    yield mount
    if engine.process is None:
        engine.start()
    engine.go_on()
    mount.close()


def container_of(engine: PrivateEngine, vnf: Vnf) -> str:
    return engine.docker("ps", "-aq", "--no-trunc", "--filter", f"label=io.nfio.uuid={vnf.value('uuid')}")


def pid_of(engine: PrivateEngine, vnf: Vnf) -> int:
    return engine.pid_of(container_of(engine, vnf))


def word_of(engine: PrivateEngine, vnf: Vnf) -> str:
    """Docker's own word for what it does with a VNF; empty if it has nothing of it."""
    container = container_of(engine, vnf)
    return engine.docker("inspect", "-f", "{{.State.Status}}", container) if container else ""


def test_nfio_can_be_mounted_before_its_engine_is_started(engine: PrivateEngine, directory: Path) -> None:
    engine.stop()
    nfio = Mount(directory, DockerView(engine.url))
    nfio.mount()
    pid = nfio.pid
    firewall = nfio.make("firewall", "fw0")
    assert firewall.state == "DEFINED" and firewall.status == "undeployed"
    took = seconds(lambda: errno_of(lambda: firewall.act("activate")))
    assert took < CALL_S
    assert errno_of(lambda: firewall.act("activate")) == "EHOSTUNREACH"
    assert "cannot be reached" in firewall.error and "nfio doctor" in firewall.error
    # What could not be deployed can be written to and removed: nothing of it can be anywhere.
    assert firewall.state == "DEFINED"
    firewall.write("machine/vm.memory", "64M\n")
    nfio.make("firewall", "fw1").path.rmdir()
    engine.start()
    wait_until(lambda: errno_of(lambda: firewall.act("activate")) == "", BACK_S, "it can be activated")
    assert (firewall.state, firewall.error) == ("RUNNING", "")
    assert nfio.pid == pid
    nfio.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_vnfs_go_on_and_are_counted_while_their_engine_is_stopped(
    engine: PrivateEngine, nfio: Mount, how: signal.Signals
) -> None:
    survivor, victim = running(nfio, "survivor", "victim")
    victims_pid = pid_of(engine, victim)
    address, served_by = survivor.address, nfio.pid
    engine.stop(how)

    wait_until(lambda: errno_of(lambda: survivor.read("state")) == "EHOSTUNREACH", NOTICED_S)
    assert errno_of(lambda: survivor.read("status")) == "EHOSTUNREACH"
    before = survivor.number("stats/rx_packets")
    assert answers(address)
    assert survivor.number("stats/rx_packets") >= before + 3
    assert seconds(lambda: look_around(nfio, survivor)) < 1

    for word in ("stop", "pause", "destroy", "reload"):
        assert errno_of(lambda word=word: survivor.act(word)) == "EHOSTUNREACH"
        assert "cannot be reached" in survivor.error
    assert errno_of(survivor.path.rmdir) == "EHOSTUNREACH"
    other = nfio.make("firewall", "other")
    assert other.state == "DEFINED"
    other.path.rmdir()
    assert "nfio_vnf_state" not in (nfio.path / "metrics" / "nfio.prom").read_text()

    os.kill(victims_pid, signal.SIGKILL)
    wait_until(lambda: errno_of(lambda: victim.read("stats/rx_bytes")) == "ENETDOWN", 0.5, "its end is seen")
    assert survivor.number("stats/rx_packets") >= before + 3

    engine.start()
    wait_until(lambda: errno_of(lambda: survivor.read("state")) == "", BACK_S, "the engine is seen again")
    assert (survivor.state, survivor.status) == ("RUNNING", "running")
    assert (victim.state, victim.status) == ("ERROR", "exited")
    assert "signal 9" in victim.error
    assert survivor.number("stats/rx_packets") >= before + 3
    victim.write("state", "RUNNING\n")
    assert victim.state == "RUNNING"
    survivor.act("stop")
    assert survivor.state == "CONFIGURED"
    assert nfio.pid == served_by


def test_a_hung_engine_times_out_and_holds_up_nothing_else(engine: PrivateEngine, nfio: Mount) -> None:
    survivor, victim = running(nfio, "survivor", "victim")
    idle = nfio.make("firewall", "idle")
    victims_pid, served_by = pid_of(engine, victim), nfio.pid
    engine.hang()

    orders_time_out({idle: "activate", survivor: "stop"}, lambda: look_around(nfio, survivor))
    assert "does not answer" in idle.error and "does not answer" in survivor.error
    wait_until(lambda: errno_of(lambda: survivor.read("status")) == "ETIMEDOUT", NOTICED_S, "it is noticed")
    assert errno_of(lambda: survivor.read("state")) == "ETIMEDOUT"
    # The engine may have got the order, and may yet carry it out.
    assert errno_of(lambda: idle.read("state")) == "ETIMEDOUT"

    os.kill(victims_pid, signal.SIGKILL)
    wait_until(lambda: errno_of(lambda: victim.read("stats/rx_bytes")) == "ENETDOWN", 0.5, "its end is seen")
    assert survivor.number("stats/rx_bytes") >= 0
    nfio.make("firewall", "other").path.rmdir()

    engine.go_on()
    wait_until(lambda: errno_of(lambda: survivor.read("state")) == "", BACK_S, "the engine is seen again")
    for vnf in (survivor, idle):
        wait_until(lambda vnf=vnf: vnf.state == STATE_OF[word_of(engine, vnf)], BACK_S, "both agree")
    wait_until(lambda: victim.state == "ERROR", BACK_S, "the end of the victim is known")
    idle.write("state", "RUNNING\n")
    assert (idle.state, idle.error) == ("RUNNING", "")
    assert nfio.pid == served_by


def test_what_a_hung_engine_did_in_the_end_is_what_state_says(engine: PrivateEngine, nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    result: list[str] = []
    order = threading.Thread(target=lambda: result.append(errno_of(lambda: firewall.act("activate"))))
    containers = engine.directory / "data" / "containers"
    order.start()
    wait_until(lambda: any(containers.iterdir()), 10, "the engine makes the container")
    engine.hang()
    order.join(4 * CALL_S)
    assert not order.is_alive() and result == ["ETIMEDOUT"]
    assert "does not answer" in firewall.error
    engine.go_on()

    def agreed() -> bool:
        word = word_of(engine, firewall)
        return errno_of(lambda: firewall.read("state")) == "" and firewall.state == STATE_OF[word]

    wait_until(agreed, BACK_S, "both agree")
    # Whatever was done of it: asking again ends in one VNF that runs.
    firewall.write("state", "RUNNING\n")
    assert (firewall.state, firewall.error) == ("RUNNING", "")
    assert len(nfio.guests()) == 1
    assert agreed()


@pytest.mark.parametrize(
    ("file", "bad", "good", "words"),
    [
        ("machine/vm.image", "no/such-image\n", "nfio/firewall\n", "No such image"),
        ("machine/vm.memory", "4K\n", "64M\n", "inimum memory limit"),
    ],
)
def test_what_the_engine_refuses_is_told_in_its_words_and_leaves_nothing(
    engine: PrivateEngine, nfio: Mount, file: str, bad: str, good: str, words: str
) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.write(file, bad)
    assert errno_of(lambda: firewall.act("activate")) == "EIO"
    assert words in firewall.error and "\n" not in firewall.error
    assert (firewall.state, firewall.status) == ("DEFINED", "undeployed")
    assert engine.docker("ps", "-aq") == ""
    firewall.write(file, good)
    firewall.act("activate")
    assert (firewall.state, firewall.error) == ("RUNNING", "")


def test_a_name_that_a_stranger_has_is_left_to_him(engine: PrivateEngine, nfio: Mount) -> None:
    stranger = engine.docker("create", "--name", "root-firewall-fw0", "nfio/firewall")
    firewall = nfio.make("firewall", "fw0")
    assert errno_of(lambda: firewall.act("activate")) == "EIO"
    assert "already in use" in firewall.error
    assert firewall.state == "DEFINED"
    assert engine.docker("ps", "-aq", "--no-trunc") == stranger
    engine.docker("rm", stranger)
    firewall.act("activate")
    assert (firewall.state, firewall.error) == ("RUNNING", "")


def test_a_full_disk_is_told_and_leaves_nothing(images: None, directory: Path) -> None:
    engine = PrivateEngine(directory / "engine", disk_mb=80)
    try:
        engine.start()
        engine.load("nfio/firewall")
        nfio = Mount(directory, DockerView(engine.url))
        nfio.mount()
        (firewall,) = running(nfio, "runs")
        filler = engine.directory / "data" / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                os.write(file.fileno(), bytes(4096))
        refused = nfio.make("firewall", "refused")
        assert errno_of(lambda: refused.act("activate")) == "EIO"
        assert "no space left on device" in refused.error
        assert refused.state == "DEFINED"
        assert len(nfio.guests()) == 1
        assert firewall.state == "RUNNING" and firewall.number("stats/rx_bytes") >= 0
        filler.unlink()
        refused.act("activate")
        assert (refused.state, refused.error) == ("RUNNING", "")
        nfio.close()
    finally:
        engine.remove()


def test_a_program_that_ends_at_once_was_not_started(engine: PrivateEngine, nfio: Mount) -> None:
    base = engine.docker("create", "nfio/firewall")
    tar = engine.directory / "foreign.tar"
    engine.docker("export", "-o", str(tar), base)
    change = 'CMD ["sh", "-c", "echo this goes wrong; exit 3"]'
    engine.docker("import", "--change", change, str(tar), "foreign")
    engine.docker("rm", base)
    firewall = nfio.make("firewall", "fw0")
    firewall.write("machine/vm.image", "foreign\n")
    assert errno_of(lambda: firewall.act("activate")) == "EIO"
    assert "exit code 3" in firewall.error and "this goes wrong" in firewall.error
    assert firewall.state == "DEFINED"
    assert engine.docker("ps", "-aq") == ""


def test_an_engine_that_is_restarted_ten_times_costs_nothing(engine: PrivateEngine, nfio: Mount) -> None:
    (firewall,) = running(nfio, "fw0")
    process = Path(f"/proc/{nfio.pid}")

    def sizes() -> tuple[int, int]:
        return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))

    def restart(number: signal.Signals) -> None:
        engine.stop(number)
        engine.start()

    def settled() -> bool:
        return errno_of(lambda: firewall.read("state")) == "" and firewall.state == "RUNNING"

    restart(signal.SIGTERM)
    wait_until(settled, BACK_S, "the engine is seen again")
    files, threads = sizes()
    for turn in range(10):
        restart(signal.SIGKILL if turn % 2 else signal.SIGTERM)
    wait_until(settled, BACK_S, "the engine is seen again")

    def small() -> bool:
        now = sizes()
        return now[0] < files + 5 and now[1] < threads + 5

    wait_until(small, BACK_S, f"no growth from {files} files and {threads} threads")
    engine.docker("kill", container_of(engine, firewall))
    wait_until(lambda: firewall.state == "ERROR", 0.5, "events are followed")
