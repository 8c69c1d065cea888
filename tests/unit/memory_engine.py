"""The engine under the in-memory driver: its guests, its faults, and what happens on its own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hypervisor.hypervisor_base import GuestEvent, Phase, Resources, VnfSpec
from nfio.errors import HypervisorUnreachable, NfioError

_KILLED = 137  # 128 + SIGKILL


@dataclass
class MemoryGuest:
    """A guest: what it was made from, and what it does."""

    vnf_id: str
    name: str
    image: str
    spec: VnfSpec
    resources: Resources
    phase: Phase = Phase.CONFIGURED
    exit_code: int | None = None
    address: str = ""
    reason: str = ""
    console: bytes = b""
    applied: dict[str, bytes] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)

    def config(self) -> dict[str, bytes]:
        """What it sees in its configuration directory now."""
        if self.spec.config_dir is None:
            return {}
        return {path.name: path.read_bytes() for path in self.spec.config_dir.iterdir()}


@dataclass
class Fault:
    """What an engine does instead of, or after, one call of a method.

    Attributes:
        error: what the call raises.
        done: whether the engine carries the call out all the same.
        thread: whose call it is; None is anybody's.
    """

    error: NfioError
    done: bool = False
    thread: int | None = None


class _Stream:
    def __init__(self, root: str) -> None:
        self.root = root
        self.events: list[GuestEvent] = []
        self.idle = False  # its reader has dealt with everything it was given
        self.open = True


class MemoryEngine:
    """The engine of one host. It outlives the drivers that speak to it, as engines do."""

    def __init__(self) -> None:
        self.guests: dict[str, MemoryGuest] = {}
        self.images = {"nfio/plain", "nfio/firewall", "nfio/web", "other:1.0"}
        self.crashing_images = {"crashing"}
        self.faults: dict[str, list[Fault]] = {}
        self.calls: list[str] = []
        self.hold: threading.Event | None = None
        self.down: NfioError | None = None
        self._streams: list[_Stream] = []
        self._changed = threading.Condition(threading.RLock())
        self._numbers = itertools.count(1)

    # -- what happens behind nfio's back ----------------------------------------------------

    def end(self, vnf_id: str, exit_code: int, reason: str = "") -> None:
        """The guest's first process ends."""
        with self._changed:
            guest = self.guests[vnf_id]
            guest.phase, guest.exit_code, guest.reason = Phase.EXITED, exit_code, reason
            guest.address = ""
            self.tell(guest)

    def kill(self, vnf_id: str) -> None:
        self.end(vnf_id, _KILLED)

    def freeze(self, vnf_id: str) -> None:
        with self._changed:
            self.guests[vnf_id].phase = Phase.PAUSED
            self.tell(self.guests[vnf_id])

    def run(self, vnf_id: str) -> None:
        """Start it, or let it go on."""
        with self._changed:
            guest = self.guests[vnf_id]
            guest.phase, guest.exit_code, guest.reason = Phase.RUNNING, None, ""
            guest.address = guest.address or f"192.0.2.{next(self._numbers) % 250 + 1}"
            guest.applied = guest.config()
            self.tell(guest)

    def break_(self, vnf_id: str, reason: str) -> None:
        with self._changed:
            self.guests[vnf_id].phase, self.guests[vnf_id].reason = Phase.BROKEN, reason
            self.tell(self.guests[vnf_id])

    def remove(self, vnf_id: str) -> None:
        with self._changed:
            self.tell(self.guests.pop(vnf_id))

    def add(self, name: str, image: str, spec: VnfSpec) -> MemoryGuest:
        with self._changed:
            vnf_id = f"{next(self._numbers):064x}"
            guest = self.guests[vnf_id] = MemoryGuest(vnf_id, name, image, spec, spec.resources)
            self.tell(guest)
            return guest

    def of(self, uuid: str) -> MemoryGuest | None:
        """The one guest of an entity. Two of them are an error of whoever made the second."""
        found = [guest for guest in self.guests.values() if guest.spec.uuid == uuid]
        assert len(found) <= 1, found
        return found[0] if found else None

    # -- faults -----------------------------------------------------------------------------

    def fail(self, method: str, error: NfioError, *, done: bool = False, anybody: bool = False) -> None:
        """Make a call of a method fail.

        Args:
            done: it is carried out, and fails all the same.
            anybody: the next call is meant, whoever makes it, and not the next of this thread.
        """
        thread = None if anybody else threading.get_ident()
        with self._changed:
            self.faults.setdefault(method, []).append(Fault(error, done, thread))

    def _fault(self, method: str) -> Fault | None:
        for fault in self.faults.get(method, []):
            if fault.thread in (None, threading.get_ident()):
                self.faults[method].remove(fault)
                return fault
        return None

    @contextmanager
    def call(self, method: str) -> Iterator[None]:
        """One call of a driver's: every way in which engines fail comes from here."""
        with self._changed:
            self.calls.append(method)
            down, hold = self.down, self.hold
            fault = self._fault(method)
        if down is not None:
            raise type(down)(down.reason)
        if hold is not None:
            hold.wait()
        if fault is not None and not fault.done:
            raise fault.error
        with self._changed:
            yield
        if fault is not None:
            raise fault.error

    # -- events -----------------------------------------------------------------------------

    def tell(self, guest: MemoryGuest) -> None:
        with self._changed:
            for stream in self._streams:
                if stream.root == guest.spec.root:
                    stream.events.append(GuestEvent(guest.vnf_id, guest.spec.uuid))
            self._changed.notify_all()

    def subscribe(self, root: str) -> _Stream:
        with self._changed:
            stream = _Stream(root)
            self._streams.append(stream)
            return stream

    def unsubscribe(self, stream: _Stream) -> None:
        with self._changed:
            self._streams.remove(stream)
            self._changed.notify_all()

    def next(self, stream: _Stream) -> GuestEvent:
        with self._changed:
            stream.idle = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: stream.events or not stream.open)
            stream.idle = False
            if not stream.open:
                raise HypervisorUnreachable("the engine closed its event stream")
            return stream.events.pop(0)

    def close_streams(self) -> None:
        """What subscribers see when the engine is stopped."""
        with self._changed:
            for stream in self._streams:
                stream.open = False
            self._changed.notify_all()

    def settle(self, timeout_s: float = 10.0) -> None:
        """Return once every subscriber has dealt with everything that has happened."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: all(stream.idle and not stream.events for stream in self._streams), timeout_s
            )
        assert done, "an event was not dealt with"
