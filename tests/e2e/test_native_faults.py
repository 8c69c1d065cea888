"""What users see while the Native driver's programs, network or files fail, and afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import wait_until
from engine_view import driver_of, output_of
from faults import answers, look_around, orders_time_out, running
from mount import Mount, errno_of, is_gone
from native_view import NativeView

pytestmark = pytest.mark.engines("Native")

#: a runtime that comes or goes is noticed by a look every second, a broken network every five
NOTICED_S = 3
MENDED_S = 15


class Runtime:
    """The OCI runtime that nfio is told to use: it can be taken away, and made to hang."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "runtime"
        self._hung = directory / "hung"
        self._script = f'#!/bin/sh\nwhile [ -e {self._hung} ]; do sleep 0.1; done\nexec runc "$@"\n'
        self.mend()

    def remove(self) -> None:
        self.path.unlink()

    def hang(self) -> None:
        self._hung.touch()

    def mend(self) -> None:
        self._hung.unlink(missing_ok=True)
        draft = self.path.with_suffix(".new")
        draft.write_text(self._script)
        draft.chmod(0o755)
        draft.rename(self.path)


@pytest.fixture
def runtime(directory: Path) -> Runtime:
    return Runtime(directory)


@pytest.fixture
def nfio(stocked: NativeView, runtime: Runtime, directory: Path) -> Iterator[Mount]:
    made = Mount(directory, stocked, variables={"NFIO_NATIVE_RUNTIME": str(runtime.path)})
    made.mount()
    yield made
    runtime.mend()
    made.close()


@pytest.fixture
def native(nfio: Mount) -> NativeView:
    assert isinstance(nfio.engine, NativeView)
    return nfio.engine


def test_nfio_can_be_mounted_before_its_runtime_is_installed(nfio: Mount, runtime: Runtime) -> None:
    nfio.umount()
    runtime.remove()
    nfio.mount()
    firewall = nfio.make("firewall", "fw0")
    assert (firewall.state, firewall.status) == ("DEFINED", "undeployed")
    assert errno_of(lambda: firewall.act("activate")) == "EHOSTUNREACH"
    assert "apt-get install runc" in firewall.error
    # What could not be deployed can be written to and removed: nothing of it can be anywhere.
    firewall.write("machine/vm.memory", "64M\n")
    nfio.make("firewall", "fw1").path.rmdir()
    runtime.mend()
    wait_until(lambda: errno_of(lambda: firewall.act("activate")) == "", NOTICED_S, "it can be activated")
    wait_until(lambda: errno_of(lambda: firewall.read("state")) == "", NOTICED_S, "the runtime is seen")
    assert (firewall.state, firewall.error) == ("RUNNING", "")


def test_vnfs_go_on_and_are_counted_while_their_runtime_is_gone(
    native: NativeView, nfio: Mount, runtime: Runtime
) -> None:
    survivor, victim = running(nfio, "survivor", "victim")
    victims_pid, address = native.pid(nfio.guest_of(victim)), survivor.address
    runtime.remove()

    wait_until(lambda: errno_of(lambda: survivor.read("state")) == "EHOSTUNREACH", NOTICED_S)
    before = survivor.number("stats/rx_packets")
    assert answers(address)
    assert survivor.number("stats/rx_packets") >= before + 3
    for word in ("stop", "pause", "destroy", "reload"):
        assert errno_of(lambda word=word: survivor.act(word)) == "EHOSTUNREACH"
        assert "apt-get install runc" in survivor.error
    assert errno_of(survivor.path.rmdir) == "EHOSTUNREACH"
    nfio.make("firewall", "other").path.rmdir()

    os.kill(victims_pid, signal.SIGKILL)
    wait_until(lambda: errno_of(lambda: victim.read("stats/rx_bytes")) == "ENETDOWN", 0.5, "its end is seen")

    runtime.mend()
    wait_until(lambda: errno_of(lambda: survivor.read("state")) == "", NOTICED_S, "the runtime is seen again")
    assert (survivor.state, survivor.status) == ("RUNNING", "running")
    assert (victim.state, victim.status) == ("ERROR", "stopped")
    assert "signal 9" in victim.error
    victim.write("state", "RUNNING\n")
    survivor.act("stop")
    assert (victim.state, survivor.state) == ("RUNNING", "CONFIGURED")


def test_a_hung_runtime_times_out_and_holds_up_nothing_else(
    native: NativeView, nfio: Mount, runtime: Runtime
) -> None:
    (survivor,) = running(nfio, "survivor")
    idle = nfio.make("firewall", "idle")
    runtime.hang()
    orders_time_out(
        {idle: "activate", survivor: "pause"}, lambda: look_around(nfio, survivor, "state", "status")
    )
    assert "did not answer" in idle.error and "did not answer" in survivor.error
    assert answers(survivor.address)

    runtime.mend()
    idle.write("state", "RUNNING\n")
    assert (idle.state, idle.error) == ("RUNNING", "")
    survivor.write("state", "RUNNING\n")
    assert (survivor.state, survivor.error) == ("RUNNING", "")
    assert len(nfio.guests()) == 2


def test_a_bridge_that_was_deleted_is_made_anew_with_all_that_was_plugged_in(
    native: NativeView, nfio: Mount
) -> None:
    (one,) = running(nfio, "one")
    other = nfio.make("web", "other")
    other.act("activate")
    subprocess.run(["ip", "link", "del", native.bridge], check=True)
    assert not answers(one.address)
    assert one.state == "RUNNING" and one.number("stats/rx_bytes") >= 0
    wait_until(lambda: answers(one.address) and answers(other.address), MENDED_S, "both answer again")
    one.write("command", f"wget -q -O - http://{other.address}/\n")
    assert "nfio web" in one.read("command")


def test_packet_filter_rules_that_were_flushed_are_made_anew(native: NativeView, nfio: Mount) -> None:
    running(nfio, "fw0")

    def rules() -> tuple[bool, list[str]]:
        nft = native.bridge in output_of("nft", "list", "ruleset")
        saved = output_of("iptables-save").splitlines()
        return nft, [line for line in saved if native.bridge in line]

    before = rules()
    assert before[0]
    subprocess.run(["nft", "delete", "table", "ip", f"nfio-{native.bridge}"], check=True)
    for line in before[1]:
        subprocess.run(["iptables", "-w", "5", "-D", *line.split()[1:]], check=True)
    wait_until(lambda: rules() == before, MENDED_S, "they are there again")


def test_what_runs_outlives_its_conmon_and_its_end_is_seen(native: NativeView, nfio: Mount) -> None:
    (firewall,) = running(nfio, "fw0")
    guest = nfio.guest_of(firewall)
    conmon = int((native.path(guest) / "conmon.pid").read_text())
    os.kill(conmon, signal.SIGKILL)
    wait_until(lambda: is_gone(conmon), 5, "conmon is gone")
    assert answers(firewall.address)
    firewall.act("reload")
    firewall.act("pause")
    firewall.act("resume")
    assert firewall.state == "RUNNING"
    native.kill(guest)
    wait_until(lambda: firewall.state == "ERROR", 0.5, "its end is seen")
    assert "conmon" in firewall.error
    firewall.write("state", "RUNNING\n")
    assert (firewall.state, firewall.error) == ("RUNNING", "")
    conmon = int((native.path(nfio.guest_of(firewall)) / "conmon.pid").read_text())
    os.kill(conmon, signal.SIGKILL)
    wait_until(lambda: is_gone(conmon), 5, "conmon is gone")
    firewall.act("stop")
    assert (firewall.state, firewall.status) == ("CONFIGURED", "stopped")


def freeze(native: NativeView, guest: str, frozen: bool) -> None:
    group = native.cgroup(guest, "freezer")
    if (group / "freezer.state").exists():
        (group / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
    else:
        (group / "cgroup.freeze").write_text("1" if frozen else "0")


def test_a_control_group_that_is_frozen_from_outside_is_a_paused_vnf(native: NativeView, nfio: Mount) -> None:
    (firewall,) = running(nfio, "fw0")
    guest = nfio.guest_of(firewall)
    for _ in range(2):
        freeze(native, guest, True)
        wait_until(lambda: firewall.state == "PAUSED", 0.5, "it is seen")
        assert errno_of(lambda: firewall.read("stats/rx_bytes")) == "ENETDOWN"
        freeze(native, guest, False)
        wait_until(lambda: firewall.state == "RUNNING", 0.5, "it is seen")
    freeze(native, guest, True)
    wait_until(lambda: firewall.state == "PAUSED", 0.5, "it is seen")
    firewall.act("resume")
    assert firewall.state == "RUNNING" and native.word(guest) == "running"
    freeze(native, guest, True)
    firewall.act("stop")
    assert firewall.state == "CONFIGURED"


def test_a_guest_that_was_removed_by_hand_can_be_had_again_at_once(native: NativeView, nfio: Mount) -> None:
    firewall, other = running(nfio, "fw0", "fw1")
    others_pid = native.pid(nfio.guest_of(other))
    address = firewall.address
    native.remove(nfio.guest_of(firewall))
    wait_until(lambda: firewall.state == "DEFINED", 0.5, "it is seen")
    firewall.act("activate")
    assert (firewall.state, firewall.error) == ("RUNNING", "")
    names = {seen.name for seen in native.seen(nfio.root_id)}
    assert names == {"root-firewall-fw0", "root-firewall-fw1"}
    assert native.pid(nfio.guest_of(other)) == others_pid
    firewall.act("destroy")
    native.remove(nfio.guest_of(other))
    nfio.umount()
    nfio.mount()
    firewall.act("activate")
    assert firewall.address == address  # nobody holds it any more


def test_a_name_that_a_stranger_has_is_left_to_him(native: NativeView, nfio: Mount) -> None:
    stranger = native.make_stranger("root-firewall-fw0")
    try:
        firewall = nfio.make("firewall", "fw0")
        assert errno_of(lambda: firewall.act("activate")) == "EIO"
        assert "is taken" in firewall.error
        assert firewall.state == "DEFINED" and nfio.guests() == []
        assert native.exists(stranger)
    finally:
        native.clear(stranger)
    firewall.act("activate")
    assert (firewall.state, firewall.error) == ("RUNNING", "")


def test_a_program_that_ends_at_once_was_not_started(
    native: NativeView, nfio: Mount, directory: Path
) -> None:
    image = image_of(native)
    tarball = directory / "foreign.tar"
    with tarfile.open(tarball, "w") as tar:
        tar.add(image / "root" / "bin" / "busybox", "bin/sh")
    command = ["/bin/sh", "-c", "echo this goes wrong; exit 3"]
    firewall = nfio.make("firewall", "fw0")
    with driver_of(native) as driver:
        driver.import_image("foreign", tarball, command, {})
        firewall.write("machine/vm.image", "foreign\n")
        assert errno_of(lambda: firewall.act("activate")) == "EIO"
        assert "exit code 3" in firewall.error and "this goes wrong" in firewall.error
        assert firewall.state == "DEFINED" and nfio.guests() == []
        driver.remove_image("foreign")


def image_of(native: NativeView) -> Path:
    """Directory of the firewall's image."""
    images = (path for path in native.place("images") if (path / "image.json").exists())
    return next(path for path in images if '"nfio/firewall"' in (path / "image.json").read_text())


@pytest.fixture
def small_disk(stocked: NativeView, directory: Path) -> Iterator[NativeView]:
    """Guests on a disk of their own that is soon full."""
    native = NativeView("nfiosmall")
    native.begin(directory / "disk")
    images = native.directory / "images"
    native.directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", native.directory], check=True)
    try:
        images.mkdir()
        subprocess.run(["cp", "-a", image_of(stocked), images], check=True)
        yield native
        wait_until(
            lambda: not native.place("guests") and not native.leftover_of_host(), 10, "nothing is left"
        )
    finally:
        subprocess.run(["umount", "-l", native.directory], check=True)


@pytest.fixture
def on_small_disk(small_disk: NativeView, directory: Path) -> Iterator[Mount]:
    made = Mount(directory, small_disk)
    made.mount()
    yield made
    (small_disk.directory / "filler").unlink(missing_ok=True)
    made.close()


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: NativeView, on_small_disk: Mount) -> None:
    nfio = on_small_disk
    (firewall,) = running(nfio, "runs")
    filler = small_disk.directory / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            os.write(file.fileno(), bytes(4096))
    refused = nfio.make("firewall", "refused")
    assert errno_of(lambda: refused.act("activate")) == "EIO"
    assert "o space left on device" in refused.error
    assert refused.state == "DEFINED"
    assert len(nfio.guests()) == 1
    assert firewall.state == "RUNNING" and firewall.number("stats/rx_bytes") >= 0
    filler.unlink()
    refused.act("activate")
    assert (refused.state, refused.error) == ("RUNNING", "")
