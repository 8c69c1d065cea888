"""The lifecycle, word by word and state by state, on the in-memory hypervisor."""

from __future__ import annotations

import threading

import pytest
from engine import wait_until
from lifecycle import STATES, TABLE, WANTED, allowed
from memory_engine import MemoryEngine
from world import TRUTH, World, errno_of

from hypervisor.hypervisor_base import Phase, Resources
from nfio.errors import (
    Busy,
    ConfigurationRejected,
    HypervisorError,
    InvalidValue,
    NotFound,
    NotPermitted,
    StateTransitionNotAllowedException,
)
from nfio.states import State


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("word", TABLE)
def test_every_word_moves_from_where_it_may_and_is_refused_elsewhere(
    world: World, word: str, state: State
) -> None:
    vnf = world.in_state(state)
    action = vnf.record.action
    if allowed(word, state):
        world.act(vnf, word)
        assert vnf.state is TABLE[word][1]
        assert (vnf.record.action, vnf.record.error) == (word, "")
    else:
        with pytest.raises(
            StateTransitionNotAllowedException, match=f"{word} is not allowed while it is {state.name}"
        ):
            world.act(vnf, word)
        assert vnf.state is state
        assert vnf.record.action == action and vnf.record.error.startswith(word)
    guest = world.engine.of(vnf.uuid)
    assert vnf.state in TRUTH[guest.phase if guest else None]


@pytest.mark.parametrize(
    "word", ["deploy", "activate", "start", "pause", "resume", "unpause", "stop", "destroy"]
)
def test_a_word_that_asks_for_what_is_already_so_does_nothing(world: World, word: str) -> None:
    vnf = world.in_state(TABLE[word][1])
    world.engine.settle()
    world.engine.calls.clear()
    before = world.states()
    world.act(vnf, word)
    assert set(world.engine.calls) <= {"inspect", "ping"} and world.states() == before


@pytest.mark.parametrize("word", ["restart", "reload"])
def test_restart_and_reload_act_although_it_runs(world: World, word: str) -> None:
    vnf = world.in_state(State.RUNNING)
    world.engine.calls.clear()
    world.act(vnf, word)
    assert {"restart", "execute_in_guest"} & set(world.engine.calls)


@pytest.mark.parametrize("word", ["", "ACTIVATE", "activate now", "x" * 200, "mkdir", "\x1b[31m"])
@pytest.mark.parametrize("state", STATES)
def test_other_words_are_refused_in_every_state(world: World, word: str, state: State) -> None:
    vnf = world.in_state(state)
    with pytest.raises(InvalidValue):
        world.act(vnf, word)
    assert vnf.state is state and "is not an action" in vnf.record.error


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("state", STATES)
def test_every_state_can_be_asked_for_from_every_state(world: World, state: State, wanted: State) -> None:
    vnf = world.in_state(state)
    world.engine.settle()
    moves = len(world.states())
    world.orchestrator.reach(vnf, wanted)
    assert vnf.state is wanted and vnf.record.error == ""
    world.engine.settle()
    if state is wanted:
        assert len(world.states()) == moves
    else:
        assert world.states()[-1] is wanted
    world.orchestrator.reach(vnf, wanted)
    assert vnf.state is wanted


def test_a_vnf_is_made_with_what_its_type_and_its_files_say(world: World) -> None:
    vnf = world.define()
    world.write(world.path("machine/vm.vcpu"), b"0.5\n")
    world.write(world.path("machine/vm.memory"), b"64M\n")
    world.write(world.path("machine/vm.image"), b"other:1.0\n")
    world.act(vnf, "deploy")
    guest = world.guest(vnf)
    assert guest.phase is Phase.CONFIGURED and guest.image == "other:1.0"
    assert guest.name.endswith("-plain-a")
    assert guest.resources == Resources(0.5, 64 << 20)
    assert (guest.spec.root, guest.spec.uuid) == (world.store.root_id, vnf.uuid)
    assert guest.spec.capabilities == ()
    assert guest.config() == {"boot.conf": b"", "nf_conf": b"plain\n"}


def test_an_image_that_does_not_exist_leaves_nothing(world: World) -> None:
    vnf = world.define()
    world.write(world.path("machine/vm.image"), b"missing\n")
    for word in ("deploy", "activate"):
        with pytest.raises(HypervisorError, match="no such image: missing"):
            world.act(vnf, word)
        assert vnf.state is State.DEFINED and world.engine.guests == {}
        assert vnf.record.error == "no such image: missing"
    world.write(world.path("machine/vm.image"), b"")
    world.tree.truncate(world.path("machine/vm.image"), 0)
    with pytest.raises(InvalidValue, match=r"vm\.image is empty"):
        world.act(vnf, "activate")
    assert vnf.state is State.DEFINED


def test_a_type_whose_module_is_gone_cannot_be_deployed_but_removed(world: World) -> None:
    vnf = world.in_state(State.CONFIGURED)
    world.act(vnf, "destroy")
    (world.module_root / "plain.py").unlink()
    with pytest.raises(NotPermitted, match="no module implements"):
        world.act(vnf, "activate")
    with pytest.raises(NotPermitted):
        world.define("b")
    world.orchestrator.undefine(vnf)
    assert world.orchestrator.vnfs == {}


@pytest.mark.parametrize("image", ["crashing", "nfio/plain"])
def test_an_activation_whose_start_fails_removes_what_deploy_made(world: World, image: str) -> None:
    vnf = world.define()
    if image == "crashing":
        world.write(world.path("machine/vm.image"), b"crashing\n")
    else:
        world.write(world.path("config/nf_conf"), b"nonsense\n")
    with pytest.raises((HypervisorError, ConfigurationRejected)) as refusal:
        world.act(vnf, "activate")
    assert vnf.state is State.DEFINED and world.engine.guests == {}
    assert vnf.record.error == refusal.value.line != ""
    # Deployed first, it is kept: its owner asked for that.
    world.act(vnf, "deploy")
    for word in ("start", "activate"):
        with pytest.raises((HypervisorError, ConfigurationRejected)):
            world.act(vnf, word)
        world.engine.settle()
        assert vnf.state is State.CONFIGURED and len(world.engine.guests) == 1


def test_a_reload_with_a_bad_configuration_leaves_the_old_one(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    applied = dict(world.guest(vnf).applied)
    world.write(world.path("config/nf_conf"), b"nonsense\n")
    with pytest.raises(ConfigurationRejected, match="syntax error"):
        world.act(vnf, "reload")
    assert world.guest(vnf).config() == world.guest(vnf).applied == applied
    assert vnf.state is State.RUNNING
    world.write(world.path("config/nf_conf"), b"better\n")
    world.act(vnf, "reload")
    assert world.guest(vnf).applied["nf_conf"] == b"better\n"


@pytest.mark.parametrize("kind", ["firewall", "web"])
def test_types_with_live_files_of_their_own_restart_and_reload_on_another_host(
    world: World, kind: str
) -> None:
    text = f"from middleboxes.{kind} import MIDDLEBOX\n"
    (world.module_root / f"{kind}.py").write_text(text)
    vnf = world.define("b", kind)
    world.act(vnf, "activate")
    world.act(vnf, "restart")
    assert vnf.state is State.RUNNING


# -- limits, place, name, commands ------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_limits_hold_at_once_where_there_is_a_guest(world: World, state: State) -> None:
    vnf = world.in_state(state)
    before = world.states()
    world.write(world.path("machine/vm.memory"), b"32M\n")
    guest = world.engine.of(vnf.uuid)
    assert guest is None or guest.resources == Resources(None, 32 << 20)
    assert vnf.state is state
    told = world.states()[len(before) :]
    assert told == ([State.SCALING, State.RUNNING] if state is State.RUNNING else [])
    assert world.read(world.path("machine/vm.memory")) == b"32M\n"


def test_limits_that_the_engine_refuses_are_not_stored(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    world.engine.fail("scale", HypervisorError("too little"))
    assert errno_of(lambda: world.write(world.path("machine/vm.memory"), b"1\n")) == "EIO"
    assert world.read(world.path("machine/vm.memory")) == b""
    assert vnf.state is State.RUNNING and vnf.record.error == "too little"


def test_a_vnf_moves_to_another_host_only_while_nothing_of_it_is_here(world: World) -> None:
    world.driver.engines["10.0.0.2"] = MemoryEngine()
    vnf = world.in_state(State.CONFIGURED)
    with pytest.raises(Busy, match="destroy it before it moves"):
        world.write(world.path("machine/ip"), b"10.0.0.2\n")
    assert (vnf.host, world.read(world.path("machine/ip"))) == ("", b"")
    world.act(vnf, "destroy")
    world.write(world.path("machine/ip"), b"10.0.0.2\n")
    world.act(vnf, "activate")
    assert world.engine.guests == {} and len(world.driver.engine("10.0.0.2").guests) == 1
    (guest,) = world.driver.engine("10.0.0.2").guests
    world.driver.engine("10.0.0.2").kill(guest)
    wait_until(lambda: vnf.state is State.ERROR, 5, "its death is seen there")
    world.driver.engine("10.0.0.2").close_streams()


def test_a_vnf_is_renamed_while_nothing_of_it_is_there(world: World) -> None:
    vnf = world.in_state(State.CONFIGURED)
    world.define("taken")
    with pytest.raises(Busy, match="destroy it before you rename it"):
        world.orchestrator.rename(vnf, "b")
    world.act(vnf, "destroy")
    assert errno_of(lambda: world.orchestrator.rename(vnf, "taken")) == "EEXIST"
    world.orchestrator.rename(vnf, "b")
    assert set(world.orchestrator.vnfs) == {("plain", "b"), ("plain", "taken")}
    world.act(vnf, "activate")
    assert world.guest(vnf).name.endswith("-plain-b")
    world.again()
    assert world.vnf("b").uuid == vnf.uuid


def test_a_command_runs_in_the_guests_shell_and_its_output_is_kept(world: World) -> None:
    vnf = world.in_state(State.RUNNING)
    kept: list[bytes] = []
    world.orchestrator.execute(vnf, "echo 'a  b'", kept.append)
    assert kept == [b"a  b\n"]
    command = world.guest(vnf).commands[-1]
    assert command[:2] == ["/bin/sh", "-c"] and command[-1] == "echo 'a  b'"
    with pytest.raises(HypervisorError, match="exit status 3: last line"):
        world.orchestrator.execute(vnf, "exit 3", kept.append)
    assert vnf.transcript == kept[-1] == b"first line\nlast line\n"


@pytest.mark.parametrize("state", [state for state in STATES if state is not State.RUNNING])
def test_a_command_needs_a_running_vnf(world: World, state: State) -> None:
    vnf = world.in_state(state)
    with pytest.raises(Busy, match=state.name):
        world.orchestrator.execute(vnf, "echo", print)
    assert vnf.state is state


# -- the end of a VNF ---------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_only_a_vnf_that_holds_no_traffic_can_be_removed(world: World, state: State) -> None:
    vnf = world.in_state(state)
    if state in (State.RUNNING, State.PAUSED):
        with pytest.raises(Busy, match="stop or destroy it first"):
            world.orchestrator.undefine(vnf)
        assert world.vnf() is vnf and vnf.state is state
        return
    world.orchestrator.undefine(vnf)
    assert world.orchestrator.vnfs == {} and world.engine.guests == {}
    assert list(world.store.instances()) == []
    with pytest.raises(NotFound):
        world.act(vnf, "activate")
    assert world.define().uuid != vnf.uuid


def test_a_removal_that_the_engine_refuses_removes_nothing(world: World) -> None:
    vnf = world.in_state(State.CONFIGURED)
    world.engine.fail("destroy", HypervisorError("device busy"))
    with pytest.raises(HypervisorError):
        world.orchestrator.undefine(vnf)
    assert vnf.state is State.CONFIGURED and vnf.record.error == "device busy"
    world.orchestrator.undefine(vnf)
    assert world.engine.guests == {}


# -- two at once --------------------------------------------------------------------------------


def test_two_writers_to_one_vnf_are_served_one_after_the_other(world: World) -> None:
    vnf = world.define()
    world.engine.hold = hold = threading.Event()
    first = threading.Thread(target=world.act, args=(vnf, "activate"))
    first.start()
    wait_until(lambda: vnf.busy == "activate", 5, "the first is under way")
    second = threading.Thread(target=world.act, args=(vnf, "pause"))
    second.start()
    assert vnf.busy == "activate"
    world.engine.hold = None
    hold.set()
    first.join(10)
    second.join(10)
    assert vnf.state is State.PAUSED


def test_an_operation_on_one_vnf_keeps_no_other_and_no_reader_waiting(world: World) -> None:
    slow, other = world.define("slow"), world.define("other")
    world.engine.hold = hold = threading.Event()
    thread = threading.Thread(target=world.act, args=(slow, "activate"))
    thread.start()
    wait_until(lambda: "create" in world.engine.calls, 5, "the engine was asked")
    world.engine.hold = None
    world.act(other, "activate")
    assert (other.state, slow.state) == (State.RUNNING, State.DEFINED)
    assert world.read(world.path("uuid", "slow")) == f"{slow.uuid}\n".encode()
    hold.set()
    thread.join(10)
    assert slow.state is State.RUNNING


def test_a_writer_that_waits_too_long_for_another_is_told_so(world: World) -> None:
    vnf = world.define()
    world.driver.timeout_s = 0.05
    world.engine.hold = hold = threading.Event()
    thread = threading.Thread(target=world.act, args=(vnf, "activate"))
    thread.start()
    wait_until(lambda: vnf.busy == "activate", 5, "the first is under way")
    assert errno_of(lambda: world.act(vnf, "destroy")) == "ETIMEDOUT"
    world.driver.timeout_s = 2.0
    world.engine.hold = None
    hold.set()
    thread.join(10)
    assert vnf.state is State.RUNNING
