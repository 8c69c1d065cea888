"""The tree, called without a mount: what is there, who may do what, and what a name may be."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from world import World, drain, errno_of

from nfio import __version__
from nfio.errors import HypervisorTimeout
from nfio.states import State
from nfio.tree import COUNTERS, DIRECTORIES, FILES, LIVE_SIZE, Kind

NO_SUCH = [
    "/nothing", "/nf-types/nothing", "/nf-types/nothing/a", "/nf-types/plain/none", "/metrics/none",
    "/nf-types/plain/a/none", "/nf-types/plain/a/stats/none", "/nf-types/plain/a/none/none",
    "/nf-types/plain/a/.nfio.json", "/nf-types/plain/a/config/.nfio.json/x", "/nf-types/plain/a/action/x",
    "/.nfio", "/.nfio/root-id", "/nf-types/plain/a/../../../etc/passwd",
]  # fmt: skip


def walk(world: World, path: str = "/") -> list[str]:
    found = [path]
    if stat.S_ISDIR(world.tree.getattr(path)["st_mode"]):
        for name in world.tree.readdir(path):
            found += walk(world, f"{path.rstrip('/')}/{name}")
    return found


def test_the_tree_holds_what_is_promised_and_everything_listed_is_there(world: World) -> None:
    world.define()
    found = walk(world)
    top = {
        "/",
        "/nf-types",
        "/metrics",
        "/metrics/nfio.prom",
        "/events",
        "/pipes",
        "/pipes/events",
        "/version",
    }
    instance = {world.path(file) for file in (*FILES, *DIRECTORIES, "greeting", "")}
    assert set(found) == top | instance | {"/nf-types/plain"}
    assert {f"stats/{counter}" for counter in COUNTERS} <= set(FILES)


def test_every_file_has_its_mode_its_owner_and_its_size(world: World) -> None:
    world.define()
    for file, spec in FILES.items():
        found = world.tree.getattr(world.path(file))
        assert stat.S_ISREG(found["st_mode"]) and stat.S_IMODE(found["st_mode"]) == spec.mode, file
        assert (found["st_uid"], found["st_gid"]) == world.caller[:2]
        if spec.live:
            assert found["st_size"] == LIVE_SIZE
        else:
            assert found["st_size"] == len(world.read(world.path(file)))
    assert stat.S_IMODE(world.tree.getattr(world.path("command"))["st_mode"]) == 0o600


def test_looking_and_listing_ask_no_engine(world: World) -> None:
    world.in_state(State.RUNNING)
    world.again()
    world.await_state(world.vnf(), State.RUNNING)
    world.engine.calls.clear()
    for path in walk(world):
        world.tree.getattr(path)
    assert set(world.engine.calls) <= {"ping"}


@pytest.mark.parametrize("path", NO_SUCH)
def test_what_is_not_there_is_enoent_for_everybody(world: World, path: str) -> None:
    world.define()
    for call in (
        lambda: world.tree.getattr(path),
        lambda: world.tree.open(path, os.O_RDONLY),
        lambda: world.tree.open(path, os.O_WRONLY),
        lambda: world.tree.readdir(path),
        lambda: world.tree.unlink(path),
        lambda: world.tree.rmdir(path),
        lambda: world.tree.chmod(path, 0o600),
        lambda: world.tree.utimens(path, None),
        lambda: world.tree.truncate(path, 0),
        lambda: world.tree.readlink(path),
        lambda: world.tree.access(path, os.R_OK),
    ):
        assert errno_of(call) == "ENOENT"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/x", "/nf-types", "/nf-types/x", "/metrics/x", "/pipes/x", "/nf-types/plain/a/x",
        "/nf-types/plain/a/config/x", "/nf-types/plain/a/stats/x", "/nf-types/unknown/a", "/version/x",
    ],
)  # fmt: skip
def test_directories_are_made_among_the_instances_of_a_type_only(world: World, path: str) -> None:
    world.define()
    before = walk(world)
    assert errno_of(lambda: world.tree.mkdir(path, 0o755)) == "EPERM"
    assert walk(world) == before


@pytest.mark.parametrize(
    "name", [".hidden", "-dash", "a b", "a'b", 'a"b', "a\nb", "ä", "\udcff", "a" * 64, "a;b"]
)
def test_an_instance_needs_a_name(world: World, name: str) -> None:
    assert errno_of(lambda: world.tree.mkdir(f"/nf-types/plain/{name}", 0o755)) == "EINVAL"
    assert world.orchestrator.vnfs == {}


def test_an_instance_is_made_once_and_removed_whole(world: World) -> None:
    world.tree.mkdir(world.path(""), 0o750)
    assert stat.S_IMODE(world.tree.getattr(world.path(""))["st_mode"]) == 0o750
    assert errno_of(lambda: world.tree.mkdir(world.path(""), 0o755)) == "EEXIST"
    world.tree.rmdir(world.path(""))
    assert errno_of(lambda: world.tree.getattr(world.path(""))) == "ENOENT"


# -- reading ----------------------------------------------------------------------------------


def test_files_answer_with_one_value_and_one_newline(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    expected = {
        "action": "activate",
        "status": "running",
        "state": "RUNNING",
        "uuid": vnf.uuid,
        "machine/vm.ip": world.guest(vnf).address,
        "machine/vm.image": "nfio/plain",
        "stats/rx_bytes": "1000",
        "stats/tx_bytes": "2000",
        "stats/rx_packets": "10",
        "stats/tx_packets": "20",
        "stats/pkt_drops": "3",
        "stats/cpu_seconds": "1",
        "stats/memory_bytes": "4096",
        "greeting": f"hello from {world.guest(vnf).address}",
    }
    for file, value in expected.items():
        assert world.read(world.path(file)) == f"{value}\n".encode(), file
    for file in ("error", "command", "machine/ip", "machine/vm.vcpu"):
        assert world.read(world.path(file)) == b"", file
    assert world.read(world.path("log")) == b"nfio: ready\n"
    assert world.read("/version") == f"{__version__}\n".encode()
    assert set(FILES) - set(expected) <= {
        "error", "command", "log", "machine/ip", "machine/vm.vcpu", "machine/vm.memory", "config/boot.conf",
        "config/nf_conf",
    }  # fmt: skip


@pytest.mark.parametrize("state", [State.DEFINED, State.CONFIGURED, State.ERROR])
def test_live_values_of_what_does_not_run_are_enetdown(world: World, state: State) -> None:
    world.in_state(state)
    for file in [file for file in FILES if file.startswith("stats/")] + ["machine/vm.ip", "greeting"]:
        assert errno_of(lambda file=file: world.read(world.path(file))) == "ENETDOWN"


def test_a_value_is_the_one_it_was_when_the_file_was_opened(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    handle = world.tree.open(world.path("state"), os.O_RDONLY)
    world.act(vnf, "pause")
    assert handle.read(3, 0) + handle.read(100, 3) == b"RUNNING\n"
    assert handle.read(100, 8) == b""
    assert world.read(world.path("state")) == b"PAUSED\n"


def test_directories_cannot_be_read_and_files_not_be_listed(world: World) -> None:
    world.define()
    for path in ("/", "/nf-types", "/nf-types/plain", world.path(""), world.path("stats")):
        assert errno_of(lambda path=path: world.tree.open(path, os.O_RDONLY)) == "EISDIR"
    for path in ("/version", world.path("action"), world.path("config/nf_conf")):
        assert errno_of(lambda path=path: world.tree.readdir(path)) == "ENOTDIR"


# -- writing ----------------------------------------------------------------------------------


def test_what_is_read_only_cannot_be_written(world: World) -> None:
    world.in_state(State.RUNNING)
    files = [world.path(file) for file, spec in FILES.items() if spec.kind is Kind.LIVE]
    for path in [*files, world.path("greeting"), "/version", "/events", "/metrics/nfio.prom"]:
        for call in (
            lambda path=path: world.tree.open(path, os.O_WRONLY),
            lambda path=path: world.tree.open(path, os.O_RDWR | os.O_TRUNC),
            lambda path=path: world.tree.truncate(path, 0),
        ):
            assert errno_of(call) == "EACCES", path
    assert errno_of(lambda: world.tree.access(world.path("uuid"), os.W_OK)) == "EACCES"


@pytest.mark.parametrize("file", ["action", "state", "command"])
def test_truncating_an_order_is_no_order(world: World, file: str) -> None:
    vnf = world.in_state(State.RUNNING)
    world.tree.truncate(world.path(file), 0)
    handle = world.tree.open(world.path(file), os.O_WRONLY | os.O_TRUNC)
    handle.truncate(0)
    handle.close()
    assert vnf.state is State.RUNNING and vnf.record.error == ""


def test_orders_are_carried_out_when_they_are_written(world: World) -> None:
    vnf = world.define()
    world.write(world.path("action"), b"activate\n")
    assert vnf.state is State.RUNNING
    world.write(world.path("state"), b"PAUSED")
    assert vnf.state is State.PAUSED
    assert errno_of(lambda: world.write(world.path("action"), b"activate\n")) == "EBUSY"
    assert errno_of(lambda: world.write(world.path("state"), b"MIGRATING\n")) == "EINVAL"
    assert b"MIGRATING" in world.read(world.path("error"))


def test_of_many_who_write_commands_at_once_each_gets_its_own_answer(world: World) -> None:
    world.in_state(State.RUNNING)
    wrong: list[bytes] = []

    def ask(number: int) -> None:
        handle = world.tree.open(world.path("command"), os.O_RDWR)
        for turn in range(50):
            words = f"{number} {turn}\n".encode()
            handle.write(b"echo " + words, 0)
            if (answer := handle.read(100, 0)) != words:
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_reader_of_one_open_file_gets_the_answer_to_its_own_command(world: World) -> None:
    world.in_state(State.RUNNING)
    one = world.tree.open(world.path("command"), os.O_RDWR)
    two = world.tree.open(world.path("command"), os.O_RDWR)
    one.write(b"echo one\n", 0)
    two.write(b"echo two\n", 0)
    assert (one.read(100, 9), two.read(100, 9)) == (b"one\n", b"two\n")
    assert world.read(world.path("command")) == b"two\n"
    world.engine.fail("execute_in_guest", HypervisorTimeout("it did not end"))
    assert errno_of(lambda: two.write(b"echo two\n", 9)) == "ETIMEDOUT"
    assert two.read(100, 18) == b""
    assert errno_of(lambda: one.write(b"exit 3\n", 9)) == "EIO"
    assert drain(one).endswith(b"last line\n")


@pytest.mark.parametrize(
    ("file", "good", "bad"),
    [
        ("machine/vm.memory", b"64M\n", b"-1\n"),
        ("machine/vm.vcpu", b"0.5\n", b"nan\n"),
        ("machine/ip", b"10.0.0.1\n", b"a b\n"),
        ("machine/vm.image", b"other:1.0\n", b"--privileged\n"),
        ("config/boot.conf", b"autostart=no\n", b"cpu=1\n"),
    ],
)
def test_a_value_reads_back_byte_for_byte_and_a_bad_one_changes_nothing(
    world: World, file: str, good: bytes, bad: bytes
) -> None:
    vnf = world.define()
    world.write(world.path(file), good)
    assert world.read(world.path(file)) == good
    assert errno_of(lambda: world.write(world.path(file), bad)) == "EINVAL"
    assert world.read(world.path(file)) == good and vnf.record.error
    if file != "config/boot.conf":
        # What `>>` adds to one value takes its place.
        world.write(world.path(file), good, os.O_APPEND)
        assert world.read(world.path(file)) == good
    world.again()
    assert world.read(world.path(file)) == good


def test_a_value_is_emptied_by_truncating_it_and_nothing_more(world: World) -> None:
    world.define()
    world.write(world.path("machine/vm.memory"), b"64M\n")
    world.tree.truncate(world.path("machine/vm.memory"), 0)
    assert world.read(world.path("machine/vm.memory")) == b""
    assert world.tree.getattr(world.path("machine/vm.memory"))["st_size"] == 0


def test_configuration_reads_back_byte_for_byte_whatever_it_holds(world: World) -> None:
    world.define()
    content = bytes(range(256)) * 5000
    world.write(world.path("config/nf_conf"), content)
    assert world.read(world.path("config/nf_conf")) == content
    assert world.tree.getattr(world.path("config/nf_conf"))["st_size"] == len(content)
    world.write(world.path("config/nf_conf"), b"short", 0)
    assert world.read(world.path("config/nf_conf")) == b"short" + content[5:]
    world.tree.truncate(world.path("config/nf_conf"), 3)
    assert world.read(world.path("config/nf_conf")) == b"sho"


# -- what all see -----------------------------------------------------------------------------


def test_events_are_told_as_a_file_and_as_a_stream(world: World) -> None:
    stream = world.tree.open("/pipes/.events", os.O_RDONLY)
    world.in_state(State.RUNNING)
    lines = world.read("/events").splitlines()
    assert [line for line in lines if b'"activate"' in line]
    assert stream.read(1 << 20, 0).splitlines()[0] == lines[0]
    assert world.tree.readlink("/pipes/events") == ".events"


def test_metrics_hold_every_instance_and_only_what_is_known(world: World) -> None:
    world.in_state(State.RUNNING, "up")
    world.in_state(State.ERROR, "down")
    text = world.read("/metrics/nfio.prom").decode()
    for line in (
        'nfio_vnf_up{type="plain",instance="up"} 1',
        'nfio_vnf_up{type="plain",instance="down"} 0',
        'nfio_vnf_state{type="plain",instance="down"} -1',
        'nfio_vnf_receive_bytes_total{type="plain",instance="up"} 1000',
        'nfio_vnf_cpu_seconds_total{type="plain",instance="up"} 1.5',
        "nfio_scrape_errors 0",
    ):
        assert f"{line}\n" in text
    assert 'receive_bytes_total{type="plain",instance="down"}' not in text
    helps = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(helps) == len(set(helps))
    assert text.count("# TYPE") == len(helps)


def test_a_type_whose_module_is_gone_still_shows_its_instances(world: World) -> None:
    world.define()
    (world.module_root / "plain.py").unlink()
    assert world.tree.readdir("/nf-types") == ["plain"]
    assert world.tree.readdir("/nf-types/plain") == ["a"]
    assert world.read(world.path("state")) == b"DEFINED\n"
    world.tree.rmdir(world.path(""))
    assert world.tree.readdir("/nf-types") == []
