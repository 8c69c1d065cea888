"""One VNF while nfio is mounted: what is defined, what was last seen of it, who works on it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypervisor.hypervisor_base import GuestStatus, Phase, Resources
from middleboxes import Guest
from nfio import values
from nfio.entity import Entity
from nfio.errors import NetworkDown, NoSuchVnf
from nfio.states import State
from nfio.store import RECORD, Record, Store

#: Exit codes of a program that ended because it was asked to: 0, and 128 + SIGTERM.
_ENDED_ON_REQUEST = (0, 143)

_tickets = itertools.count(1)


def ticket() -> int:
    """A number for a look at a guest, taken before it: later looks have higher numbers."""
    return next(_tickets)


def state_of(status: GuestStatus | None, intent: State) -> State:
    """The state that a look at the hypervisor means, given what the VNF was last brought to."""
    if status is None:
        return State.DEFINED
    if status.phase is Phase.RUNNING:
        return State.RUNNING
    if status.phase is Phase.PAUSED:
        return State.PAUSED
    if status.phase is Phase.CONFIGURED:
        return State.CONFIGURED
    if status.phase is Phase.EXITED:
        on_request = intent is State.CONFIGURED or status.exit_code in _ENDED_ON_REQUEST
        return State.CONFIGURED if on_request and not status.reason else State.ERROR
    return State.ERROR


def death_of(status: GuestStatus) -> str:
    """Why a VNF that should run does not, and what brings it back."""
    code = status.exit_code
    how = "" if code is None else f" with exit code {code}"
    if code is not None and code > 128:
        how += f" (signal {code - 128})"
    why = f": {status.reason}" if status.reason else ""
    return f"it ended{how}{why}; `echo RUNNING > state` starts it again"


@dataclass(eq=False)
class Vnf:
    """A VNF.

    Attributes:
        host: machine that runs it; "" is this one.
        operation: held by the one write that changes it; readers never take it.
        busy: the word being carried out; empty if none is.
        status: the last look at the hypervisor; None if it has nothing of it.
        guest: what the type's module reads from while it runs.
        emptied: values that were truncated and not written yet (see Nfio).
        transcript: output of the last command.
        orders: how many moves users have asked for.
        changed_ns: when it last changed, which is what its live files say of themselves. Their
            directory changes with every temporary file, and an editor that looked at it would
            think that the file it edits had been changed by somebody else.
    """

    type: str
    name: str
    store: Store
    record: Record
    entity: Entity = field(init=False)
    host: str = field(init=False)
    operation: threading.Lock = field(default_factory=threading.Lock)
    busy: str = ""
    status: GuestStatus | None = None
    guest: Guest | None = None
    emptied: set[str] = field(default_factory=set)
    transcript: bytes = b""
    orders: int = 0
    changed_ns: int = 0
    _saving: threading.Lock = field(default_factory=threading.Lock)
    _seen: threading.Lock = field(default_factory=threading.Lock)
    _seen_ticket: int = 0
    _missed: bool = False

    def __post_init__(self) -> None:
        self.entity = Entity(self.record.uuid)
        self.entity.on_defined()
        self.host = values.parse_host(self.value("machine/ip"))
        self.changed_ns = (self.path / RECORD).stat().st_mtime_ns

    # -- what is defined ------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self.store.instance(self.type, self.name)

    @property
    def label(self) -> str:
        return f"{self.type}/{self.name}"

    @property
    def uuid(self) -> str:
        return self.record.uuid

    @property
    def intent(self) -> State:
        return State[self.record.intent]

    def value(self, file: str) -> bytes:
        """Content of a stored file."""
        return b"" if file in self.emptied else self.store.read(self.path / file)

    def resources(self, changes: dict[str, bytes] | None = None) -> Resources:
        """Its limits as they are stored, or would be after a change of some of the files.

        A file that only shows itself empty, since it is truncated before it is written, limits on.
        """
        files = ("machine/vm.vcpu", "machine/vm.memory")
        vcpu, memory = ((changes or {}).get(file, self.store.read(self.path / file)) for file in files)
        return Resources(values.parse_vcpu(vcpu), values.parse_memory(memory))

    def save(self, **changes: str) -> None:
        """Change the record, on disk first."""
        with self._saving:
            if self.removed:
                return  # another one may have its name by now
            if all(getattr(self.record, key) == value for key, value in changes.items()):
                return
            changed = replace(self.record, **changes)
            self.store.write_record(self.type, self.name, changed)
            self.record = changed
            self.changed_ns = time.time_ns()

    # -- what was seen --------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.entity.get_state()

    @property
    def removed(self) -> bool:
        """Whether its rmdir is done."""
        return self.state is State.UNDEFINED

    @property
    def vnf_id(self) -> str | None:
        return None if self.status is None else self.status.vnf_id

    def deployed_id(self) -> str:
        """The hypervisor's id of it. NoSuchVnf (EIO) if it has nothing of it."""
        if self.vnf_id is None:
            raise NoSuchVnf(f"the hypervisor has nothing of {self.label}")
        return self.vnf_id

    def see(
        self,
        status: GuestStatus | None,
        taken: int,
        make_guest: Callable[[GuestStatus], Guest | None],
        *,
        own: bool,
    ) -> tuple[State, State] | None:
        """Record a look at the hypervisor.

        Args:
            status: what was seen; None if it has nothing of this VNF.
            taken: the look's ticket. An older look than the last recorded one is dropped.
            make_guest: gives the readers of a VNF that runs; None if its process has ended.
            own: it is the running operation's own look. Others' looks while an operation runs
                are dropped, and ``end`` says that there were some.

        Returns:
            The state before and after, if it changed.
        """
        with self._seen:
            if self.busy and not own:
                self._missed = True
                return None
            if taken < self._seen_ticket or self.removed:
                return None
            self._seen_ticket = taken
            # On another host only the address can tell one run from the next.
            before_run = None if self.status is None else (self.status.pid, self.status.address)
            self.status = status
            if status is None or status.phase not in (Phase.RUNNING, Phase.PAUSED):
                self.guest = None
            elif self.guest is None or before_run != (status.pid, status.address):
                self.guest = make_guest(status)
            before, after = self.state, state_of(status, self.intent)
            if before is after:
                return None
            if after is State.ERROR and status is not None:
                self.save(error=death_of(status))  # who sees the state finds the reason there already
            elif after is State.RUNNING and own:
                self.save(error="")  # nor a reason that is past
            self.entity.set_state(after)
            self.changed_ns = time.time_ns()
            return before, after

    def begin(self, word: str) -> None:
        with self._seen:
            self.busy, self._missed = word, False

    def end(self) -> bool:
        """Whether something happened to it while the operation ran."""
        with self._seen:
            self.busy = ""
            return self._missed

    def process_ended(self, pid: int) -> None:
        """The kernel tells that a process has ended; what the hypervisor makes of it comes later."""
        with self._seen:
            if self.guest is not None and self.guest.pid == pid:
                self.guest = None

    def running_guest(self) -> Guest:
        """Raises NetworkDown (ENETDOWN) if it does not run."""
        guest = self.guest
        if guest is None or self.state is State.PAUSED:
            if self.state is State.RUNNING:
                raise NetworkDown(f"{self.label} is not running: its first process has ended")
            raise NetworkDown(f"{self.label} is not running: it is {self.state.name}")
        return guest
