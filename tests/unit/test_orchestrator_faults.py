"""Engines that refuse, hang and go away: what is true is seen again, and nothing is left behind."""

from __future__ import annotations

import pytest
from engine import wait_until
from world import TRUTH, World, errno_of

from hypervisor.hypervisor_base import Phase
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable, NfioError
from nfio.states import State

TIMEOUT = HypervisorTimeout("the engine does not answer")
UNREACHABLE = HypervisorUnreachable("nobody is there")
REFUSAL = HypervisorError("disk full")

#: word, the state it is written in, and the calls it makes to the engine
CALLS = [
    ("deploy", State.DEFINED, "create"),
    ("activate", State.DEFINED, "create"),
    ("activate", State.DEFINED, "start"),
    ("start", State.CONFIGURED, "start"),
    ("pause", State.RUNNING, "pause"),
    ("resume", State.PAUSED, "unpause"),
    ("stop", State.RUNNING, "stop"),
    ("stop", State.PAUSED, "stop"),
    ("restart", State.RUNNING, "restart"),
    ("restart", State.CONFIGURED, "restart"),
    ("destroy", State.RUNNING, "destroy"),
    ("destroy", State.ERROR, "destroy"),
    ("reload", State.RUNNING, "execute_in_guest"),
    ("reload", State.RUNNING, "push_config"),
]


def truth(world: World, name: str = "a") -> set[State]:
    guest = world.engine.of(world.vnf(name).uuid)
    return TRUTH[guest.phase if guest else None]


@pytest.mark.parametrize(("word", "state", "call"), CALLS)
def test_what_an_engine_refuses_changes_nothing(world: World, word: str, state: State, call: str) -> None:
    vnf = world.in_state(state)
    world.engine.fail(call, REFUSAL)
    assert errno_of(lambda: world.act(vnf, word)) == "EIO"
    assert vnf.record.error == "disk full"
    assert vnf.state is state and state in truth(world)
    world.act(vnf, word)
    assert vnf.record.error == ""


@pytest.mark.parametrize("done", [False, True], ids=["not carried out", "carried out"])
@pytest.mark.parametrize("error", [TIMEOUT, UNREACHABLE], ids=["timeout", "unreachable"])
@pytest.mark.parametrize(("word", "state", "call"), CALLS)
def test_what_an_engine_does_not_answer_is_found_out(
    world: World, word: str, state: State, call: str, error: NfioError, done: bool
) -> None:
    vnf = world.in_state(state)
    world.engine.fail(call, error, done=done)
    assert errno_of(lambda: world.act(vnf, word)) in ("ETIMEDOUT", "EHOSTUNREACH")
    assert vnf.record.error == error.reason
    world.engine.settle()
    wait_until(lambda: vnf.state in truth(world), 5, f"{vnf.state.name} becomes what is true")
    # Whatever was done or not: the next order leads where it says, and nothing is left behind.
    world.orchestrator.reach(vnf, State.RUNNING)
    assert vnf.state is State.RUNNING and len(world.engine.guests) == 1
    world.act(vnf, "destroy")
    assert world.engine.guests == {}


@pytest.mark.parametrize("error", [TIMEOUT, UNREACHABLE], ids=["timeout", "unreachable"])
def test_a_vnf_that_was_made_although_nobody_said_so_is_not_left_behind(
    world: World, error: NfioError
) -> None:
    vnf = world.define()
    world.engine.fail("create", error, done=True)
    assert errno_of(lambda: world.act(vnf, "deploy")) in ("ETIMEDOUT", "EHOSTUNREACH")
    world.orchestrator.undefine(vnf)
    world.engine.settle()
    wait_until(lambda: not world.engine.guests, 5, "nothing is left")


def test_a_start_and_its_undoing_that_both_fail_leave_what_can_be_seen(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    vnf = world.define()
    world.engine.fail("start", REFUSAL)
    world.engine.fail("destroy", HypervisorError("device busy"))
    assert errno_of(lambda: world.act(vnf, "activate")) == "EIO"
    assert vnf.record.error == "disk full" and "device busy" in caplog.text
    assert vnf.state is State.CONFIGURED and vnf.state in truth(world)
    world.act(vnf, "start")
    assert vnf.state is State.RUNNING


@pytest.mark.parametrize("error", [TIMEOUT, UNREACHABLE], ids=["hung", "gone"])
def test_while_an_engine_does_not_answer_nothing_is_claimed_and_all_is_well_when_it_is_back(
    world: World, error: NfioError
) -> None:
    expected = {TIMEOUT: "ETIMEDOUT", UNREACHABLE: "EHOSTUNREACH"}[error]
    vnf, untouched = world.in_state(State.RUNNING), world.define("untouched")
    world.engine.down = error
    world.engine.close_streams()
    wait_until(lambda: errno_of(lambda: world.read(world.path("state"))) == expected, 5, "it is noticed")
    assert errno_of(lambda: world.read(world.path("status"))) == expected
    assert errno_of(lambda: world.act(vnf, "stop")) == expected
    assert errno_of(lambda: world.act(untouched, "activate")) == expected
    assert world.read(world.path("error")) == f"{error.reason}\n".encode()
    # What needs no engine goes on.
    assert world.read(world.path("uuid")) == f"{vnf.uuid}\n".encode()
    assert world.read(world.path("state", "untouched")) in (b"DEFINED\n", b"")
    assert world.tree.getattr(world.path("state"))["st_size"] == 1000
    world.define("meanwhile")
    world.engine.kill(world.guest(vnf).vnf_id)
    world.engine.down = None
    wait_until(lambda: errno_of(lambda: world.read(world.path("state"))) == "", 5, "it is back")
    assert world.read(world.path("state")) == b"ERROR\n"
    world.orchestrator.reach(vnf, State.RUNNING)
    world.orchestrator.reach(untouched, State.RUNNING)


def test_an_activation_that_fails_before_the_engine_was_reached_leaves_a_vnf_that_can_be_removed(
    world: World,
) -> None:
    vnf = world.define()
    world.engine.down = UNREACHABLE
    world.engine.close_streams()
    assert errno_of(lambda: world.act(vnf, "activate")) == "EHOSTUNREACH"
    world.engine.down = None
    wait_until(lambda: errno_of(lambda: world.orchestrator.undefine(vnf)) == "", 5, "it can be removed")
    assert world.orchestrator.vnfs == {} and world.engine.guests == {}


def test_a_host_that_was_mistyped_can_be_corrected(world: World) -> None:
    vnf = world.define()
    world.write(world.path("machine/ip"), b"nowhere\n")
    assert errno_of(lambda: world.act(vnf, "activate")) == "EHOSTUNREACH"
    assert vnf.record.error == "there is no host nowhere"
    world.write(world.path("machine/ip"), b"localhost\n")
    world.act(vnf, "activate")
    world.act(vnf, "destroy")
    world.write(world.path("machine/ip"), b"nowhere\n")
    assert errno_of(lambda: world.act(vnf, "deploy")) == "EHOSTUNREACH"
    world.orchestrator.undefine(vnf)


def test_a_mount_comes_up_without_an_engine_and_sees_it_when_it_comes(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    world.end()
    world.engine.down = UNREACHABLE
    world._begin()
    vnf = world.vnf()
    assert errno_of(lambda: world.read(world.path("state"))) == "EHOSTUNREACH"
    assert errno_of(lambda: world.read(world.path("stats/rx_bytes"))) in ("ENETDOWN", "EHOSTUNREACH")
    world.engine.down = None
    world.await_state(vnf, State.RUNNING)
    assert world.read(world.path("stats/rx_bytes")) == b"1000\n"


def test_an_orphan_that_cannot_be_removed_now_is_reported(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    vnf = world.in_state(State.CONFIGURED)
    guest = world.guest(vnf)
    world.end()
    world.store.remove_instance("plain", "a", vnf.uuid)
    world.engine.fail("destroy", HypervisorError("device busy"), anybody=True)
    world._begin()
    wait_until(lambda: "device busy" in caplog.text, 5, "it is in the log")
    assert guest.phase is Phase.CONFIGURED
    world.again()
    wait_until(lambda: not world.engine.guests, 5, "the next run removes it")


@pytest.mark.parametrize("word", ["deploy", "activate"])
def test_a_vnf_that_cannot_be_looked_at_after_it_was_made_is_not_left_behind(world: World, word: str) -> None:
    vnf = world.define()
    world.engine.fail("inspect", REFUSAL)
    assert errno_of(lambda: world.act(vnf, word)) == "EIO"
    world.engine.settle()
    assert world.engine.guests == {} and vnf.state is State.DEFINED
    world.act(vnf, word)
