"""What the files of an instance answer when they are read, and do when they are written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypervisor.hypervisor_base import LinkCounters, Usage
from middleboxes import Guest, Knob
from middleboxes.host.links import MIRROR, read_all, read_counter, read_drops
from nfio import values
from nfio.errors import InvalidValue, NfioError
from nfio.orchestrator import Orchestrator
from nfio.own_operations import OwnOperations
from nfio.states import State, wanted_state
from nfio.type_files import Own
from nfio.vnf import Vnf

log = logging.getLogger(__name__)

LOG_LIMIT_BYTES = 1 << 20
ORDER_LIMIT_BYTES = 64 << 10
WORD_LIMIT_BYTES = 256
#: how long counters of a VNF on another host count as live
REMOTE_FRESH_S = 0.5


def one_line(data: bytes, what: str, limit: int = WORD_LIMIT_BYTES) -> str:
    """The text of an order. Raises InvalidValue (EINVAL) if it is none."""
    if len(data) > limit:
        raise InvalidValue(f"{what} takes at most {limit} bytes")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise InvalidValue(f"{what} takes text, not binary data") from None
    if not text:
        raise InvalidValue(f"nothing was written to {what}")
    if "\0" in text:
        raise InvalidValue(f"{what} takes text without NUL bytes")
    return text


class InstanceFiles:
    """Reads and writes of the files that have more behind them than their content."""

    def __init__(self, orchestrator: Orchestrator, own: OwnOperations) -> None:
        self._orchestrator = orchestrator
        self._own = own
        self._hypervisor = orchestrator.hypervisor
        self._answers: dict[str, tuple[float, Guest, tuple[LinkCounters, Usage]]] = {}
        self._readers: dict[str, Callable[[Vnf], str]] = {
            "action": lambda vnf: vnf.record.action,
            "status": self.status,
            "state": lambda vnf: self.state(vnf).name,
            "error": lambda vnf: vnf.record.error,
            "uuid": lambda vnf: vnf.uuid,
            "machine/vm.ip": self.address,
            "stats/pkt_drops": lambda vnf: str(self.drops(vnf)),
            "stats/cpu_seconds": lambda vnf: str(int(self.usage(vnf).cpu_seconds)),
            "stats/memory_bytes": lambda vnf: str(self.usage(vnf).memory_bytes),
        }
        for counter in MIRROR:
            self._readers[f"stats/{counter}"] = self._counter_reader(counter)

    # -- reading ----------------------------------------------------------------------------

    def read(self, vnf: Vnf, file: str) -> bytes:
        """Content of one of the files that every instance has and that is not stored."""
        if file == "log":
            return self.console_log(vnf)
        if file == "command":
            return vnf.transcript
        text = self._readers[file](vnf)
        return f"{text}\n".encode() if text else b""

    def address(self, vnf: Vnf) -> str:
        """The VNF's own address, which it keeps while it is paused."""
        guest = vnf.guest
        return vnf.running_guest().address if guest is None else guest.address

    def status(self, vnf: Vnf) -> str:
        self._orchestrator.require_known(vnf)
        return "undeployed" if vnf.status is None else vnf.status.word

    def state(self, vnf: Vnf) -> State:
        self._orchestrator.require_known(vnf)
        return vnf.state

    def _counter_reader(self, counter: str) -> Callable[[Vnf], str]:
        def read(vnf: Vnf) -> str:
            return str(self.counter(vnf, counter))

        return read

    def counter(self, vnf: Vnf, counter: str) -> int:
        """``rx_bytes``, ``tx_bytes``, ``rx_packets`` or ``tx_packets``, as the VNF counts."""
        guest = vnf.running_guest()
        if guest.pid is None:
            value: int = getattr(self._remote(vnf, guest)[0], counter)
            return value
        return read_counter(guest.links, counter)

    def drops(self, vnf: Vnf) -> int:
        """Packets dropped on its links, and by the function on purpose."""
        guest = vnf.running_guest()
        if guest.pid is None:
            return self._remote(vnf, guest)[0].drops
        return read_drops(guest.links) + guest.link_drops() + self._own_drops(vnf, guest)

    def link_counters(self, vnf: Vnf, table: dict[str, LinkCounters]) -> LinkCounters:
        """The same counters of the links, and the drops, all at once.

        Args:
            table: what all links of this host have counted (see ``links.read_table``).
        """
        guest = vnf.running_guest()
        if guest.pid is None:
            return self._remote(vnf, guest)[0]
        return read_all(guest.links, table, guest.link_drops() + self._own_drops(vnf, guest))

    def _own_drops(self, vnf: Vnf, guest: Guest) -> int:
        count = self._orchestrator.modules.drops_of(vnf.type)
        return 0 if count is None else count(guest)

    def usage(self, vnf: Vnf) -> Usage:
        guest = vnf.running_guest()
        if guest.pid is None:
            return self._remote(vnf, guest)[1]
        return guest.usage()

    def _remote(self, vnf: Vnf, guest: Guest) -> tuple[LinkCounters, Usage]:
        """Counters of a VNF on another host, all from one answer of its engine.

        An engine may take a second for that answer, so the files of a VNF that are read together
        share one.
        """
        known = self._answers.get(vnf.uuid)
        if known is not None and known[1] is guest and time.monotonic() < known[0] + REMOTE_FRESH_S:
            return known[2]
        answer = self._hypervisor.counters(vnf.host, vnf.vnf_id or "")
        self._answers[vnf.uuid] = time.monotonic(), guest, answer
        return answer

    def console_log(self, vnf: Vnf) -> bytes:
        if vnf.vnf_id is None:
            self._orchestrator.require_known(vnf)
            return b""
        return self._hypervisor.console_log(vnf.host, vnf.vnf_id, LOG_LIMIT_BYTES)

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def _keeping_error(self, vnf: Vnf) -> Iterator[None]:
        """What was refused before it became an operation stands in ``error`` too."""
        try:
            yield
        except NfioError as error:
            vnf.save(error=error.line)
            raise

    def order(
        self, vnf: Vnf, file: str, data: bytes, keep: Callable[[bytes], None], own: Own | None = None
    ) -> None:
        """A write to ``action``, ``state``, an order of the type's own, or ``command``.

        Args:
            keep: called with the output of a command.
        """
        with self._keeping_error(vnf):
            if own is not None:
                self._own.give(vnf, own, one_line(data, file, ORDER_LIMIT_BYTES))
            elif file == "action":
                self._orchestrator.act(vnf, one_line(data, file))
            elif file == "state":
                self._orchestrator.reach(vnf, wanted_state(one_line(data, file)))
            else:
                self._orchestrator.execute(vnf, one_line(data, file, ORDER_LIMIT_BYTES), keep)

    def value(self, vnf: Vnf, file: str, own: Own | None) -> bytes:
        """Content of a stored file that is checked."""
        if own is None or file in vnf.emptied or (vnf.path / file).exists():
            return vnf.value(file)
        return own.default

    @staticmethod
    def has_lines(file: str, own: Own | None) -> bool:
        """Whether a stored file holds lines, not one value."""
        if own is None:
            return file in values.LINES
        return isinstance(own.file, Knob) and own.file.lines

    def set_value(self, vnf: Vnf, file: str, content: bytes, own: Own | None = None) -> None:
        """A write that makes ``content`` the whole content of a checked file."""
        with self._keeping_error(vnf):
            if own is not None:
                self._own.set_value(vnf, own, content)
                return
            values.check(file, content)
            if file in ("machine/vm.vcpu", "machine/vm.memory"):
                self._orchestrator.scale(vnf, file, content)
            elif file == "machine/ip":
                self._orchestrator.place(vnf, content)
            else:
                vnf.store.write(vnf.path / file, content)
                vnf.emptied.discard(file)

    def empty_value(self, vnf: Vnf, file: str, own: Own | None = None) -> None:
        """A file that was truncated, and closed without a write: now it is empty.

        Nobody waits for the result of a close, so a failure stands in ``error`` and in the log,
        and the file holds again what it held.
        """
        if file in vnf.emptied:
            try:
                self.set_value(vnf, file, b"", own)
            except NfioError as error:
                log.warning("%s/%s could not be emptied: %s", vnf.label, file, error.line)
            finally:
                vnf.emptied.discard(file)
