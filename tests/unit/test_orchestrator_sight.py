"""What happens behind nfio's back, and what is found when it comes back itself."""

from __future__ import annotations

import pytest
from engine import wait_until
from lifecycle import STATES
from memory_driver import MemoryDriver
from world import World

from hypervisor.hypervisor_base import VnfSpec
from nfio.errors import HypervisorError, NetworkDown
from nfio.states import State


def test_what_the_engine_does_on_its_own_is_seen_and_told(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    vnf_id = world.guest(vnf).vnf_id
    for happen, state in (
        (lambda: world.engine.freeze(vnf_id), State.PAUSED),
        (lambda: world.engine.run(vnf_id), State.RUNNING),
        (lambda: world.engine.end(vnf_id, 143), State.CONFIGURED),
        (lambda: world.engine.run(vnf_id), State.RUNNING),
        (lambda: world.engine.kill(vnf_id), State.ERROR),
        (lambda: world.engine.run(vnf_id), State.RUNNING),
        (lambda: world.engine.break_(vnf_id, "no space"), State.ERROR),
        (lambda: world.engine.remove(vnf_id), State.DEFINED),
    ):
        happen()
        world.await_state(vnf, state)
        assert (vnf.record.error != "") == (state is State.ERROR)
    assert world.states()[-3:] == [State.RUNNING, State.ERROR, State.DEFINED]
    with pytest.raises(NetworkDown):
        vnf.running_guest()


def test_a_restart_that_was_refused_does_not_hide_a_later_death(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    world.engine.fail("restart", HypervisorError("no"))
    with pytest.raises(HypervisorError):
        world.act(vnf, "restart")
    assert vnf.state is State.RUNNING
    world.engine.kill(world.guest(vnf).vnf_id)
    world.await_state(vnf, State.ERROR)


def test_a_guest_of_which_nothing_is_defined_is_removed(world: World) -> None:
    wait_until(lambda: "list_guests" in world.engine.calls, 5, "the engine is followed")
    world.engine.settle()
    mine = VnfSpec(root=world.store.root_id, uuid="gone")
    world.engine.add("root-plain-gone", "nfio/plain", mine)
    wait_until(lambda: not world.engine.guests, 5, "the orphan is removed")
    stranger = world.engine.add("root-plain-x", "nfio/plain", VnfSpec(root="another root", uuid="other"))
    world.again()
    vnf = world.define()
    world.act(vnf, "activate")
    world.engine.settle()
    assert stranger.vnf_id in world.engine.guests


def test_two_roots_on_one_engine_never_touch_each_others_guests(
    world: World, driver: MemoryDriver, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = World(tmp_path_factory.mktemp("other"), driver)
    vnfs = [each.in_state(State.RUNNING) for each in (world, other)]
    names = {guest.name for guest in world.engine.guests.values()}
    assert len(names) == 2
    world.again()
    world.await_state(world.vnf(), State.RUNNING)
    world.act(world.vnf(), "destroy")
    other.await_state(vnfs[1], State.RUNNING)
    other.end()


# -- nfio's own end -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_every_vnf_is_adopted_as_it_was(world: World, state: State) -> None:
    vnf = world.in_state(state)
    guests = dict(world.engine.guests)
    world.again()
    world.await_state(world.vnf(), state)
    assert world.vnf().uuid == vnf.uuid and world.engine.guests == guests
    assert (world.vnf().record.error != "") == (state is State.ERROR)
    world.orchestrator.reach(world.vnf(), State.RUNNING)
    assert world.vnf().state is State.RUNNING


@pytest.mark.parametrize(("code", "told"), [(1, True), (137, False)])
def test_one_that_ends_by_itself_has_its_last_words_in_error(world: World, code: int, told: bool) -> None:
    vnf = world.in_state(State.RUNNING)
    guest = world.guest(vnf)
    guest.console += b"some\nthe disk is full\n"
    world.engine.end(guest.vnf_id, code)
    world.await_state(vnf, State.ERROR)
    assert f"exit code {code}" in vnf.record.error and "echo RUNNING" in vnf.record.error
    assert ("log ends with 'the disk is full'" in vnf.record.error) is told


def test_what_happened_while_nfio_was_not_there_is_seen(world: World) -> None:
    killed, stopped, removed = (world.in_state(State.RUNNING, name) for name in ("a", "b", "c"))
    world.end()
    world.engine.kill(world.guest(killed).vnf_id)
    world.engine.end(world.guest(stopped).vnf_id, 143)
    world.engine.remove(world.guest(removed).vnf_id)
    world._begin()
    world.await_state(world.vnf("a"), State.ERROR)
    world.await_state(world.vnf("b"), State.CONFIGURED)
    world.await_state(world.vnf("c"), State.DEFINED)


def test_autostart_runs_what_shall_run_and_nothing_else(world: World) -> None:
    for name in ("yes", "no", "bad"):
        world.define(name)
    world.write(world.path("config/boot.conf", "yes"), b"autostart=yes\n")
    world.write(world.path("config/boot.conf", "bad"), b"autostart=yes\n")
    world.write(world.path("machine/vm.image", "bad"), b"missing\n")
    world.again()
    world.await_state(world.vnf("yes"), State.RUNNING)
    wait_until(lambda: "no such image" in world.vnf("bad").record.error, 5, "the bad one is reported")
    assert world.vnf("no").state is State.DEFINED


def test_an_instance_that_cannot_be_read_hurts_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        world.define(name)
    (world.store.instance("plain", "a") / ".nfio.json").write_text("{ half")
    world.again()
    assert set(world.orchestrator.vnfs) == {("plain", "b")}
    assert "plain/a cannot be read" in caplog.text
