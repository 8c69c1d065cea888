"""What unlinking a file of the tree means: reset, absent for whoever did it, kept for a while."""

from __future__ import annotations

import os

import pytest
from engine import wait_until
from world import World, errno_of

from nfio import undelete
from nfio.states import State

ME = (os.getuid(), os.getgid(), 1000)
OTHER = (os.getuid(), os.getgid(), 1001)


def test_a_file_of_the_tree_is_reset_and_absent_for_its_remover_for_a_moment(world: World) -> None:
    world.define()
    path = world.path("config/nf_conf")
    world.write(path, b"mine\n")
    world.caller = ME
    world.tree.unlink(path)
    assert errno_of(lambda: world.tree.getattr(path)) == "ENOENT"
    world.caller = OTHER
    assert world.tree.getattr(path)["st_size"] == len(b"plain\n")
    assert world.read(path) == b"plain\n"
    world.caller = ME
    wait_until(lambda: errno_of(lambda: world.tree.getattr(path)) == "", undelete.ABSENT_S + 5)


def test_whoever_removed_it_can_create_it_anew_at_once(world: World) -> None:
    world.define()
    world.caller = ME
    path = world.path("config/nf_conf")
    world.tree.unlink(path)
    handle = world.tree.create(path, os.O_WRONLY | os.O_EXCL, 0o644)
    handle.write(b"new\n", 0)
    handle.close()
    assert world.read(path) == b"new\n"


@pytest.mark.parametrize("file", ["config/nf_conf", "machine/vm.memory", "config/boot.conf", "config/mine"])
def test_what_rm_r_removed_is_put_back_when_the_vnf_runs(world: World, file: str) -> None:
    vnf = world.in_state(State.RUNNING)
    content = {"config/boot.conf": b"autostart=no\n", "machine/vm.memory": b"64M\n"}.get(file, b"mine\n")
    path = world.path(file)
    if file == "config/mine":
        world.tree.create(path, os.O_WRONLY, 0o644).close()
    world.write(path, content)
    world.tree.unlink(path)
    assert errno_of(lambda: world.tree.rmdir(world.path(""))) == "EBUSY"
    assert world.read(path) == content
    assert vnf.state is State.RUNNING


def test_what_was_made_anew_since_is_not_replaced_by_what_was_kept(world: World) -> None:
    world.in_state(State.RUNNING)
    path = world.path("config/nf_conf")
    world.write(path, b"old\n")
    world.tree.unlink(path)
    world.write(path, b"new\n")
    assert errno_of(lambda: world.tree.rmdir(world.path(""))) == "EBUSY"
    assert world.read(path) == b"new\n"


def test_nothing_is_kept_of_a_vnf_that_is_gone(world: World) -> None:
    world.define()
    world.write(world.path("config/nf_conf"), b"old\n")
    world.tree.unlink(world.path("config/nf_conf"))
    world.tree.rmdir(world.path(""))
    assert os.listdir(world.store.own / "trash") == []
    world.define()
    assert world.read(world.path("config/nf_conf")) == b"plain\n"
