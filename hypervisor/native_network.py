"""The Native driver's network: a bridge of its own, a veth for each guest, NAT to the outside."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hypervisor import network_namespace
from hypervisor.hypervisor_base import LinkCounters
from hypervisor.native_doors import DOORS, run, succeeds
from hypervisor.native_store import Guest, NativeStore, lock
from nfio.errors import HypervisorError, InvalidValue

DEFAULT_BRIDGE = "nfio0"
#: private networks of RFC 1918, in the order they are tried
_CANDIDATES = tuple(IPv4Network(f"10.{n}.0.0/16") for n in range(201, 250))
#: held by whoever chooses one, of all stores on this machine
_LOCK = Path("/run/nfio/subnets.lock")
_GUEST_LINK = "eth0"
#: There is no IPv6 router on the bridge: each question for one would go to every other guest.
_SOLICITATIONS = Path("/proc/sys/net/ipv6/conf/default/router_solicitations")


@dataclass(frozen=True)
class Network:
    """The network of all guests: the bridge's name, and its own address with the prefix length."""

    bridge: str
    gateway: IPv4Interface

    @property
    def subnet(self) -> IPv4Network:
        return self.gateway.network

    @property
    def table(self) -> str:
        """The name of nfio's nftables table, of the family ``ip``."""
        return f"nfio-{self.bridge}"

    def ruleset(self) -> str:
        """It replaces the table in one transaction, whatever was there."""
        return f"""\
table ip {self.table} {{ }}
delete table ip {self.table}
table ip {self.table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {self.subnet} oifname != "{self.bridge}" masquerade
    }}
}}
"""


def link_of(vnf_id: str) -> str:
    """Name of the host's end of a guest's link."""
    return f"nf{vnf_id[:12]}"


def mac_of(address: str) -> str:
    """A locally administered MAC address that follows from the IP address.

    So whoever gets an address of a guest that is gone is found by those who knew that one.
    """
    return "02:6e:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


class NativeNetwork:
    """Makes the network, keeps it whole, and takes it away.

    What it is stands in ``network.json``: guests keep their addresses while nfio is not there.
    """

    def __init__(self, store: NativeStore) -> None:
        self._store = store
        self._file = store.directory / "network.json"

    def get(self) -> Network:
        """The network as it is, or is to be.

        Raises:
            InvalidValue (EINVAL): NFIO_NATIVE_SUBNET or NFIO_NATIVE_BRIDGE are not valid.
            HypervisorError (EIO): no private network is free.
        """
        known = self._kept()
        if known is not None:
            return known
        with self._store.locked():
            return self._kept() or self._begin()

    def _kept(self) -> Network | None:
        try:
            kept = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        return Network(kept["bridge"], IPv4Interface(kept["gateway"]))

    def _begin(self) -> Network:
        with _choosing():
            network = _choose()
            self._ensure(network)
        draft = self._file.with_suffix(".new")
        draft.write_text(json.dumps({"bridge": network.bridge, "gateway": str(network.gateway)}))
        draft.rename(self._file)
        return network

    def claim_address(self, vnf_id: str) -> str:
        """Take an address for a guest. Under the lock: the network stays while one is claimed in it."""
        with self._store.locked():
            network = self._kept() or self._begin()
            return self._store.claim_address(network.subnet, vnf_id)

    @staticmethod
    @contextlib.contextmanager
    def namespace() -> Iterator[int]:
        """A network namespace for a guest, as an open file.

        It goes away with the guest's last process, and at the end of the body if none was
        started in it; so does the link that leads into it.
        """
        namespace = network_namespace.make()
        try:
            yield namespace
        finally:
            os.close(namespace)

    def plug(self, guest: Guest, namespace: int) -> None:
        """Lead a link from the bridge into a guest's namespace, and give it the guest's address."""
        network = self.get()
        try:
            with network_namespace.entered(namespace):
                inside = IPRoute()
                with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                    _SOLICITATIONS.write_text("0")
            with inside, IPRoute() as host:
                self._plug(host, network, guest, namespace)
                inside.link("set", index=1, state="up")
                (index,) = inside.link_lookup(ifname=_GUEST_LINK)
                inside.addr("add", index=index, address=guest.address, prefixlen=network.subnet.prefixlen)
                inside.link("set", index=index, state="up")
                inside.route("add", dst="default", gateway=str(network.gateway.ip))
                # The bridge's end comes up last: what others send to all would be dropped, and counted.
                (index,) = host.link_lookup(ifname=link_of(guest.vnf_id))
                host.link("set", index=index, state="up")
        except NetlinkError as error:
            raise HypervisorError(f"its link could not be set up: {error}") from error

    def _plug(self, host: IPRoute, network: Network, guest: Guest, namespace: int) -> None:
        name = link_of(guest.vnf_id)
        for attempt in (1, 2):
            found = host.link_lookup(ifname=network.bridge)
            if not found:
                self.ensure(network)
                found = host.link_lookup(ifname=network.bridge)
            try:
                host.link(
                    "add",
                    ifname=name,
                    kind="veth",
                    master=found[0],
                    peer={
                        "ifname": _GUEST_LINK,
                        "net_ns_fd": namespace,
                        "address": mac_of(guest.address),
                    },
                )
                return
            except NetlinkError as error:
                # The last run's link goes when its namespace is taken apart, which takes a while.
                if attempt == 2:
                    raise HypervisorError(f"its link {name} could not be made: {error}") from error
                for index in host.link_lookup(ifname=name):
                    with contextlib.suppress(NetlinkError):
                        host.link("del", index=index)

    @staticmethod
    def counters(link: str) -> LinkCounters:
        """A guest's counters, which are those of this host's end the other way round (IFLA_STATS64)."""
        with IPRoute() as host:
            found = host.get_links(ifname=link)
        if not found:
            raise HypervisorError(f"its link {link} is gone")
        seen = found[0].get_attr("IFLA_STATS64")
        return LinkCounters(
            rx_bytes=seen["tx_bytes"],
            tx_bytes=seen["rx_bytes"],
            rx_packets=seen["tx_packets"],
            tx_packets=seen["rx_packets"],
            drops=seen["rx_dropped"] + seen["tx_dropped"],
        )

    # -- the bridge -------------------------------------------------------------------------

    def ensure(self, network: Network) -> None:
        """Make what is missing of bridge, forwarding and NAT, and plug in what runs."""
        with self._store.locked():
            self._ensure(network)

    def _ensure(self, network: Network) -> None:
        with IPRoute() as host:
            try:
                self._ensure_bridge(host, network)
            except NetlinkError as error:
                raise HypervisorError(f"the bridge {network.bridge} could not be made: {error}") from error
            forwarding = Path("/proc/sys/net/ipv4/ip_forward")
            if forwarding.read_text().strip() != "1":
                forwarding.write_text("1")
            run("nft", "-f", "-", text=network.ruleset())
            for door in DOORS:
                door.open(network.bridge)

    def _ensure_bridge(self, host: IPRoute, network: Network) -> None:
        if not host.link_lookup(ifname=network.bridge):
            # An address of its own, or the bridge would take that of whatever link joins first.
            host.link("add", ifname=network.bridge, kind="bridge", address=mac_of(str(network.gateway.ip)))
        (index,) = host.link_lookup(ifname=network.bridge)
        host.link("set", index=index, state="up")
        host.addr(
            "replace",
            index=index,
            address=str(network.gateway.ip),
            prefixlen=network.subnet.prefixlen,
            broadcast=str(network.subnet.broadcast_address),
        )
        for vnf_id in self._store.ids():
            for link in host.get_links(ifname=link_of(vnf_id)):
                if link.get_attr("IFLA_MASTER") != index:
                    host.link("set", index=link["index"], master=index, state="up")

    def is_whole(self) -> bool:
        """Whether bridge, NAT and the way through the host's own firewall are there."""
        network = self.get()
        if not Path("/sys/class/net", network.bridge).exists():
            return False
        if not succeeds("nft", "list", "table", "ip", network.table):
            return False
        return all(door.stands_open(network.bridge) for door in DOORS)

    def remove_if_unused(self) -> None:
        """Take the network away once no guest has an address in it."""
        with self._store.locked():
            network = self._kept()
            if network is None or not self._store.is_unused():
                return
            self._store.forget_abandoned()
            for door in DOORS:
                door.close(network.bridge)
            succeeds("nft", "delete", "table", "ip", network.table)
            with IPRoute() as host:
                for index in host.link_lookup(ifname=network.bridge):
                    host.link("del", index=index)
            with contextlib.suppress(OSError):  # somebody keeps something there
                self._store.runtime_root.rmdir()
            self._file.unlink()


@contextlib.contextmanager
def _choosing() -> Iterator[None]:
    """Let one choose at a time: a subnet is seen to be taken once its bridge is there."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _LOCK.open("w") as file:
        lock(file.fileno())
        yield


def _choose() -> Network:
    bridge = os.environ.get("NFIO_NATIVE_BRIDGE") or DEFAULT_BRIDGE
    if not (bridge.isascii() and bridge.isalnum() and len(bridge) <= 15):
        raise InvalidValue(f"NFIO_NATIVE_BRIDGE {bridge!r}: up to 15 letters and digits")
    wanted = os.environ.get("NFIO_NATIVE_SUBNET")
    if wanted:
        try:
            subnet = IPv4Network(wanted)
        except ValueError as error:
            raise InvalidValue(f"NFIO_NATIVE_SUBNET: {error}") from None
        if subnet.prefixlen > 29:
            raise InvalidValue(f"NFIO_NATIVE_SUBNET {subnet} is too small: /29 or larger")
        return Network(bridge, _first(subnet))
    known = _routed()
    for subnet in _CANDIDATES:
        if not any(subnet.overlaps(other) for other in known):
            return Network(bridge, _first(subnet))
    raise HypervisorError("this host has routes into all of 10.201.0.0 to 10.249.0.0: set NFIO_NATIVE_SUBNET")


def _first(subnet: IPv4Network) -> IPv4Interface:
    return IPv4Interface(f"{subnet.network_address + 1}/{subnet.prefixlen}")


def _routed() -> list[IPv4Network]:
    """What this host has routes to, its default route apart."""
    found = []
    with IPRoute() as host:
        for route in host.get_routes(family=2):
            if destination := route.get_attr("RTA_DST"):
                found.append(IPv4Network(f"{destination}/{route['dst_len']}", strict=False))
    return found
