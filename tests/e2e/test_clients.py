"""The shell, editors and rsync work on the tree as on any other: none of them knows what it is."""

from __future__ import annotations

import itertools
import os
import pty
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import wait_until
from mount import Mount, Vnf
from probes import need
from shell import sh

_numbers = itertools.count(1)


@pytest.fixture
def vnf(shared: Mount) -> Vnf:
    """A firewall that is defined."""
    return shared.make("firewall", f"fw{next(_numbers)}")


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory on another file system than the mount, as is anything outside it."""
    with tempfile.TemporaryDirectory(prefix="nfio-source-") as path:
        yield Path(path)


VI = "vim.tiny -u NONE -N -es"

#: scripts that make $content, which is also in the file $source, the content of $file, which
#: is one line now
WAYS = {
    ">": 'echo "$content" > $file',
    "here document": "cat > $file <<END\n$content\nEND\n",
    "tee": 'echo "$content" | tee $file',
    "sed -i": 'sed -i "s/.*/$content/" $file',
    "sed -i with a backup": 'sed -i~ "s/.*/$content/" $file && rm $file~',
    "cp": "cp $source $file",
    "cp -p": "cp -p $source $file",
    "cp --remove-destination": "cp --remove-destination $source $file",
    "mv within the mount": "cp $source config/new && mv config/new $file",
    "mv from another file system": "mv $source $file",
    "mv with a backup": "mv -b $source $file && rm $file~",
    "install": "install -m 640 $source $file",
    "dd": "dd if=$source of=$file",
    "dd without truncating": "dd if=$source of=$file conv=notrunc,fsync && truncate --reference=$source $file",
    "rsync": "rsync --archive --ignore-times $source $file",
    "rsync --inplace": "rsync --archive --ignore-times --inplace $source $file",
    "vim": f'{VI} -c "%s/.*/$content/" -c wq $file',
    "vim with backupcopy": f'{VI} -c "set backup backupskip= backupcopy=yes" -c "%s/.*/$content/" -c wq $file && rm $file~',
    "vim without backupcopy": f'{VI} -c "set backup backupskip= backupcopy=no" -c "%s/.*/$content/" -c wq $file && rm $file~',
    "ed": 'printf "%s\\n" 1c "$content" . w q | ed -s $file',
}
#: what was refused they replace by the backup they made, which is accepted
RECOVERING = ("mv with a backup", "vim with backupcopy", "vim without backupcopy")
_TOOLS = {"vim": "vim.tiny", "rsync": "rsync", "ed": "ed"}

ways = pytest.mark.parametrize("way", WAYS)


def write(way: str, vnf: Vnf, file: str, content: str, elsewhere: Path, check: bool = True) -> bool:
    """Make ``content`` the content of a file in one of the ways; whether the client says that it did."""
    tool = _TOOLS.get(way.split()[0])
    need("tools", tool is None or shutil.which(tool) is not None, f"{tool} is not installed")
    source = elsewhere / "source"
    source.write_text(f"{content}\n")
    variables = {"file": file, "content": content, "source": str(source), "HOME": str(elsewhere)}
    return sh(WAYS[way], vnf.path, check, **variables).returncode == 0


@ways
def test_a_stored_file_reads_back_what_was_written(way: str, vnf: Vnf, elsewhere: Path) -> None:
    before = sorted(os.listdir(vnf.path)), sorted(os.listdir(vnf.path / "machine"))
    for file, old, new in (
        ("config/nf_conf", "# old rules", "# new"),
        ("config/extra", "old", "a longer one"),
        ("config/boot.conf", "autostart=yes", "autostart=no"),
        ("machine/vm.memory", "128M", "64M"),
    ):
        (vnf.path / file).write_text(f"{old}\n")
        assert write(way, vnf, file, new, elsewhere)
        assert vnf.read(file) == f"{new}\n", file
        assert (vnf.path / file).stat().st_size == len(new) + 1
    assert sorted(os.listdir(vnf.path / "config")) == ["boot.conf", "extra", "nf_conf"]
    assert (sorted(os.listdir(vnf.path)), sorted(os.listdir(vnf.path / "machine"))) == before
    vnf.path.joinpath("config/extra").unlink()
    vnf.path.rmdir()


@ways
def test_an_order_is_carried_out(way: str, vnf: Vnf, elsewhere: Path) -> None:
    vnf.act("deploy")
    assert write(way, vnf, "state", "RUNNING", elsewhere)
    assert (vnf.state, vnf.error) == ("RUNNING", "")
    assert write(way, vnf, "action", "destroy", elsewhere)
    assert (vnf.value("action"), vnf.state, vnf.error) == ("destroy", "DEFINED", "")
    vnf.path.rmdir()


@ways
def test_a_bad_value_is_refused_and_the_old_one_stays(way: str, vnf: Vnf, elsewhere: Path) -> None:
    vnf.write("machine/vm.memory", "64M\n")
    assert not write(way, vnf, "machine/vm.memory", "plenty", elsewhere, check=False)
    assert vnf.read("machine/vm.memory") == "64M\n"
    assert way in RECOVERING or "'plenty' is not an amount of memory" in vnf.error
    sh("rm -f machine/*~", vnf.path)
    vnf.path.rmdir()


@ways
def test_a_bad_order_is_refused_and_nothing_happens(way: str, vnf: Vnf, elsewhere: Path) -> None:
    vnf.act("deploy")
    assert not write(way, vnf, "state", "BLOOMING", elsewhere, check=False)
    assert way in RECOVERING or "BLOOMING" in vnf.error
    assert vnf.state == "CONFIGURED"
    sh("rm -f *~", vnf.path)
    vnf.path.rmdir()


def test_appending_adds_to_text_and_lines_and_replaces_a_value(vnf: Vnf) -> None:
    vnf.write("config/nf_conf", "# one\n")
    vnf.write("config/boot.conf", "# a comment\n")
    vnf.write("machine/vm.memory", "128M\n")
    for append in ("echo {} >> {}", "echo {} | tee -a {}"):
        for file, line in (("config/nf_conf", "'# two'"), ("config/boot.conf", "autostart=no")):
            sh(append.format(line, file), vnf.path)
        sh(append.format("64M", "machine/vm.memory"), vnf.path)
        sh(append.format("CONFIGURED", "state"), vnf.path)
        sh(append.format("destroy", "action"), vnf.path)
    assert vnf.read("config/nf_conf") == "# one\n# two\n# two\n"
    assert vnf.read("config/boot.conf") == "# a comment\nautostart=no\nautostart=no\n"
    assert vnf.read("machine/vm.memory") == "64M\n"
    assert (vnf.value("action"), vnf.state) == ("destroy", "DEFINED")
    assert sh("echo plenty >> machine/vm.memory", vnf.path, check=False).returncode
    assert sh("echo autostart=perhaps >> config/boot.conf", vnf.path, check=False).returncode
    assert vnf.read("machine/vm.memory") == "64M\n"
    assert vnf.read("config/boot.conf") == "# a comment\nautostart=no\nautostart=no\n"


def test_truncating_alone_is_no_order(vnf: Vnf) -> None:
    vnf.act("deploy")
    sh(": > action; : > state; truncate -s 0 action state; touch action state; cp /dev/null state", vnf.path)
    assert (vnf.value("action"), vnf.state, vnf.error) == ("deploy", "CONFIGURED", "")
    vnf.path.rmdir()


def nano(directory: Path, file: str, content: str) -> None:
    """Replace the one line of a file in nano, on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C", "HOME": "/nonexistent"}
        os.execvpe("nano", ["nano", "--ignorercfiles", file], environment)
    screen = b""

    def shows(text: bytes) -> bool:
        nonlocal screen
        while select.select([terminal], [], [], 0)[0]:
            try:
                screen += os.read(terminal, 65536)
            except OSError:  # the terminal's other side is closed: nano has ended
                break
        return text in screen

    try:
        wait_until(lambda: shows(b"^X"), 10, "nano shows its screen")
        os.write(terminal, b"\x0b" + content.encode() + b"\x0f\r")  # cut the line, type, write out
        wait_until(lambda: shows(b"Wrote 1 line"), 10, "nano has saved")
        os.write(terminal, b"\x18")
        wait_until(lambda: shows(b"") and os.waitpid(pid, os.WNOHANG)[0], 10, "nano ends")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(terminal)


def test_nano_saves(vnf: Vnf) -> None:
    need("tools", shutil.which("nano") is not None, "nano is not installed")
    vnf.act("deploy")
    vnf.write("config/boot.conf", "autostart=yes\n")
    nano(vnf.path, "config/boot.conf", "autostart=no")
    assert vnf.read("config/boot.conf") == "autostart=no\n"
    nano(vnf.path, "state", "DEFINED")
    assert (vnf.state, vnf.error) == ("DEFINED", "")


@pytest.mark.parametrize("options", ["", "--inplace", "--checksum", "--whole-file"])
def test_rsync_copies_a_configuration_out_and_back_in(options: str, vnf: Vnf, elsewhere: Path) -> None:
    need("tools", shutil.which("rsync") is not None, "rsync is not installed")
    (vnf.path / "config/extra.nft").write_text("# extra\n" * 5000)
    (vnf.path / "config/link").symlink_to("extra.nft")
    default = vnf.read("config/nf_conf")
    assert sh(
        f"rsync -ai {options} {vnf.path}/config . && diff -r {vnf.path}/config config", elsewhere
    ).stdout
    assert sh(f"rsync -ai {options} {vnf.path}/config .", elsewhere).stdout == ""
    (elsewhere / "config/boot.conf").write_text("autostart=no\n")
    (elsewhere / "config/nf_conf").write_text("# short\n")
    os.chmod(elsewhere / "config/nf_conf", 0o600)
    (elsewhere / "config/extra.nft").write_text("# changed\n")
    os.utime(elsewhere / "config/boot.conf", (1_700_000_000, 1_700_000_000))
    sent = sh(f"rsync -ai {options} config {vnf.path}", elsewhere).stdout
    assert "boot.conf" in sent and "nf_conf" in sent and "extra.nft" in sent
    assert vnf.read("config/nf_conf") == "# short\n" != default
    assert vnf.read("config/extra.nft") == "# changed\n"
    assert (vnf.path / "config/nf_conf").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(vnf.path / "config")) == ["boot.conf", "extra.nft", "link", "nf_conf"]
    assert sh(f"rsync -ai {options} config {vnf.path}", elsewhere).stdout == ""
