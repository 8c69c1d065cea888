"""Bad input on a real mount: the right errno, the reason in words, and nothing else changed."""

from __future__ import annotations

import json
import os
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_view import EngineView
from mount import Mount, Vnf, errno_of, mounted

MIB = 1 << 20

#: bytes that are nobody's text
GARBAGE = [
    b"\xff\xfe\x00\x01",
    b"\x00",
    b"activate\x00",
    b"\xc3\x28\n",
    b"\x1b[2J\x1b]0;title\x07",
    random.Random(1).randbytes(200),
    b"RUNNING\xff",
]

NAMES = ["-dash", ".dot", "a b", " a", "a ", "a\nb", "a\tb", "a'b", 'a"b', "a;b", "$(id)", "`id`", "a\\b", "a*",
         "é", "a" * 64, "a" * 300, "a&b", "a|b", "a>b", "~a", "a:b", "a,b", "a=b", "%s", "\x7f"]  # fmt: skip


@pytest.fixture(scope="module")
def mount(view: EngineView) -> Iterator[Mount]:
    """One mount for all: what is refused leaves nothing behind that could disturb the next test."""
    with mounted(view) as made:
        yield made


@pytest.fixture
def vnf(mount: Mount) -> Iterator[Vnf]:
    """A web server, defined; removed at the end whatever it does."""
    made = mount.make("web", "www")
    yield made
    made.write("state", "DEFINED\n")
    made.path.rmdir()
    assert mount.guests() == []


@pytest.fixture
def running(stocked: EngineView, vnf: Vnf) -> Vnf:
    vnf.act("activate")
    return vnf


def snapshot(mount: Mount, vnf: Vnf) -> dict[str, object]:
    """Everything that is stored of an instance but its last error, and the state it is in."""
    place = mount.root / "nf-types" / vnf.path.parent.name / vnf.path.name
    found: dict[str, object] = {
        str(path.relative_to(place)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else None,
        )
        for path in place.rglob("*")
        if path.name != ".nfio.json"
    }
    record = json.loads((place / ".nfio.json").read_text())
    del record["error"]
    return {**found, "record": record, "state": vnf.state, "guests": mount.guests()}


def check_refused(mount: Mount, vnf: Vnf, file: str, data: bytes | str, errno: str = "EINVAL") -> None:
    """A write that fails with an errno, says why in one line of words, and changes nothing."""
    before = snapshot(mount, vnf)
    assert errno_of(lambda: vnf.write(file, data)) == errno, (file, data[:50])
    line = vnf.value("error")
    assert line and line.isprintable() and line.isascii() and len(line) < 610, line
    assert snapshot(mount, vnf) == before, (file, data[:50])


# -- orders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["action", "state", "command"])
def test_blank_binary_and_huge_orders_are_refused(mount: Mount, vnf: Vnf, file: str) -> None:
    for data in (b"\n", b"   \n", b"\t\t", b"\r\n", *GARBAGE, b"x" * MIB, b"\n" * MIB, b"\x00" * MIB):
        if file == "command" and data in (GARBAGE[4],):
            continue  # text, to a shell
        check_refused(mount, vnf, file, data)
    # An empty file is no order at all: `: > action` truncates, and does nothing.
    before = snapshot(mount, vnf)
    vnf.write(file, b"")
    assert snapshot(mount, vnf) == before


def test_other_words_and_states_are_refused_and_the_right_ones_named(mount: Mount, vnf: Vnf) -> None:
    for word in (
        "fly",
        "ACTIVATE",
        "activate now",
        "activate\ndestroy",
        "activate;",
        "../action",
        "x" * 200,
        "é",
    ):
        check_refused(mount, vnf, "action", word)
        assert "write one of deploy, activate, start" in vnf.error
    for state in ("ERROR", "UNDEFINED", "MIGRATING", "running", "4", "RUNNING PAUSED", "-1", "None"):
        check_refused(mount, vnf, "state", state)
        assert "write one of DEFINED, CONFIGURED, RUNNING, PAUSED" in vnf.error
    for word in ("start", "stop", "pause", "resume", "unpause", "restart", "reload"):
        check_refused(mount, vnf, "action", word, "EBUSY")
        assert vnf.error.startswith(f"{word} is not allowed while it is DEFINED")
    check_refused(mount, vnf, "command", "echo", "EBUSY")


# -- values -----------------------------------------------------------------------------------

BAD_VALUES = {
    "machine/vm.memory": ["-1", "0", "0M", "NaN", "inf", "1" + "0" * 30, "64M; rm -rf /", "64 M", "1.5G", "lots",
                          "0x40", "64M\n64M"],
    "machine/vm.vcpu": ["0", "-1", "inf", "nan", "1e9", "one", "1; reboot", "0.0001", "1\n2", "--1"],
    "machine/ip": ["-oProxyCommand=id", "a b", "a;b", "$(id)", "http://a", "a/b", "a@b@c", "é", "x" * 254],
    "machine/vm.image": ["--privileged", "-v/:/host", "a b", "a;b", "$(id)", "`id`", "a|b", "a\nb", "é", "x" * 256],
    "config/boot.conf": ["cpu=1", "autostart", "autostart=maybe", "=yes", "autostart=yes\nkernel", "[boot]"],
}  # fmt: skip


@pytest.mark.parametrize("file", BAD_VALUES)
def test_a_bad_value_is_refused_and_the_old_one_stays(mount: Mount, vnf: Vnf, file: str) -> None:
    good = {
        "machine/vm.memory": "64M\n",
        "machine/vm.vcpu": "0.5\n",
        "machine/ip": "localhost\n",
        "config/boot.conf": "autostart=no\n",
    }
    vnf.write(file, good.get(file, "other\n"))
    for text in BAD_VALUES[file]:
        check_refused(mount, vnf, file, f"{text}\n")
    for data in (*GARBAGE, b"1" * MIB, b" " * MIB, b"#" * MIB):
        check_refused(mount, vnf, file, data)
    assert vnf.read(file) == good.get(file, "other\n")


def test_any_configuration_is_stored_byte_for_byte(mount: Mount, vnf: Vnf) -> None:
    for data in (*GARBAGE, b"", random.Random(2).randbytes(MIB)):
        vnf.write("config/nf_conf", data)
        assert (vnf.path / "config/nf_conf").read_bytes() == data


def test_a_configuration_of_garbage_is_refused_by_the_functions_own_checker(
    mount: Mount, stocked: EngineView, vnf: Vnf
) -> None:
    for data in (GARBAGE[0], GARBAGE[5], b"x" * 70_000):
        vnf.write("config/nf_conf", data)
        check_refused(mount, vnf, "action", "activate")
        assert mount.guests() == [] and vnf.state == "DEFINED"


# -- what the engine refuses ------------------------------------------------------------------


def test_images_that_do_not_exist_or_cannot_are_the_engines_refusal(mount: Mount, vnf: Vnf) -> None:
    for image in ("no/such:image", "UPPER", "a//b", "a:b:c", "a@sha256:00"):
        vnf.write("machine/vm.image", f"{image}\n")
        check_refused(mount, vnf, "action", "activate", "EIO")
        check_refused(mount, vnf, "state", "RUNNING", "EIO")
    vnf.write("machine/vm.image", "no/such:image\n")
    check_refused(mount, vnf, "action", "deploy", "EIO")
    assert "no/such:image" in vnf.error and "nfio image list" in vnf.error
    vnf.write("machine/vm.image", "\n")
    check_refused(mount, vnf, "action", "activate")
    assert "vm.image is empty" in vnf.error


@pytest.mark.parametrize("memory", ["1", "4095K", "999999999999999999T"])
def test_limits_that_no_engine_can_give_leave_nothing(
    mount: Mount, stocked: EngineView, vnf: Vnf, memory: str
) -> None:
    vnf.write("machine/vm.memory", f"{memory}\n")
    check_refused(mount, vnf, "action", "activate", "EIO")
    assert "emory" in vnf.error or "number" in vnf.error
    vnf.write("machine/vm.memory", "\n")
    vnf.act("activate")
    check_refused(mount, vnf, "machine/vm.memory", f"{memory}\n", "EIO")
    assert vnf.state == "RUNNING"


def test_hosts_that_cannot_be_reached_are_said_to_be(mount: Mount, vnf: Vnf) -> None:
    if not mount.engine.other_hosts:
        check_refused(mount, vnf, "machine/ip", "no-such-host.invalid\n", "ENOTSUP")  # the same number
        return
    vnf.write("machine/ip", "no-such-host.invalid\n")
    before = vnf.read("machine/ip")
    assert errno_of(lambda: vnf.act("activate")) == "EHOSTUNREACH"
    assert vnf.error and vnf.read("machine/ip") == before
    assert mount.guests() == []


# -- names ------------------------------------------------------------------------------------


def test_an_instance_needs_a_name(mount: Mount) -> None:
    place = os.fsencode(mount.path / "nf-types" / "web")
    for name in [*map(os.fsencode, NAMES), b"\xff", b"a\xffb", b"\xc3\x28"]:
        assert errno_of(lambda name=name: os.mkdir(place + b"/" + name)) == "EINVAL", name
        assert errno_of(lambda name=name: os.stat(place + b"/" + name)) == "ENOENT", name
    for name, error in (
        (b"..", "EEXIST"), (b".", "EEXIST"), (b"a/b", "ENOENT"), (b"../teapot", "EPERM"), (b"a" * 2000, "ENAMETOOLONG"),
    ):  # fmt: skip
        assert errno_of(lambda name=name: os.mkdir(place + b"/" + name)) == error, name
    with pytest.raises(ValueError, match="null"):
        os.mkdir(place + b"/a\0b")  # no system call can take it
    assert os.listdir(place) == [] and list((mount.root / "nf-types").rglob("*/*")) == []
    for name in ("a", "0", "A.b_c-d", "a" * 63, "4913"):
        os.mkdir(mount.path / "nf-types" / "web" / name)


def test_a_file_needs_a_name(mount: Mount, vnf: Vnf) -> None:
    before = snapshot(mount, vnf)
    place = os.fsencode(vnf.path / "config")
    for name, errors in (
        (b"a\nb", {"EINVAL"}), (b"\x1b[31m", {"EINVAL"}), (b"\xff", {"EINVAL"}), (b"a\xc3", {"EINVAL"}),
        (b"x" * 256, {"EINVAL", "ENAMETOOLONG"}), (b"x" * 2000, {"ENAMETOOLONG"}),
    ):  # fmt: skip
        path = place + b"/" + name
        assert errno_of(lambda path=path: os.mknod(path)) in errors, name
        assert errno_of(lambda path=path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT))) in errors, name
        assert errno_of(lambda path=path: os.symlink(b"nf_conf", path)) in errors, name
        assert errno_of(lambda path=path: os.rename(place + b"/nf_conf", path)) in errors, name
    assert snapshot(mount, vnf) == before
    # Other names are a user's own business, in config/.
    for name in ("a b", "a'b", "$(id)", "-rf", "é", "x" * 255, ".hidden"):
        (vnf.path / "config" / name).write_text(name)
        assert (vnf.path / "config" / name).read_text() == name
        (vnf.path / "config" / name).unlink()


def test_directories_are_made_among_the_instances_of_a_type_only(mount: Mount, vnf: Vnf) -> None:
    for place in ("", "nf-types", "metrics", "pipes", "nf-types/web/www", *(
        f"nf-types/web/www/{directory}" for directory in ("config", "machine", "stats")
    )):  # fmt: skip
        assert errno_of((mount.path / place / "new").mkdir) == "EPERM", place
    assert errno_of((vnf.path / "config").mkdir) == "EEXIST"
    assert errno_of((mount.path / "nf-types/teapot").mkdir) == "EPERM"
    assert errno_of((mount.path / "nf-types/teapot/r0").mkdir) == "ENOENT"
    assert errno_of((vnf.path / "uuid/x").mkdir) == "ENOTDIR"
    assert errno_of(vnf.path.mkdir) == "EEXIST"


def test_what_is_read_only_stays_as_it_is(mount: Mount, vnf: Vnf) -> None:
    before = snapshot(mount, vnf)
    files = [vnf.path / file for file in ("status", "error", "uuid", "log", "machine/vm.ip", "requests")]
    files += list((vnf.path / "stats").iterdir())
    files += [mount.path / file for file in ("version", "events", "metrics/nfio.prom", "pipes/events")]
    for path in files:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            assert errno_of(lambda path=path, flags=flags: os.open(path, flags)) == "EACCES", path
        assert errno_of(lambda path=path: os.truncate(path, 0)) == "EACCES", path
    for path in (
        vnf.path / "mine",
        vnf.path / "stats/mine",
        mount.path / "mine",
        mount.path / "nf-types/web/mine",
    ):
        assert errno_of(lambda path=path: path.write_text("x")) == "EACCES", path
    assert snapshot(mount, vnf) == before


def test_devices_fifos_sockets_and_hard_links_are_eperm(mount: Mount, vnf: Vnf) -> None:
    before = snapshot(mount, vnf)
    path = vnf.path / "config" / "new"
    assert errno_of(lambda: os.link(vnf.path / "config/nf_conf", path)) == "EPERM"
    assert errno_of(lambda: os.link(vnf.path / "action", vnf.path / "config/action")) == "EPERM"
    assert errno_of(lambda: os.mkfifo(path)) == "EPERM"
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert errno_of(lambda kind=kind: os.mknod(path, kind | 0o600, os.makedev(1, 3))) == "EPERM"
    with socket.socket(socket.AF_UNIX) as server:
        assert errno_of(lambda: server.bind(str(path))) == "EPERM"
    for target in ("/etc/passwd", "../action", "..", "/"):
        assert errno_of(lambda target=target: os.symlink(target, path)) == "EPERM"
    assert errno_of(lambda: os.symlink("uuid", vnf.path / "link")) == "EPERM"
    assert snapshot(mount, vnf) == before


# -- commands ---------------------------------------------------------------------------------


def test_a_command_is_the_guests_shells_alone(mount: Mount, running: Vnf, directory: Path) -> None:
    witness = directory / "witness"
    for command, output in (
        ("echo 'a  b' \"c\"", "a  b c\n"),
        ("echo $(echo inner) `echo old`", "inner old\n"),
        ("echo one\necho two", "one\ntwo\n"),
        ("printf '%s\\n' \"'\" '\"' '\\'", "'\n\"\n\\\n"),
        ("echo out; echo err >&2", "out\nerr\n"),
        ("echo é", "é\n"),
        (f"touch {witness} 2>/dev/null; echo done", "done\n"),
        ("-c", None),
        ("'", None),
        ("exit 3", None),
        ("no-such-program --flag", None),
        ("x" * 30_000, None),
    ):
        if output is None:
            assert errno_of(lambda command=command: running.write("command", command)) == "EIO", command
            assert running.error.isprintable() and len(running.error) < 610
        else:
            running.write("command", f"{command}\n")
            assert running.read("command") == output
    assert not witness.exists()
    for data in (b"echo \xff", b"echo \x00", b"x" * (65 << 10), b"x" * MIB):
        check_refused(mount, running, "command", data)
    (guest,) = mount.guests()
    assert running.state == "RUNNING"
    assert not mount.engine.is_privileged(guest)


def test_binary_output_of_a_command_comes_as_it_is(mount: Mount, running: Vnf) -> None:
    running.write("command", "printf '\\377\\000\\n'")
    assert (running.path / "command").read_bytes() == b"\xff\x00\n"
    assert errno_of(lambda: running.write("command", "printf '\\377\\033[31m'; exit 1")) == "EIO"
    assert running.read("error").count("\n") == 1


# -- the command line ---------------------------------------------------------------------------
