"""A type's own files when something goes wrong in the middle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine import wait_until
from knobs import at, create, told
from world import World, errno_of

from nfio.vnf import Vnf


def test_nfio_that_is_killed_while_a_knob_is_turned_finishes_with_what_is_stored(
    world: World, running: Vnf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "write", kill)
        patch.setattr(Path, "unlink", kill)  # nothing is tidied up any more
        with pytest.raises(Killed):
            world.write(at("policy"), b"drop\n")
    assert told(world, running) == ["policy drop"] and world.read(at("policy")) == b"accept\n"
    world.again()
    wait_until(lambda: told(world, world.vnf(kind="knobs")) == ["policy accept"], 5, "it is put right")
    wait_until(lambda: not list((world.store.own / "changing").iterdir()), 5, "and known to be")


def test_a_late_write_leaves_the_next_of_that_name_alone(world: World, vnf: Vnf) -> None:
    late = world.tree.open(at("policy"), os.O_WRONLY)
    world.tree.rmdir("/nf-types/knobs/a")
    new = world.define(kind="knobs")
    assert errno_of(lambda: late.write(b"drop\n", 0)) == "ENOENT"
    assert new.store.read_record("knobs", "a").uuid == new.uuid


def test_temporary_files_among_the_types_own_are_cleared(world: World, vnf: Vnf) -> None:
    world.tree.mkdir(at("sets/1"), 0o755)
    create(world, "sets/1/.10.0.0.5.Ab12Cd", b"half")
    world.again()
    assert errno_of(lambda: world.tree.getattr(at("sets/1/.10.0.0.5.Ab12Cd"))) == "ENOENT"
