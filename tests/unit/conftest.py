"""Fixtures of the unit tests: no root, no network, no engine but the one in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from knobs import KNOBS
from memory_driver import MemoryDriver
from world import World, forget_hypervisor, register_memory_driver, unregister_memory_driver

from nfio.vnf import Vnf


@pytest.fixture
def no_hypervisor() -> Iterator[None]:
    """As in a process that has no hypervisor yet."""
    forget_hypervisor()
    yield
    forget_hypervisor()


@pytest.fixture
def driver() -> Iterator[MemoryDriver]:
    yield register_memory_driver()
    unregister_memory_driver()


@pytest.fixture
def world(tmp_path: Path, driver: MemoryDriver) -> Iterator[World]:
    made = World(tmp_path, driver)
    yield made
    made.end()


@pytest.fixture
def vnf(world: World) -> Iterator[Vnf]:
    (world.module_root / "knobs.py").write_text(KNOBS)
    yield world.define(kind="knobs")


@pytest.fixture
def running(world: World, vnf: Vnf) -> Vnf:
    world.engine.images.add("nfio/knobs")
    world.act(vnf, "activate")
    return vnf
