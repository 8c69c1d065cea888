"""restart=on-failure: who is started again, when, and what ends it."""

from __future__ import annotations

import time

import pytest
from engine import wait_until
from world import World

from nfio import restarter
from nfio.states import State
from nfio.vnf import Vnf


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarter, "FIRST_DELAY_S", 0.05)


def dying(world: World, conf: bytes = b"restart=on-failure\n") -> Vnf:
    """A VNF that has ended by itself."""
    vnf = world.in_state(State.RUNNING)
    world.write(world.path("config/boot.conf"), conf)
    world.engine.kill(world.guest(vnf).vnf_id)
    wait_until(lambda: State.ERROR in world.states(), 5, "it is seen to have died")
    return vnf


def test_one_that_died_is_started_again(world: World) -> None:
    vnf = dying(world)
    again = [State.RUNNING, State.ERROR, State.DEFINED, State.CONFIGURED, State.RUNNING]
    wait_until(lambda: world.states()[-5:] == again, 5, "it was started again")
    assert vnf.record.error == ""


def test_one_that_died_while_nfio_was_not_there_is_too(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    world.write(world.path("config/boot.conf"), b"restart=on-failure\n")
    world.end()
    world.engine.kill(world.guest(vnf).vnf_id)
    world._begin()
    world.await_state(world.vnf(), State.RUNNING)


def test_without_the_key_it_stays_dead(world: World) -> None:
    vnf = dying(world, b"restart=no\n")
    time.sleep(0.2)
    assert vnf.state is State.ERROR


def test_one_that_ended_on_request_stays_ended(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    world.write(world.path("config/boot.conf"), b"restart=on-failure\n")
    world.act(vnf, "stop")
    time.sleep(0.2)
    assert vnf.state is State.CONFIGURED


def test_attempts_that_fail_go_on_after_longer_waits_until_one_succeeds(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    world.write(world.path("config/boot.conf"), b"restart=on-failure\n")
    world.engine.images.remove("nfio/plain")
    begun = time.monotonic()
    world.engine.kill(world.guest(vnf).vnf_id)
    wait_until(lambda: world.engine.calls.count("create") >= 4, 5, "it is tried again")
    assert time.monotonic() - begun > 0.05 * (1 + 2 + 4)
    assert "no such image" in vnf.record.error
    world.engine.images.add("nfio/plain")
    world.await_state(vnf, State.RUNNING)


def test_an_order_ends_it(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    world.write(world.path("config/boot.conf"), b"restart=on-failure\n")
    world.engine.images.remove("nfio/plain")
    world.engine.kill(world.guest(vnf).vnf_id)
    wait_until(lambda: "no such image" in vnf.record.error, 5, "it was tried")
    world.orchestrator.reach(vnf, State.DEFINED)
    world.engine.images.add("nfio/plain")
    tried = world.engine.calls.count("create")
    time.sleep(0.5)
    assert vnf.state is State.DEFINED and world.engine.calls.count("create") == tried
