"""What happens to guests without an engine to tell of it: told by the kernel, and by the store."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from hypervisor.hypervisor_base import GuestEvent
from hypervisor.native_cgroups import Freezer
from hypervisor.native_network import NativeNetwork
from hypervisor.native_store import NativeStore, Run
from nfio.errors import NfioError, NoSuchVnf

log = logging.getLogger(__name__)

#: how often it is looked whether guests came, went or were frozen, which the kernel does not tell
LOOK_S = 0.2
#: freezers are looked at in turns: each guest's at one of so many looks
FREEZER_LOOKS = 2
#: how often it is looked whether the network is whole
NETWORK_S = 5.0
#: a directory that was changed so recently may change again without its time telling
_RACY_NS = 20_000_000


@dataclass
class _Watched:
    """A guest as it was last seen.

    Attributes:
        place: its directory.
        changed_ns: when its directory changed; 0: it is to be looked into anyway.
        process: descriptor of its first process (pidfd_open(2)); -1: it does not run.
        frozen: what the freezer said.
    """

    uuid: str
    place: str
    changed_ns: int = 0
    run: Run | None = None
    process: int = -1
    freezer: Freezer | None = None
    frozen: bool = False


class EventLoop:
    """Follows the guests of one root label."""

    def __init__(
        self, store: NativeStore, network: NativeNetwork, root: str, alive: Callable[[], None]
    ) -> None:
        self._store = store
        self._network = network
        self._root = root
        self._alive = alive
        self._guests: dict[str, _Watched] = {}
        self._others: set[str] = set()  # guests of other roots
        self._poll = select.epoll()
        self._processes: dict[int, str] = {}  # descriptors of first processes, and whose they are
        self._turn = 0
        self._network_looked = time.monotonic()

    def run(self) -> Iterator[GuestEvent | None]:
        """Yield None at once, then what happens, without end."""
        try:
            for _ in self._look():
                pass
            yield None
            while True:
                yield from self._wait()
                yield from self._look()
                self._keep_network()
        finally:
            for guest in self._guests.values():
                self._forget(guest)
            self._poll.close()

    def _wait(self) -> Iterator[GuestEvent]:
        """Wait a moment, and tell of each process that ends."""
        for process, _ in self._poll.poll(LOOK_S):
            vnf_id = self._processes[process]
            self._forget(self._guests[vnf_id])
            yield GuestEvent(vnf_id, self._guests[vnf_id].uuid)

    def _forget(self, guest: _Watched) -> None:
        """Its run is over."""
        if guest.process >= 0:
            self._poll.unregister(guest.process)
            del self._processes[guest.process]
            os.close(guest.process)
            guest.process = -1
        guest.freezer = None

    def _look(self) -> Iterator[GuestEvent]:
        """Compare the store and the freezer with what was seen before."""
        self._alive()
        self._turn = (self._turn + 1) % FREEZER_LOOKS
        ids = set(self._store.ids())
        self._others &= ids
        for vnf_id in [known for known in self._guests if known not in ids]:
            gone = self._guests.pop(vnf_id)
            self._forget(gone)
            yield GuestEvent(vnf_id, gone.uuid)
        for number, vnf_id in enumerate(sorted(ids - self._others)):
            try:
                changed = self._changed(vnf_id, number % FREEZER_LOOKS == self._turn)
            except NoSuchVnf:
                continue
            if changed:
                yield GuestEvent(vnf_id, self._guests[vnf_id].uuid)

    def _changed(self, vnf_id: str, look_at_freezer: bool) -> bool:
        known = self._guests.get(vnf_id)
        if known is None:
            guest = self._store.load(vnf_id)
            if guest.root != self._root:
                self._others.add(vnf_id)
                return False
            known = self._guests[vnf_id] = _Watched(guest.uuid, str(self._store.path(vnf_id)))
            self._follow(vnf_id, known)
            return True
        changed_ns = _changed_ns(known.place)
        if changed_ns != known.changed_ns:
            known.changed_ns = changed_ns if time.time_ns() - changed_ns > _RACY_NS else 0
            if self._store.run_of(vnf_id) != known.run:
                self._follow(vnf_id, known)
                return True
        if look_at_freezer and known.freezer is not None:
            with suppress(OSError):  # it ends just now
                now = known.freezer.frozen()
                if now is not known.frozen:
                    known.frozen = now
                    return True
        return False

    def _follow(self, vnf_id: str, known: _Watched) -> None:
        self._forget(known)
        known.run = run = self._store.run_of(vnf_id)
        known.frozen = False
        if run is not None and run.goes_on:
            with suppress(OSError):
                known.process = os.pidfd_open(run.pid)
                self._processes[known.process] = vnf_id
                self._poll.register(known.process, select.EPOLLIN)
                known.freezer = Freezer(run.pid)
                known.frozen = known.freezer.frozen()

    def _keep_network(self) -> None:
        """Mend what others took away of the network while guests run."""
        running = any(guest.process >= 0 for guest in self._guests.values())
        if running and time.monotonic() > self._network_looked + NETWORK_S:
            self._network_looked = time.monotonic()
            try:
                if not self._network.is_whole():
                    log.warning("the network of the guests was not whole; mending it")
                    self._network.ensure(self._network.get())
            except NfioError as error:
                log.error("the network of the guests: %s", error.line)


def _changed_ns(place: str) -> int:
    try:
        return os.stat(place).st_mtime_ns
    except FileNotFoundError:
        return 0
