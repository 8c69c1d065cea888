"""Recursive clients, names and attributes, commands and events: the tree as a whole behaves as a tree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import wait_until
from mount import Mount, Vnf, errno_of, opened_by
from shell import sh, stored


@pytest.fixture
def nfio(shared: Mount) -> Mount:
    """These tests leave nothing behind that could disturb the next one."""
    return shared


@pytest.fixture
def vnf(nfio: Mount) -> Vnf:
    """A firewall that is defined."""
    return nfio.make("firewall", "fw0")


@pytest.fixture
def running(nfio: Mount) -> Vnf:
    """A firewall that runs."""
    made = nfio.make("firewall", "fw1")
    made.act("activate")
    return made


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory outside the mount."""
    with tempfile.TemporaryDirectory(prefix="nfio-copy-") as path:
        yield Path(path)


# -- walking through the tree -----------------------------------------------------------------


def test_recursive_readers_come_to_an_end(nfio: Mount, running: Vnf, vnf: Vnf) -> None:
    """The stream of events, which never ends, does not hold them."""
    nfio.make("web", "www")
    found = sh("find . -type f -name rx_bytes | xargs grep -c .", nfio.path, check=False).stdout
    assert f"./nf-types/firewall/{running.path.name}/stats/rx_bytes:1\n" in found
    found = sh("grep -r --files-with-matches table .", nfio.path, check=False).stdout.splitlines()
    assert f"./nf-types/firewall/{running.path.name}/rules" in found
    assert f"./nf-types/firewall/{running.path.name}/config/nf_conf" in found
    walked = {line for line in sh("find .", nfio.path).stdout.splitlines() if line.startswith("./pipes")}
    assert walked == {"./pipes", "./pipes/events"}
    assert sh("ls -lR . && du -a . && stat -f .", nfio.path).stderr == ""


def test_cp_copies_a_running_vnf_out(nfio: Mount, running: Vnf, elsewhere: Path) -> None:
    running.write("machine/vm.memory", "64M\n")
    os.chmod(running.path / "config/nf_conf", 0o640)
    (running.path / "config/link").symlink_to("nf_conf")
    sh(f"cp -a {running.path} {nfio.path}/pipes {nfio.path}/metrics .", elsewhere)
    copy = elsewhere / running.path.name
    for file in ("config/nf_conf", "machine/vm.memory", "machine/vm.ip", "state", "uuid", "rules"):
        assert (copy / file).read_text() == running.read(file), file
    assert (copy / "config/nf_conf").stat().st_mode & 0o777 == 0o640
    assert os.readlink(copy / "config/link") == "nf_conf"
    assert os.readlink(elsewhere / "pipes/events") == ".events"
    assert int((copy / "stats/rx_bytes").read_text()) <= running.number("stats/rx_bytes")
    original, copied = (path.joinpath("config/nf_conf").stat() for path in (running.path, copy))
    assert original.st_mtime_ns == copied.st_mtime_ns
    assert f'instance="{running.path.name}"' in (elsewhere / "metrics/nfio.prom").read_text()


# -- removing ---------------------------------------------------------------------------------


def test_rm_removes_a_vnf_that_does_not_run(nfio: Mount, vnf: Vnf) -> None:
    vnf.act("deploy")
    (vnf.path / "config/extra").write_text("extra\n")
    (vnf.path / "config/link").symlink_to("extra")
    before = len(nfio.guests())
    sh(f"rm -r {vnf.path}", nfio.path)
    assert not vnf.path.exists()
    assert len(nfio.guests()) == before - 1


def test_what_was_removed_can_be_made_anew_at_once_by_the_same_process(nfio: Mount, vnf: Vnf) -> None:
    for _ in range(3):
        vnf.write("config/nf_conf", "# mine\n")
        shutil.rmtree(vnf.path)
        nfio.make("firewall", vnf.path.name)
        vnf.act("deploy")
        assert vnf.read("config/nf_conf") != "# mine\n"
        vnf.act("destroy")


@pytest.mark.parametrize("remove", ["rm -r", "rm -rf", "find -delete"])
def test_rm_of_a_running_vnf_is_ebusy_and_loses_nothing(remove: str, nfio: Mount, running: Vnf) -> None:
    running.write("config/boot.conf", "# mine\nautostart=no\n")
    running.write("machine/vm.memory", "64M\n")
    (running.path / "config/extra").write_text("extra\n")
    (running.path / "config/link").symlink_to("extra")
    os.chmod(running.path / "config/nf_conf", 0o600)
    os.chown(running.path / "config/nf_conf", 12, 34)
    before, rules = stored(running), running.read("rules")
    command = f"find {running.path} -delete" if remove == "find -delete" else f"{remove} {running.path}"
    failed = sh(command, nfio.path, check=False)
    assert failed.returncode and "Device or resource busy" in failed.stderr
    assert stored(running) == before
    assert running.state == "RUNNING" and running.read("rules") == rules
    running.act("reload")
    running.act("stop")
    sh(command, nfio.path)
    assert not running.path.exists()


def test_unlinking_a_file_resets_it(vnf: Vnf) -> None:
    fresh = stored(vnf)
    for file, text in (
        ("config/nf_conf", "# rules\n"),
        ("config/boot.conf", "autostart=no\n"),
        ("machine/vm.memory", "64M\n"),
        ("machine/vm.image", "busybox\n"),
    ):
        vnf.write(file, text)
        sh(f"rm {file}", vnf.path)
        assert vnf.read(file) == fresh[file.rpartition("/")[2]][4], file
    sh("rm action state stats/rx_bytes uuid", vnf.path)
    assert (vnf.value("action"), vnf.state) == ("", "DEFINED")
    # Who resets a file has no old value to fall back on.
    assert sh("echo plenty > machine/vm.memory", vnf.path, check=False).returncode
    assert vnf.read("machine/vm.memory") == ""


# -- names and attributes ---------------------------------------------------------------------


def test_what_may_not_be_made_says_so(nfio: Mount, vnf: Vnf) -> None:
    types = nfio.path / "nf-types"
    assert errno_of((nfio.path / "new").mkdir) == "EPERM"
    assert errno_of((types / "nonesuch").mkdir) == "EPERM"
    assert errno_of((vnf.path / "new").mkdir) == "EPERM"
    assert errno_of((vnf.path / "config/new").mkdir) == "EPERM"
    assert errno_of(vnf.path.mkdir) == "EEXIST"
    assert errno_of((types / "firewall/-fw").mkdir) == "EINVAL"
    assert errno_of((types / "nonesuch/fw").mkdir) == "ENOENT"
    assert errno_of((nfio.path / "version/new").mkdir) == "ENOTDIR"
    assert errno_of((types / "firewall").rmdir) == "EPERM"
    for place in (nfio.path, types, types / "firewall", vnf.path, vnf.path / "stats"):
        assert errno_of(lambda place=place: (place / "new").write_text("x")) in ("EACCES", "EPERM"), place
    assert errno_of(lambda: os.link(vnf.path / "config/nf_conf", vnf.path / "config/hard")) == "EPERM"
    assert errno_of(lambda: os.mkfifo(vnf.path / "config/fifo")) == "EPERM"
    assert errno_of(lambda: (vnf.path / "link").symlink_to("state")) == "EPERM"
    assert errno_of(lambda: (vnf.path / "config/link").symlink_to("/etc/passwd")) == "EPERM"
    assert errno_of(lambda: (vnf.path / "config/link").symlink_to("../state")) == "EPERM"
    assert errno_of(lambda: (vnf.path / "status").write_text("running\n")) == "EACCES"
    assert sorted(os.listdir(vnf.path / "config")) == ["boot.conf", "nf_conf"]


def test_modes_owners_and_times_can_be_set_and_stay(vnf: Vnf) -> None:
    for file in (
        "config/nf_conf",
        "machine/vm.memory",
        "action",
        "state",
        "status",
        "stats/rx_bytes",
        "rules",
    ):
        sh(f"touch {file}; chown 12:34 {file}; chmod 640 {file}", vnf.path)
        at = (vnf.path / file).stat()
        assert (at.st_uid, at.st_gid, at.st_mode & 0o7777) == (12, 34, 0o640), file
    sh("touch -d '2001-02-03 04:05:06 UTC' config/nf_conf && sed -i s/x/y/ config/nf_conf", vnf.path)
    at = (vnf.path / "config/nf_conf").stat()
    assert (at.st_uid, at.st_gid, at.st_mode & 0o7777) == (12, 34, 0o640)
    sh("touch -d '2001-02-03 04:05:06 UTC' config/nf_conf", vnf.path)
    assert (vnf.path / "config/nf_conf").stat().st_mtime == 981173106
    # What is written to a file changes the file, and not its directory.
    sh("touch -d '2001-02-03 04:05:06 UTC' . config machine", vnf.path)
    sh("echo autostart=no > config/boot.conf; echo 64M > machine/vm.memory; echo deploy > action", vnf.path)
    times = sh("stat --cached=never --format %Y . config machine", vnf.path).stdout.split()
    assert times == ["981173106"] * 3
    before = (vnf.path / "uuid").stat().st_mtime_ns
    sh("touch config/extra .state.swp && rm .state.swp", vnf.path)
    assert (vnf.path / "uuid").stat().st_mtime_ns == before


def test_links_in_config_are_followed_here_and_in_the_vnf(running: Vnf) -> None:
    for name in ("open", "closed"):
        (running.path / f"config/{name}.nft").write_text(f"table inet {name} {{ }}\n")
    running.write("config/nf_conf", 'include "/etc/nfio/site.nft"\n')
    for name in ("open", "closed"):
        sh(f"ln -sf {name}.nft config/site.nft", running.path)
        assert running.read("config/site.nft") == f"table inet {name} {{ }}\n"
        running.act("reload")
        assert running.read("rules") == f"table inet {name} {{\n}}\n"


# -- asking the VNF, and being told -----------------------------------------------------------


def test_a_command_is_answered_on_its_own_open_file(running: Vnf) -> None:
    script = """
        exec 3<>command 4<>command
        echo 'echo one; echo two >&2' >&3
        echo 'echo three' >&4
        cat <&3; cat <&4
        echo 'echo four' >&3; cat <&3
        echo 'echo five; exit 3' >&4 || echo failed; cat <&4
    """
    done = sh(script, running.path)
    assert done.stdout == "one\ntwo\nthree\nfour\nfailed\nfive\n"
    assert "Input/output error" in done.stderr
    assert "exit status 3: five" in running.error


def test_a_command_is_answered_to_who_opens_the_file_next(running: Vnf) -> None:
    assert sh("echo 'cat /etc/nfio/nf_conf' > command; cat command", running.path).stdout == running.read(
        "config/nf_conf"
    )
    assert "nftables v" in sh("echo 'nft --version' > command && cat command", running.path).stdout
    running.act("stop")
    assert errno_of(lambda: running.write("command", "true\n")) == "EBUSY"


def test_tail_shows_the_end_of_files_that_are_longer_than_their_size_says(nfio: Mount, vnf: Vnf) -> None:
    for word in ("deploy", "destroy") * 3:
        vnf.act(word)
    events = (nfio.path / "events").read_text().splitlines()
    assert len("".join(events)) > 1000
    assert sh("tail -n 2 events", nfio.path).stdout.splitlines() == events[-2:]
    assert sh("tail -n 1 metrics/nfio.prom", nfio.path).stdout == "nfio_scrape_errors 0\n"


def listen(mount: Mount) -> subprocess.Popen[bytes]:
    """A `cat pipes/events` that has begun to wait."""
    # A job in the background ignores SIGINT, and so would all that the tests start there.
    command = ["env", "--default-signal=INT", "cat", mount.path / "pipes/events"]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE)
    stream = str(mount.path / "pipes/.events")
    wait_until(lambda: stream in opened_by(reader.pid), 10, "cat has opened the stream")
    return reader


def test_events_are_told_to_all_who_wait_for_them(nfio: Mount) -> None:
    readers = [listen(nfio), listen(nfio)]
    try:
        vnf = nfio.make("web", "www")
        vnf.path.rmdir()
        for reader in readers:
            assert reader.stdout is not None
            lines = [json.loads(reader.stdout.readline()) for _ in range(2)]
            assert [(line["instance"], line["to"]) for line in lines] == [
                (vnf.path.name, "DEFINED"),
                (vnf.path.name, "UNDEFINED"),
            ]
        for reader, number in zip(readers, (signal.SIGINT, signal.SIGTERM), strict=True):
            assert reader.poll() is None
            reader.send_signal(number)
            assert reader.wait(10) == -number
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
            assert reader.stdout is not None
            reader.stdout.close()
    assert (
        sh(
            "env --default-signal=INT timeout -s INT 0.2 cat pipes/events", nfio.path, check=False, timeout=5
        ).returncode
        == 124
    )
    assert (nfio.path / "version").read_text()
