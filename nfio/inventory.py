"""All VNFs of a root, and what their hypervisors were seen to do with them."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import replace

from hypervisor.hypervisor_base import CommandResult, GuestEvent, GuestStatus, HypervisorBase, Phase
from middleboxes import Guest
from middleboxes.host.link_table import LinkTable
from middleboxes.host.processes import ProcessWatch
from nfio.engine import Engine
from nfio.errors import NfioError, NoSuchVnf
from nfio.journal import Journal
from nfio.modules import ModuleRoot
from nfio.states import State
from nfio.store import Store
from nfio.vnf import Vnf, death_of, ticket

log = logging.getLogger(__name__)

#: of the console, to find out why one ended
LAST_WORDS_BYTES = 4096


class Inventory:
    """All VNFs of a root, kept true by what hypervisors and links tell.

    The hypervisor is the authority on what runs, the store on what is defined. A VNF's state
    is only ever set from a look at the hypervisor.
    """

    def __init__(self, store: Store, modules: ModuleRoot, hypervisor: HypervisorBase) -> None:
        self.store = store
        self.modules = modules
        self.hypervisor = hypervisor
        self.journal = Journal(store.own / "events.jsonl")
        self.vnfs: dict[tuple[str, str], Vnf] = {}
        self._by_uuid: dict[str, Vnf] = {}
        self._links = LinkTable(self._link_gone)
        self._processes = ProcessWatch(self._process_ended)
        self._engines: dict[str, Engine] = {}
        self._engines_lock = threading.Lock()
        self.to_look_at: queue.SimpleQueue[Vnf | None] = queue.SimpleQueue()
        self._known_hosts: set[str] = set()  # whose guests were looked at since the mount

    # -- beginning --------------------------------------------------------------------------

    def load(self) -> None:
        """Read everything that is defined. Speaks to no hypervisor."""
        for kind, name in self.store.instances():
            try:
                self.register(Vnf(kind, name, self.store, self.store.read_record(kind, name)))
            except (OSError, ValueError, TypeError) as error:
                log.error("%s/%s cannot be read and is left out: %s", kind, name, error)

    def start(self) -> None:
        """Begin to follow the hypervisors and the links. Call it after the process has forked."""
        threading.Thread(target=self._look_at_queued, name="looks", daemon=True).start()
        for host in {"", *(vnf.host for vnf in self.vnfs.values())}:
            self.engine(host)

    def stop(self) -> None:
        for engine in self._engines.values():
            engine.stop()
        self.to_look_at.put(None)

    def engine(self, host: str) -> Engine:
        """The hypervisor of a host, followed from now on."""
        with self._engines_lock:
            if host not in self._engines:
                engine = Engine(self.hypervisor, host, self.store.root_id, self._saw_all, self._saw_event)
                self._engines[host] = engine
                if self.hypervisor.is_local(host):
                    self._links.start()
                engine.start()
            return self._engines[host]

    def register(self, vnf: Vnf) -> None:
        self.vnfs[vnf.type, vnf.name] = vnf
        self._by_uuid[vnf.uuid] = vnf

    # -- seeing -----------------------------------------------------------------------------

    def _saw_all(self, host: str, guests: list[GuestStatus], taken: int) -> None:
        found = {guest.uuid: guest for guest in guests}
        cause = "engine" if host in self._known_hosts else "mount"
        for vnf in list(self.vnfs.values()):
            if vnf.host == host:
                self.record(vnf, found.pop(vnf.uuid, None), taken, own=False, cause=cause)
        for guest in found.values():
            if guest.uuid not in self._by_uuid:
                self._remove_orphan(host, guest.vnf_id, guest.name)
        if host == "" and host not in self._known_hosts:
            threading.Thread(target=self.when_known, name="autostart", daemon=True).start()
        self._known_hosts.add(host)

    def _saw_event(self, host: str, event: GuestEvent) -> None:
        vnf = self._by_uuid.get(event.uuid)
        if vnf is None:
            self._remove_orphan(host, event.vnf_id, event.vnf_id[:12])
        elif vnf.vnf_id in (None, event.vnf_id):
            self.look(vnf, event.vnf_id, own=False)

    def _remove_orphan(self, host: str, vnf_id: str, name: str) -> None:
        """A guest of this root of which nothing is defined: its rmdir was not seen to its end."""
        try:
            self.hypervisor.inspect(host, vnf_id)
            self.hypervisor.destroy(host, vnf_id)
            log.warning("removed %s: nothing of that name is defined any more", name)
        except NoSuchVnf:
            pass
        except NfioError as error:
            log.error("could not remove %s, of which nothing is defined: %s", name, error.line)

    def _link_gone(self, link: str) -> None:
        for vnf in list(self.vnfs.values()):
            if vnf.guest is not None and link in vnf.guest.links:
                self.to_look_at.put(vnf)

    def _process_ended(self, pid: int) -> None:
        for vnf in list(self.vnfs.values()):
            vnf.process_ended(pid)

    def _look_at_queued(self) -> None:
        while (vnf := self.to_look_at.get()) is not None:
            try:
                self.look_again(vnf, own=False)
            except (NfioError, OSError) as error:
                log.warning("%s: %s", vnf.label, error)

    def look_again(self, vnf: Vnf, *, own: bool) -> None:
        """Look at a VNF whatever is known of it: a deploy that was given up may have been done."""
        if vnf.vnf_id is not None or vnf.intent is State.DEFINED:
            self.look(vnf, vnf.vnf_id, own=own)
            return
        taken = ticket()
        guests = self.hypervisor.list_guests(vnf.host, self.store.root_id)
        self.record(vnf, next((g for g in guests if g.uuid == vnf.uuid), None), taken, own=own)

    def look(self, vnf: Vnf, vnf_id: str | None, *, own: bool) -> None:
        """Ask the hypervisor what a VNF does now, and record it."""
        taken = ticket()
        status: GuestStatus | None = None
        if vnf_id is not None:
            try:
                status = self._with_last_words(vnf, self.hypervisor.inspect(vnf.host, vnf_id))
            except NoSuchVnf:
                status = None
        self.record(vnf, status, taken, own=own)

    def _with_last_words(self, vnf: Vnf, status: GuestStatus) -> GuestStatus:
        """Let one that ended by itself say why, where its engine does not know."""
        code = status.exit_code
        by_itself = status.phase is Phase.EXITED and vnf.intent is State.RUNNING and not status.reason
        if not by_itself or code is None or not 0 < code < 128 or vnf.state is State.ERROR:
            return status
        try:
            text = self.hypervisor.console_log(vnf.host, status.vnf_id, LAST_WORDS_BYTES)
        except NfioError:
            return status
        lines = text.decode(errors="replace").strip().splitlines()
        return replace(status, reason=f"log ends with {lines[-1][:200]!r}") if lines else status

    def record(
        self, vnf: Vnf, status: GuestStatus | None, taken: int, *, own: bool, cause: str = "engine"
    ) -> None:
        """Keep what a look showed, and tell of the move that it means. ``see`` explains ``own``."""
        moved = vnf.see(status, taken, lambda seen: self._guest(vnf, seen), own=own)
        if moved is None:
            return
        before, after = moved
        reason = ""
        if after is State.ERROR and status is not None:
            reason = death_of(status)
        elif own:
            cause = vnf.busy
        else:
            reached = State.RUNNING if after is State.PAUSED else after
            vnf.save(intent=reached.name, **({"error": ""} if before is State.ERROR else {}))
        self.tell(vnf, before, after, cause, reason)
        if after is State.ERROR and not own:
            self.died(vnf)

    def died(self, vnf: Vnf) -> None:
        """Called when a VNF was seen to have ended by itself."""

    def tell(self, vnf: Vnf, before: State, after: State, cause: str, reason: str = "") -> None:
        log.info("%s: %s -> %s (%s) %s", vnf.label, before.name, after.name, cause, reason)
        self.journal.append(
            **{
                "type": vnf.type,
                "instance": vnf.name,
                "uuid": vnf.uuid,
                "from": before.name,
                "to": after.name,
                "cause": cause,
                "reason": reason,
            }
        )

    def _guest(self, vnf: Vnf, status: GuestStatus) -> Guest | None:
        if status.pid is not None and not self._processes.watch(status.pid):
            return None
        host = vnf.host

        def execute(command: list[str]) -> CommandResult:
            return self.hypervisor.execute_in_guest(host, status.vnf_id, command)

        links = status.links
        if links is None:
            links = () if status.pid is None else self._links.of_process(status.pid)
        return Guest(
            vnf.label, status.address, status.pid, links, execute, shares_kernel=status.shares_kernel
        )

    def require_known(self, vnf: Vnf) -> None:
        """Raise what is wrong with its hypervisor, unless nothing of the VNF can be there."""
        if vnf.intent is not State.DEFINED or vnf.status is not None:
            self.engine(vnf.host).require(self.hypervisor.timeout_s)

    def when_known(self) -> None:
        """Called in a thread of its own, once it is known what runs on this host."""
