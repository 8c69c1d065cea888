"""What happens to domains, as libvirt tells it."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypervisor.hypervisor_base import GuestEvent
from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_library import libvirt
from hypervisor.libvirt_metadata import Mark, read_mark
from hypervisor.libvirt_network import address_of
from hypervisor.libvirt_xml import parse_domain
from nfio.errors import HypervisorUnreachable

#: put into the queue when the daemon has closed the connection
_CLOSED = ""
#: Nobody tells that a machine without an agent got its address: it is looked for so often.
_ADDRESS_POLL_S = 1.0
_AGENT_TIMEOUT_S = 2


def follow(connection: Any, root: str) -> Iterator[GuestEvent | None]:
    """Events of the domains with a root label, from now on; the first item is None.

    The loop's thread only notes whom an event is about: what libvirt is asked about it is asked
    here, in the thread of who follows.

    Raises:
        HypervisorUnreachable: the daemon is gone.
        libvirt's errors.
    """
    happened: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()

    def note(_connection: Any, domain: Any, *details: Any) -> None:
        happened.put((domain.UUIDString(), details[-1]))

    def close(_connection: Any, _reason: int, _opaque: Any) -> None:
        happened.put((_CLOSED, False))

    connection.registerCloseCallback(close, None)
    registered = [
        connection.domainEventRegisterAny(None, kind, note, is_agents)
        for kind, is_agents in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, False),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, True),
        )
    ]
    try:
        known: dict[str, Mark] = {}
        for domain in connection.listAllDomains():
            _look(connection, domain.UUIDString(), known)
        silent = _Silent(connection)
        for vnf_id, mark in known.items():
            if mark.root == root:
                silent.note(vnf_id, mark)
        yield None
        while True:
            yield from silent.found()
            try:
                vnf_id, is_agents = happened.get(timeout=silent.wait_s)
            except queue.Empty:
                continue
            if vnf_id == _CLOSED:
                raise HypervisorUnreachable("libvirt closed the connection on which its events came")
            seen = _look(connection, vnf_id, known)
            # An agent that comes up tells the address of a machine that no start has waited for.
            if seen is not None and seen.root == root and not (is_agents and seen.ours):
                silent.note(vnf_id, seen)
                yield GuestEvent(vnf_id, seen.uuid)
    finally:
        for number in registered:
            with suppress(libvirt.libvirtError):
                connection.domainEventDeregisterAny(number)
        with suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()


class _Silent:
    """Machines that run, were not made from nfio's images, and whose address is not known yet."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._waiting: dict[str, Mark] = {}
        self._due = 0.0

    def note(self, vnf_id: str, mark: Mark) -> None:
        """Something happened to a machine, of which others are told after this."""
        self._waiting.pop(vnf_id, None)
        if not mark.ours and self._lacks_address(vnf_id):
            self._waiting[vnf_id] = mark

    @property
    def wait_s(self) -> float | None:
        """When to look for their addresses again; None: there are none to be found."""
        return max(0.0, self._due - time.monotonic()) if self._waiting else None

    def found(self) -> Iterator[GuestEvent]:
        """Those whose address is known now, or that run no more."""
        if time.monotonic() < self._due:
            return
        for vnf_id, mark in list(self._waiting.items()):
            if not self._lacks_address(vnf_id):
                del self._waiting[vnf_id]
                yield GuestEvent(vnf_id, mark.uuid)
        self._due = time.monotonic() + _ADDRESS_POLL_S

    def _lacks_address(self, vnf_id: str) -> bool:
        try:
            domain = self._connection.lookupByUUIDString(vnf_id)
            if not domain.isActive():
                return False
            live = parse_domain(domain.XMLDesc())
        except libvirt.libvirtError as error:
            if not is_a(error, "VIR_ERR_NO_DOMAIN"):
                raise
            return False
        return not address_of(self._connection, domain, live, _AGENT_TIMEOUT_S)


def _look(connection: Any, vnf_id: str, known: dict[str, Mark]) -> Mark | None:
    """Whose a domain is; of one that is gone, what was known of it is told once more."""
    try:
        mark = read_mark(connection.lookupByUUIDString(vnf_id))
    except libvirt.libvirtError as error:
        if not is_a(error, "VIR_ERR_NO_DOMAIN"):
            raise
        return known.pop(vnf_id, None)
    if mark is not None:
        known[vnf_id] = mark
    return mark
