"""What happens to domains, as libvirt tells it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypervisor.hypervisor_base import GuestEvent
from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_library import libvirt
from hypervisor.libvirt_metadata import Mark, read_mark
from nfio.errors import HypervisorUnreachable

#: put into the queue when the daemon has closed the connection
_CLOSED = ""


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
        yield None
        while True:
            vnf_id, is_agents = happened.get()
            if vnf_id == _CLOSED:
                raise HypervisorUnreachable("libvirt closed the connection on which its events came")
            mark = _look(connection, vnf_id, known)
            # An agent that comes up tells the address of a machine that no start has waited for.
            if mark is not None and mark.root == root and not (is_agents and mark.ours):
                yield GuestEvent(vnf_id, mark.uuid)
    finally:
        for number in registered:
            with suppress(libvirt.libvirtError):
                connection.domainEventDeregisterAny(number)
        with suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()


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
