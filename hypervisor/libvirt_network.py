"""The network of nfio's machines: a bridge of its own with DHCP, behind this host's address.

It is made when the first machine needs it and goes with the last one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_images import locked
from hypervisor.libvirt_library import libvirt
from hypervisor.libvirt_xml import LiveDomain, network_xml, parse_domain
from nfio.errors import HypervisorError

NETWORK = "nfio"
BRIDGE = "nfiovirt0"
#: Tried in turn: libvirt refuses one that overlaps with a route of its host.
_SUBNETS = [
    IPv4Network(f"10.{third}.{fourth}.0/24") for third in (213, 214, 215) for fourth in (250, 251, 252, 253)
]

#: this host's ARP table: address, type, flags, MAC address, mask, device (linux/Documentation, proc)
_ARP = Path("/proc/net/arp")
_ARP_COMPLETE = 0x2

_here = threading.Lock()


@contextmanager
def network_lock() -> Iterator[None]:
    """Held while a machine is defined or removed, so that the network does not go in between."""
    with _here, locked("network"):
        yield


def ensure_network(connection: Any) -> None:
    """Make nfio's network if it is not there. Raises libvirt's errors; call with network_lock."""
    try:
        network = connection.networkLookupByName(NETWORK)
    except libvirt.libvirtError as error:
        if not is_a(error, "VIR_ERR_NO_NETWORK"):
            raise
    else:
        if not network.isActive():
            network.create()
        return
    taken = _subnets(connection)
    refusal: Exception | None = None
    for subnet in _SUBNETS:
        if any(subnet.overlaps(other) for other in taken):
            continue
        try:
            # It is not defined, so that nothing of it is left when its host is started anew.
            connection.networkCreateXML(network_xml(NETWORK, BRIDGE, subnet))
            return
        except libvirt.libvirtError as error:
            if "already in use" not in str(error) or BRIDGE in str(error):
                raise
            refusal = error
    raise HypervisorError(f"no subnet is free for the network {NETWORK}: {refusal or 'libvirt has them all'}")


def _subnets(connection: Any) -> list[IPv4Network]:
    found = []
    for network in connection.listAllNetworks():
        for address in ElementTree.fromstring(network.XMLDesc()).iterfind("ip"):
            length = address.get("prefix") or address.get("netmask")
            if length and address.get("family", "ipv4") == "ipv4":
                found.append(IPv4Network(f"{address.get('address')}/{length}", strict=False))
    return found


def release_network(connection: Any) -> None:
    """Remove nfio's network if no domain is on it any more. Call with network_lock."""
    for domain in connection.listAllDomains():
        try:
            if NETWORK in parse_domain(domain.XMLDesc()).networks:
                return
        except libvirt.libvirtError as error:
            if not is_a(error, "VIR_ERR_NO_DOMAIN"):
                raise
    try:
        connection.networkLookupByName(NETWORK).destroy()
    except libvirt.libvirtError as error:
        if not is_a(error, "VIR_ERR_NO_NETWORK", "VIR_ERR_OPERATION_INVALID"):
            raise


def address_of(connection: Any, domain: Any, live: LiveDomain, agent_timeout_s: int) -> str:
    """A running domain's own address: its agent says it, or its DHCP lease, or its host's ARP table."""
    if live.agent and domain.isActive() and domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
        try:
            domain.agentSetResponseTimeout(agent_timeout_s, 0)
            if found := _first(domain, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT, live):
                return found
        except libvirt.libvirtError:
            pass  # it is hung or starts anew: the others know too
    for name in dict.fromkeys(live.networks):
        try:
            leases = connection.networkLookupByName(name).DHCPLeases()
        except libvirt.libvirtError:
            continue
        for lease in sorted(leases, key=lambda lease: -lease["expirytime"]):
            if lease["mac"] in live.links.values() and ":" not in lease["ipaddr"]:
                return str(lease["ipaddr"])
    if not urlsplit(connection.getURI()).hostname:
        return _neighbour(_ARP.read_text(), set(live.links.values()))
    try:
        return _first(domain, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP, live)
    except libvirt.libvirtError:
        return ""


def _neighbour(table: str, macs: set[str]) -> str:
    """An address in this host's ARP table. libvirt 9.0 reads it wrong ("wrong nlmsg len")."""
    for line in table.splitlines()[1:]:
        address, _, flags, mac, *_ = line.split()
        if mac in macs and int(flags, 16) & _ARP_COMPLETE:
            return address
    return ""


def _first(domain: Any, source: int, live: LiveDomain) -> str:
    found = domain.interfaceAddresses(source, 0) or {}
    for link in found.values():
        if link.get("hwaddr") not in live.links.values():
            continue
        for address in link.get("addrs") or ():
            if address["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4:
                return str(address["addr"])
    return ""
