"""A type's own files: knobs, entries, orders; what is refused, what survives, what the guest is told."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from knobs import at, create, told
from world import World, errno_of

from nfio import own_operations
from nfio.errors import HypervisorError
from nfio.states import State
from nfio.vnf import Vnf


def test_a_knob_holds_its_default_and_what_is_written_to_it(world: World, vnf: Vnf) -> None:
    assert world.read(at("policy")) == b"accept\n"
    assert world.tree.getattr(at("policy"))["st_size"] == 7
    world.write(at("policy"), b"drop\n")
    assert world.read(at("policy")) == b"drop\n"
    world.again()
    assert world.read(at("policy")) == b"drop\n"
    world.tree.unlink(at("policy"))
    world.caller = (0, 0, 1)
    assert world.read(at("policy")) == b"accept\n"


def test_a_knob_refuses_what_is_no_value_and_says_why(world: World, vnf: Vnf) -> None:
    for bad in (b"maybe\n", b"\xff\xfe", b"drop\0", b"drop\ndrop\n", b"d" * 70000):
        assert errno_of(lambda bad=bad: world.write(at("policy"), bad)) == "EINVAL"
        assert world.read(at("policy")) == b"accept\n"
    world.tree.open(at("policy"), os.O_WRONLY | os.O_TRUNC).close()  # `: > policy`
    assert vnf.record.error == "policy: write accept or drop, not ''"
    assert world.read(at("policy")) == b"accept\n"


def test_a_running_vnf_is_told_before_the_write_returns_and_one_that_is_started(
    world: World, vnf: Vnf
) -> None:
    world.engine.images.add("nfio/knobs")
    world.write(at("policy"), b"drop\n")
    world.act(vnf, "activate")
    assert told(world, vnf) == ["policy drop"]
    world.write(at("forwards"), b"tcp 80\n# no\n\n udp 53 \n")
    assert told(world, vnf) == ["policy drop", "tcp 80", "udp 53"]
    assert world.guest(vnf).commands[-2:] == [["check"], ["apply"]]
    world.write(at("forwards"), b"tcp 81\n", os.O_APPEND)
    assert world.read(at("forwards")) == b"tcp 80\n# no\n\n udp 53 \ntcp 81\n"
    assert told(world, vnf)[-1] == "tcp 81"
    commands = len(world.guest(vnf).commands)
    world.write(at("policy"), b"drop\n")
    assert len(world.guest(vnf).commands) == commands, "what is in force already is not applied again"


def test_what_the_function_refuses_changes_nothing(world: World, running: Vnf) -> None:
    world.write(at("forwards"), b"tcp 80\n")
    before = told(world, running)
    assert errno_of(lambda: world.write(at("forwards"), b"nonsense\n")) == "EINVAL"
    assert "syntax error" in running.record.error
    assert told(world, running) == before and world.read(at("forwards")) == b"tcp 80\n"
    assert running.state is State.RUNNING


def test_a_knob_does_not_bring_an_unfinished_configuration_into_force(world: World, running: Vnf) -> None:
    world.write("/nf-types/knobs/a/config/nf_conf", b"half done: nonsense\n")
    world.write(at("policy"), b"drop\n")
    assert world.guest(running).config()["nf_conf"] == b"plain\n"
    assert errno_of(lambda: world.act(running, "reload")) == "EINVAL"
    assert told(world, running) == ["policy drop"]


def test_a_paused_vnf_takes_no_change(world: World, running: Vnf) -> None:
    world.act(running, "pause")
    assert errno_of(lambda: world.write(at("policy"), b"drop\n")) == "EBUSY"
    assert world.read(at("policy")) == b"accept\n"


def test_entries_are_made_and_removed(world: World, running: Vnf) -> None:
    world.tree.mkdir(at("sets/1"), 0o755)
    create(world, "sets/1/10.0.0.5")
    create(world, "sets/1/::1", b"a note\n")
    assert world.tree.readdir(at("sets/1")) == ["10.0.0.5", "::1"]
    assert world.read(at("sets/1/::1")) == b"a note\n"
    assert told(world, running)[-1] == "set 1: 10.0.0.5 ::1"
    assert errno_of(lambda: world.tree.rmdir(at("sets/1"))) == "ENOTEMPTY"
    assert errno_of(lambda: world.tree.rmdir(at("sets"))) == "ENOTEMPTY"
    assert errno_of(lambda: world.tree.mkdir(at("sets/1"), 0o755)) == "EEXIST"
    world.again()
    running = world.vnf(kind="knobs")
    world.await_state(running, State.RUNNING)
    world.tree.unlink(at("sets/1/10.0.0.5"))
    assert told(world, running)[-1] == "set 1: ::1"
    world.tree.unlink(at("sets/1/::1"))
    world.tree.rmdir(at("sets/1"))
    assert told(world, running) == ["policy accept"]
    assert errno_of(lambda: world.tree.getattr(at("sets/1"))) == "ENOENT"


def test_an_entry_has_files_of_its_own(world: World, running: Vnf) -> None:
    assert errno_of(lambda: world.read(at("backends/b/weight"))) == "ENOENT"
    world.tree.mkdir(at("backends/b"), 0o755)
    assert world.tree.readdir(at("backends/b")) == ["load", "weight"]
    assert world.read(at("backends/b/load")) == b"b\n"
    world.write(at("backends/b/weight"), b"7\n")
    assert told(world, running)[-1] == "server b weight 7"
    assert errno_of(lambda: world.write(at("backends/b/weight"), b"x")) == "EINVAL"
    assert errno_of(lambda: create(world, "backends/b/more")) == "EACCES"
    world.tree.rmdir(at("backends/b"))
    assert told(world, running) == ["policy accept"]


@pytest.mark.parametrize("name", ["x", "1 2", "-1", "é"])
def test_an_entry_needs_a_name_that_its_type_takes(world: World, vnf: Vnf, name: str) -> None:
    assert errno_of(lambda: world.tree.mkdir(at(f"sets/{name}"), 0o755)) == "EINVAL"
    assert errno_of(lambda: world.tree.mkdir(at("other"), 0o755)) == "EPERM"
    assert errno_of(lambda: world.tree.mkdir(at("backends/none/x"), 0o755)) == "EPERM"
    assert errno_of(lambda: create(world, "sets/none/1")) == "EACCES"


def test_an_order_reaches_the_running_function_only(world: World, vnf: Vnf) -> None:
    assert errno_of(lambda: world.write(at("flush"), b"all\n")) == "ENETDOWN"
    world.engine.images.add("nfio/knobs")
    world.act(vnf, "activate")
    world.write(at("flush"), b" all\n")
    assert world.orchestrator.modules.require("knobs").files["flush"].give.__globals__["GIVEN"] == ["all"]
    assert errno_of(lambda: world.write(at("flush"), b"wrong\n")) == "EINVAL"
    assert vnf.record.error == "flush: that is no order"
    assert world.read(at("flush")) == b""


def test_a_temporary_file_may_be_moved_over_a_knob_and_to_a_new_entry(world: World, running: Vnf) -> None:
    world.tree.mkdir(at("sets/1"), 0o755)
    for target, content in (("policy", b"drop\n"), ("sets/1/10.0.0.9", b"\n")):
        temporary = f"{target.rpartition('/')[0]}/.ansible_tmpabc".lstrip("/")
        create(world, temporary, content)
        world.tree.rename(at(temporary), at(target))
        assert errno_of(lambda temporary=temporary: world.tree.getattr(at(temporary))) == "ENOENT"
    assert told(world, running) == ["policy drop", "set 1: 10.0.0.9"]
    create(world, ".ansible_tmpabc", b"never\n")
    assert errno_of(lambda: world.tree.rename(at(".ansible_tmpabc"), at("policy"))) == "EINVAL"
    assert told(world, running)[0] == "policy drop"


def test_a_removal_that_is_refused_at_its_end_has_changed_nothing(world: World, running: Vnf) -> None:
    """`rm -r` of a VNF that runs unlinks all of its files before its rmdir is refused."""
    world.write(at("policy"), b"drop\n")
    world.tree.mkdir(at("sets/1"), 0o755)
    create(world, "sets/1/10.0.0.5")
    before = told(world, running)
    world.tree.unlink(at("policy"))
    world.tree.unlink(at("sets/1/10.0.0.5"))
    world.tree.rmdir(at("sets/1"))
    world.tree.rmdir(at("sets"))
    assert told(world, running) == ["policy accept"]
    assert errno_of(lambda: world.tree.rmdir("/nf-types/knobs/a")) == "EBUSY"
    assert told(world, running) == before
    assert world.read(at("policy")) == b"drop\n" and world.tree.readdir(at("sets/1")) == ["10.0.0.5"]


def test_modes_and_owners_of_knobs_stay(world: World, vnf: Vnf) -> None:
    world.tree.chmod(at("policy"), 0o600)
    world.write(at("policy"), b"drop\n")
    assert world.tree.getattr(at("policy"))["st_mode"] & 0o777 == 0o600
    world.tree.chmod(at("flush"), 0o600)
    assert world.read(at("flush")) == b""


BIG = b"".join(b"tcp %d 10.0.0.5 80\n" % port for port in range(1000, 1400))


@pytest.mark.parametrize("flags", [os.O_TRUNC, os.O_APPEND])
def test_lines_may_come_in_full_buffers_that_end_amid_a_line(world: World, running: Vnf, flags: int) -> None:
    """tee(1), sed(1) and vim write 4 or 8 KiB at a time."""
    commands = len(world.guest(running).commands)
    handle = world.tree.open(at("forwards"), os.O_WRONLY | flags)
    for offset in range(0, len(BIG), 4096):
        handle.write(BIG[offset : offset + 4096], offset)
    assert world.read(at("forwards")) == BIG and told(world, running)[1:] == BIG.decode().splitlines()
    handle.close()
    assert world.guest(running).commands[commands:] == [["check"], ["apply"]]


def test_a_full_buffer_that_nothing_follows_counts_when_it_is_synced_or_closed(
    world: World, running: Vnf
) -> None:
    line = b"x" * 512
    handle = world.tree.open(at("forwards"), os.O_WRONLY | os.O_TRUNC)
    handle.write(line, 0)
    handle.close()
    assert world.read(at("forwards")) == line
    handle = world.tree.open(at("forwards"), os.O_WRONLY | os.O_TRUNC)
    handle.write(b"nonsense".ljust(512), 0)
    assert errno_of(handle.sync) == "EINVAL"
    assert errno_of(lambda: handle.write(b"tail\n", 512)) == "EINVAL", "a tail alone is no content"
    handle.close()
    assert world.read(at("forwards")) == line


def test_those_who_add_lines_at_once_lose_none(world: World, vnf: Vnf) -> None:
    handles = [world.tree.open(at("forwards"), os.O_WRONLY | os.O_APPEND) for _ in range(3)]
    for number, handle in enumerate(handles):
        handle.write(b"tcp %d\n" % number, 0)
        handle.close()
    assert world.read(at("forwards")) == b"tcp 0\ntcp 1\ntcp 2\n"


def test_a_write_that_comes_after_the_removal_does_not_bring_it_back(world: World, running: Vnf) -> None:
    world.tree.mkdir(at("sets/1"), 0o755)
    world.tree.mkdir(at("backends/b"), 0o755)
    for place, file in (("sets/1", "sets/1/10.0.0.5"), ("backends/b", "backends/b/weight")):
        create(world, file)  # of the server it is there already
        late = world.tree.open(at(file), os.O_WRONLY)
        emptied = world.tree.open(at(file), os.O_WRONLY | os.O_TRUNC)
        world.tree.unlink(at(file))
        world.tree.rmdir(at(place))
        assert errno_of(lambda late=late: late.write(b"7\n", 0)) == "ENOENT"
        late.close()
        emptied.close()
        assert errno_of(lambda place=place: world.tree.getattr(at(place))) == "ENOENT"
    assert told(world, running) == ["policy accept"]


def test_a_rename_that_is_refused_makes_no_entry(world: World, running: Vnf) -> None:
    for number in "12":
        world.tree.mkdir(at(f"sets/{number}"), 0o755)
    create(world, "sets/1/.10.0.0.9.abcdef", b"\xff\n")
    assert (
        errno_of(lambda: world.tree.rename(at("sets/1/.10.0.0.9.abcdef"), at("sets/1/10.0.0.9"))) == "EINVAL"
    )
    assert errno_of(lambda: world.tree.rename(at("sets/2"), at("sets/1/10.0.0.9"))) == "EACCES"
    assert told(world, running)[1:] == ["set 1: ", "set 2: "]


def test_directories_around_entries_belong_to_the_instances_owner(world: World, vnf: Vnf) -> None:
    os.chown(vnf.path, 1234, 1234)
    world.tree.mkdir(at("sets/1"), 0o755)
    create(world, "sets/1/10.0.0.5")
    world.tree.unlink(at("sets/1/10.0.0.5"))
    world.tree.rmdir(at("sets/1"))
    os.rmdir(vnf.path / "sets")
    world.tree._undelete.restore(vnf, lambda: world.caller)
    for place in ("sets", "sets/1"):
        assert world.tree.getattr(at(place))["st_uid"] == 1234, place


def test_a_removal_that_is_refused_on_its_way_changes_nothing_either(world: World, running: Vnf) -> None:
    """`rm -r` goes on with the rest, but leaves out the rmdir of what holds a part that was refused."""
    world.write(at("policy"), b"drop\n")
    world.write(at("config/nf_conf"), b"mine\n")
    world.write(at("forwards"), b"tcp 80\n")
    before = told(world, running)
    world.tree.unlink(at("action"))
    world.tree.unlink(at("config/nf_conf"))
    world.tree.unlink(at("policy"))
    assert told(world, running) == ["policy accept", "tcp 80"]
    world.engine.fail("execute_in_guest", HypervisorError("not now"))
    assert errno_of(lambda: world.tree.unlink(at("forwards"))) == "EIO"
    assert errno_of(lambda: world.tree.unlink(at("config/nf_conf"))) == "EBUSY"
    assert told(world, running) == before
    assert world.read(at("config/nf_conf")) == b"mine\n"


def test_a_paused_vnf_is_not_removed_in_part(world: World, running: Vnf) -> None:
    world.write(at("policy"), b"drop\n")
    world.write(at("config/nf_conf"), b"mine\n")
    world.act(running, "pause")
    world.tree.unlink(at("action"))
    world.tree.unlink(at("config/nf_conf"))
    assert errno_of(lambda: world.tree.unlink(at("policy"))) == "EBUSY"
    assert world.read(at("config/nf_conf")) == b"mine\n" and world.read(at("policy")) == b"drop\n"


def test_what_cannot_be_stored_does_not_stay_in_force(
    world: World, running: Vnf, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = told(world, running)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "write", full)
        assert errno_of(lambda: world.write(at("policy"), b"drop\n")) == "ENOSPC"
        patch.setattr(own_operations, "default_of", full)
        assert errno_of(lambda: world.tree.mkdir(at("backends/b"), 0o755)) == "ENOSPC"
    assert told(world, running) == before and world.tree.readdir(at("backends")) == []


def test_one_made_anew_and_left_empty_has_what_it_had(world: World, vnf: Vnf) -> None:
    """`install /dev/null policy` unlinks the file, and creates it anew."""
    world.write(at("policy"), b"drop\n")
    world.tree.unlink(at("policy"))
    create(world, "policy")
    assert world.read(at("policy")) == b"drop\n"


def test_a_streams_link_may_be_given_to_somebody(world: World, vnf: Vnf) -> None:
    """As chown -R does with an instance. It belongs to whom the stream belongs to."""
    world.tree.chown(at("pipes/words"), 1234, 1234)
    for path in ("pipes/words", "pipes/.words"):
        assert world.tree.getattr(at(path))["st_uid"] == 1234
    assert stat.S_ISLNK(world.tree.getattr(at("pipes/words"))["st_mode"])
    assert world.tree.getattr(at("pipes"))["st_uid"] == os.getuid()
