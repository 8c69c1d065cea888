"""What nfio writes into a domain's ``<metadata>``: whose it is, and what was last asked of it.

It lives as long as the domain does, so that an nfio that was restarted knows as much as the
one before it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any
from xml.etree import ElementTree

from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_library import libvirt

NAMESPACE = "urn:nfio:vnf:1"
PREFIX = "nfio"
ElementTree.register_namespace(PREFIX, NAMESPACE)


class Asked(Enum):
    """What the driver last asked of a domain."""

    NOTHING = ""
    START = "start"
    STOP = "stop"
    KILL = "kill"  # it did not end within its grace


@dataclass(frozen=True)
class Mark:
    """What a domain is to nfio.

    Attributes:
        root, type, instance, uuid: the labels of its spec.
        image: name of its image.
        store: where that image was kept when the domain was made; empty for a disk image's path.
        announces: it says on its console that it is ready (see READY_LINE).
        asked: what was last asked of it, an ``Asked``.
    """

    root: str = ""
    type: str = ""
    instance: str = ""
    uuid: str = ""
    image: str = ""
    store: str = ""
    announces: str = ""
    asked: str = ""

    @property
    def ours(self) -> bool:
        """Whether its image was made by nfio, so that it has nfio's init and agent."""
        return bool(self.store)

    def element(self, *, named: bool = True) -> ElementTree.Element:
        """The element that says it, in nfio's namespace if ``named``."""
        tag = f"{{{NAMESPACE}}}vnf" if named else "vnf"
        return ElementTree.Element(tag, {key: value for key, value in asdict(self).items() if value})


def parse_mark(text: str) -> Mark:
    """The mark that an element's text says."""
    given = ElementTree.fromstring(text).attrib
    return Mark(**{field.name: given[field.name] for field in fields(Mark) if field.name in given})


def read_mark(domain: Any) -> Mark | None:
    """A domain's mark; None if it is not nfio's. Raises libvirt's errors."""
    try:
        text = domain.metadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
        )
    except libvirt.libvirtError as error:
        # A transient domain has no configuration to keep a mark in: it is a stranger's.
        if is_a(error, "VIR_ERR_NO_DOMAIN_METADATA", "VIR_ERR_OPERATION_INVALID"):
            return None
        raise
    return parse_mark(text)


def note(domain: Any, mark: Mark, asked: Asked) -> Mark:
    """Write down what is asked of a domain now; the mark as it is then."""
    changed = replace(mark, asked=asked.value)
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        # libvirt adds the namespace itself, and refuses an element that has it.
        ElementTree.tostring(changed.element(named=False), encoding="unicode"),
        PREFIX,
        NAMESPACE,
        libvirt.VIR_DOMAIN_AFFECT_CONFIG,
    )
    return changed
