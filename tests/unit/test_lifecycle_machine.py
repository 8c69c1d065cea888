"""Random lives: words, wishes, accidents, refusals and restarts, against a model of the lifecycle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from engine import wait_until
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from lifecycle import TABLE, WANTED, allowed
from memory_engine import MemoryGuest
from world import TRUTH, World, errno_of, register_memory_driver, unregister_memory_driver

from hypervisor.hypervisor_base import Phase, VnfSpec
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable
from nfio.states import State

S = State
WORDS = st.sampled_from(sorted(TABLE))
CALLS = st.sampled_from(
    ["create", "start", "stop", "pause", "unpause", "restart", "destroy", "execute_in_guest", "inspect"]
)
FAULTS = st.sampled_from([HypervisorTimeout("hung"), HypervisorUnreachable("gone")])

ERRNOS = {"", "EINVAL", "EBUSY", "EIO", "ETIMEDOUT", "EHOSTUNREACH", "EEXIST"}


class Lives(RuleBasedStateMachine):
    """Several VNFs on one engine.

    The model holds for each the state that it must be found in; None where an engine that did
    not answer makes several possible, until the truth has been looked up.
    """

    vnfs = Bundle("vnfs")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="nfio-"))
        self.world = World(self.directory, register_memory_driver())
        self.model: dict[str, State | None] = {}
        self.stranger = self.world.engine.add("stranger", "other:1.0", VnfSpec(root="another root"))

    def teardown(self) -> None:
        self.world.end()
        unregister_memory_driver()
        shutil.rmtree(self.directory)

    # -- what is true -----------------------------------------------------------------------

    def guest(self, name: str) -> MemoryGuest | None:
        return self.world.engine.of(self.world.vnf(name).uuid)

    def truth(self, name: str) -> set[State]:
        guest = self.guest(name)
        return TRUTH[guest.phase if guest else None]

    def settled(self, name: str) -> State:
        """The state a VNF is shown in once everything that happened was dealt with."""
        self.world.engine.settle()
        vnf = self.world.vnf(name)
        wanted = self.model[name]
        expected = self.truth(name) if wanted is None else {wanted} & self.truth(name)
        assert expected, f"{name} should be {wanted}, and the engine says {self.truth(name)}"
        wait_until(
            lambda: vnf.state in expected, 5, f"{name} is shown as {vnf.state}, and should be {expected}"
        )
        self.model[name] = vnf.state
        return vnf.state

    # -- what users do ----------------------------------------------------------------------

    @rule(target=vnfs, number=st.integers(0, 3))
    def define(self, number: int) -> str:
        name = f"v{number}"
        expected = "EEXIST" if name in self.model else ""
        assert errno_of(lambda: self.world.define(name)) == expected
        self.model.setdefault(name, S.DEFINED)
        return name

    @rule(name=vnfs, word=WORDS)
    def act(self, name: str, word: str) -> None:
        if name not in self.model:
            return
        state = self.settled(name)
        vnf = self.world.vnf(name)
        result = errno_of(lambda: self.world.act(vnf, word))
        assert result == ("" if allowed(word, state) else "EBUSY")
        assert (vnf.record.error == "") == (result == "")
        if result == "":
            self.model[name] = TABLE[word][1]
            assert vnf.state is self.model[name] and vnf.record.action == word

    @rule(name=vnfs, wanted=st.sampled_from(WANTED))
    def reach(self, name: str, wanted: State) -> None:
        if name not in self.model:
            return
        self.settled(name)
        assert errno_of(lambda: self.world.orchestrator.reach(self.world.vnf(name), wanted)) == ""
        self.model[name] = wanted
        assert self.world.vnf(name).state is wanted

    @rule(name=vnfs, word=st.text(max_size=20).filter(lambda text: text not in TABLE))
    def say_nonsense(self, name: str, word: str) -> None:
        if name in self.model:
            state = self.settled(name)
            assert errno_of(lambda: self.world.act(self.world.vnf(name), word)) == "EINVAL"
            assert self.world.vnf(name).state is state

    @rule(name=vnfs, text=st.sampled_from([b"64M\n", b"128M\n", b"-1\n", b"\n"]))
    def scale(self, name: str, text: bytes) -> None:
        if name not in self.model:
            return
        state = self.settled(name)
        path = self.world.path("machine/vm.memory", name)
        assert errno_of(lambda: self.world.write(path, text)) == ("EINVAL" if text == b"-1\n" else "")
        assert self.world.vnf(name).state is state

    @rule(name=consumes(vnfs))
    def remove(self, name: str) -> None:
        if name not in self.model:
            return
        state = self.settled(name)
        vnf = self.world.vnf(name)
        result = errno_of(lambda: self.world.orchestrator.undefine(vnf))
        assert result == ("EBUSY" if state in (S.RUNNING, S.PAUSED) else "")
        if result == "":
            del self.model[name]
            assert self.world.engine.of(vnf.uuid) is None

    # -- accidents --------------------------------------------------------------------------

    def happen(self, name: str, accident: str, guest: MemoryGuest) -> None:
        engine, runs = self.world.engine, guest.phase in (Phase.RUNNING, Phase.PAUSED)
        if accident == "kill" and runs:
            engine.kill(guest.vnf_id)
            self.model[name] = S.ERROR
        elif accident == "stop" and runs:
            engine.end(guest.vnf_id, 143)
            self.model[name] = S.CONFIGURED
        elif accident == "freeze" and guest.phase is Phase.RUNNING:
            engine.freeze(guest.vnf_id)
            self.model[name] = S.PAUSED
        elif accident == "run":
            engine.run(guest.vnf_id)
            self.model[name] = S.RUNNING
        elif accident == "remove":
            engine.remove(guest.vnf_id)
            self.model[name] = S.DEFINED

    ACCIDENTS = st.sampled_from(["kill", "stop", "freeze", "run", "remove"])

    @rule(name=vnfs, accident=ACCIDENTS)
    def meet(self, name: str, accident: str) -> None:
        if name in self.model:
            self.settled(name)
            if guest := self.guest(name):
                self.happen(name, accident, guest)
                self.settled(name)

    @rule(name=vnfs, word=WORDS, call=CALLS)
    def be_refused(self, name: str, word: str, call: str) -> None:
        """Whatever the engine refuses: EIO or as if nothing was, and never half of it."""
        if name not in self.model:
            return
        state = self.settled(name)
        vnf = self.world.vnf(name)
        self.world.engine.fail(call, HypervisorError("refused"))
        result = errno_of(lambda: self.world.act(vnf, word))
        self.world.engine.faults.clear()
        if allowed(word, state):
            assert result in ("", "EIO")
        else:
            assert result in ("EBUSY", "EIO")
        self.model[name] = TABLE[word][1] if result == "" else None if call == "inspect" else state
        assert self.settled(name) in (state, TABLE[word][1])

    @rule(name=vnfs, word=WORDS, call=CALLS, error=FAULTS, done=st.booleans())
    def get_no_answer(self, name: str, word: str, call: str, error: HypervisorError, done: bool) -> None:
        if name not in self.model:
            return
        self.settled(name)
        self.world.engine.fail(call, error, done=done)
        result = errno_of(lambda: self.world.act(self.world.vnf(name), word))
        self.world.engine.faults.clear()
        assert result in ("", "EBUSY", "ETIMEDOUT", "EHOSTUNREACH")
        self.model[name] = None
        self.settled(name)
        # What it was last brought to is not certain either; a wish makes it so.
        self.reach(name, S.RUNNING)

    @rule(uuid=st.uuids())
    def find_an_orphan(self, uuid: object) -> None:
        self.world.engine.settle()
        orphan = self.world.engine.add(
            "orphan", "nfio/plain", VnfSpec(self.world.store.root_id, uuid=str(uuid))
        )
        wait_until(lambda: orphan.vnf_id not in self.world.engine.guests, 5, "the orphan is removed")

    @rule()
    def come_again(self) -> None:
        self.world.engine.settle()
        self.world.again()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), accident=ACCIDENTS)
    def come_again_after_an_accident(self, data: st.DataObject, accident: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.settled(name)
        guest = self.guest(name)
        self.world.engine.settle()
        self.world.end()
        if guest:
            self.happen(name, accident, guest)
        self.world._begin()

    # -- what always holds ------------------------------------------------------------------

    @invariant()
    def every_vnf_is_shown_as_it_is(self) -> None:
        assert {name for _, name in self.world.orchestrator.vnfs} == set(self.model)
        for name in self.model:
            self.settled(name)

    @invariant()
    def there_is_no_guest_without_a_definition_and_no_second_one(self) -> None:
        uuids = {vnf.uuid for vnf in self.world.orchestrator.vnfs.values()}
        found = [guest.spec.uuid for guest in self.world.engine.guests.values() if guest is not self.stranger]
        assert len(found) == len(set(found)) and set(found) <= uuids

    @invariant()
    def guests_of_others_are_left_alone(self) -> None:
        assert self.world.engine.guests[self.stranger.vnf_id] is self.stranger

    @invariant()
    def what_is_defined_is_on_disk(self) -> None:
        assert {name for _, name in self.world.store.instances()} == set(self.model)


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
