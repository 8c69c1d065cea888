"""The XML of a domain and of a network, made from typed plans.

Names and paths are data: ElementTree writes them, so that none of them can become markup.
Source: https://libvirt.org/formatdomain.html, https://libvirt.org/formatnetwork.html.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import PurePath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from hypervisor.hypervisor_base import Resources
from hypervisor.libvirt_metadata import Mark

#: name of the virtio port that an nfio image's function writes its output to
CONSOLE_PORT = "io.nfio.console"
AGENT_PORT = "org.qemu.guest_agent.0"

#: A machine has some memory and some CPU: these where none is said.
DEFAULT_MEMORY_BYTES = 256 << 20
DEFAULT_VCPUS = 1
#: the kernel counts CPU time in periods of this many microseconds
CPU_PERIOD_US = 100_000
#: quota of a domain that may use all it can
NO_QUOTA = -1


@dataclass(frozen=True)
class Kernel:
    """A kernel that the machine is started with, instead of one that its disk holds."""

    kernel: str
    initrd: str = ""
    cmdline: str = ""


@dataclass(frozen=True)
class DomainPlan:
    """A domain.

    Attributes:
        kind: ``kvm`` or ``qemu``.
        cpus: CPUs of its host: it can be given that many while it runs.
        disk: its own disk, a qcow2 over its image.
        config: raw image of its configuration; None if it does not read one.
        serial_log: file that gets what it writes on its serial line.
        console_log: file that gets its function's output; None if it has no such port.
    """

    name: str
    uuid: str
    kind: str
    mark: Mark
    resources: Resources
    cpus: int
    disk: PurePath
    config: PurePath | None
    serial_log: PurePath
    console_log: PurePath | None
    network: str
    mac: str
    kernel: Kernel | None = None


def vcpus_of(resources: Resources) -> int:
    """Whole CPUs that a machine needs for a limit."""
    return DEFAULT_VCPUS if resources.vcpu is None else max(1, math.ceil(resources.vcpu))


def quota_of(resources: Resources) -> int:
    """Microseconds of CPU per CPU_PERIOD_US for the whole domain."""
    return NO_QUOTA if resources.vcpu is None else max(1000, round(resources.vcpu * CPU_PERIOD_US))


def memory_of(resources: Resources) -> int:
    """Bytes of a machine's memory."""
    return DEFAULT_MEMORY_BYTES if resources.memory_bytes is None else resources.memory_bytes


def domain_xml(plan: DomainPlan) -> str:
    """The domain that a plan describes."""
    root = Element("domain", type=plan.kind)
    _text(root, "name", plan.name)
    _text(root, "uuid", plan.uuid)
    SubElement(root, "metadata").append(plan.mark.element())
    for name in ("memory", "currentMemory"):
        _text(root, name, str(memory_of(plan.resources)), unit="bytes")
    _add_cpus(root, plan)
    _add_boot(root, plan)
    for name, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _text(root, f"on_{name}", action)
    devices = SubElement(root, "devices")
    _add_disk(devices, plan.disk, "qcow2", "vda")
    if plan.config is not None:
        _add_disk(devices, plan.config, "raw", "vdb", read_only=True)
    link = SubElement(devices, "interface", type="network")
    SubElement(link, "mac", address=plan.mac)
    SubElement(link, "source", network=plan.network)
    SubElement(link, "model", type="virtio")
    _add_consoles(devices, plan)
    SubElement(devices, "memballoon", model="virtio")
    SubElement(devices, "panic", model="isa")
    rng = SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    return ElementTree.tostring(root, encoding="unicode")


def _add_cpus(root: Element, plan: DomainPlan) -> None:
    current = vcpus_of(plan.resources)
    maximum = max(plan.cpus, current)
    _text(root, "vcpu", str(maximum), placement="static", current=str(current))
    vcpus = SubElement(root, "vcpus")
    for number in range(maximum):
        # Without a word on it, those that are there from the start could never be taken away.
        SubElement(
            vcpus,
            "vcpu",
            id=str(number),
            enabled="yes" if number < current else "no",
            hotpluggable="no" if number == 0 else "yes",
        )
    if quota_of(plan.resources) != NO_QUOTA:
        tune = SubElement(root, "cputune")
        _text(tune, "global_period", str(CPU_PERIOD_US))
        _text(tune, "global_quota", str(quota_of(plan.resources)))
    if plan.kind == "kvm":
        SubElement(root, "cpu", mode="host-passthrough", check="none")
    else:
        # The emulation's richest model is its slowest: a kernel that finds more uses more.
        cpu = SubElement(root, "cpu", mode="custom", match="exact", check="none")
        _text(cpu, "model", "qemu64", fallback="forbid")


def _add_boot(root: Element, plan: DomainPlan) -> None:
    system = SubElement(root, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="pc")
    if plan.kernel is None:
        SubElement(system, "boot", dev="hd")
    else:
        _text(system, "kernel", plan.kernel.kernel)
        if plan.kernel.initrd:
            _text(system, "initrd", plan.kernel.initrd)
        if plan.kernel.cmdline:
            _text(system, "cmdline", plan.kernel.cmdline)
    features = SubElement(root, "features")
    for name in ("acpi", "apic"):
        SubElement(features, name)


def _add_disk(devices: Element, path: PurePath, kind: str, target: str, *, read_only: bool = False) -> None:
    disk = SubElement(devices, "disk", type="file", device="disk")
    SubElement(disk, "driver", name="qemu", type=kind, discard="unmap")
    SubElement(disk, "source", file=str(path))
    SubElement(disk, "target", dev=target, bus="virtio")
    if read_only:
        SubElement(disk, "readonly")


def _add_consoles(devices: Element, plan: DomainPlan) -> None:
    SubElement(devices, "controller", type="usb", model="none")
    serial = SubElement(devices, "serial", type="pty")
    SubElement(serial, "log", file=str(plan.serial_log), append="off")
    SubElement(serial, "target", port="0")
    agent = SubElement(devices, "channel", type="unix")
    SubElement(agent, "target", type="virtio", name=AGENT_PORT)
    if plan.console_log is not None:
        console = SubElement(devices, "channel", type="file")
        SubElement(console, "source", path=str(plan.console_log), append="on")
        SubElement(console, "target", type="virtio", name=CONSOLE_PORT)


def network_xml(name: str, bridge: str, subnet: IPv4Network) -> str:
    """A network behind this host's address, with DHCP."""
    first, *_, last = subnet.hosts()
    root = Element("network")
    _text(root, "name", name)
    SubElement(root, "forward", mode="nat")
    SubElement(root, "bridge", name=bridge, stp="off", delay="0")
    address = SubElement(root, "ip", address=str(first), prefix=str(subnet.prefixlen))
    dhcp = SubElement(address, "dhcp")
    SubElement(dhcp, "range", start=str(first + 1), end=str(last))
    # dnsmasq would look for another owner of an address for three seconds before it gives it out.
    options = SubElement(root, "{http://libvirt.org/schemas/network/dnsmasq/1.0}options")
    SubElement(options, "{http://libvirt.org/schemas/network/dnsmasq/1.0}option", value="no-ping")
    return ElementTree.tostring(root, encoding="unicode")


def _text(parent: Element, tag: str, text: str, **attributes: str) -> None:
    SubElement(parent, tag, attributes).text = text


@dataclass(frozen=True)
class LiveDomain:
    """What a domain's XML says of it while it runs.

    Attributes:
        links: its host's ends of its links, and their MAC addresses.
        networks: the networks of its links.
        agent: a guest agent has opened its port.
        has_agent_port: it has one.
        disks: files of its disks.
    """

    links: dict[str, str]
    networks: tuple[str, ...]
    agent: bool
    has_agent_port: bool
    disks: tuple[str, ...]


def parse_domain(text: str) -> LiveDomain:
    """Read a domain's XML."""
    root = ElementTree.fromstring(text)
    links, networks = {}, []
    for link in root.iterfind("devices/interface"):
        source, target, mac = link.find("source"), link.find("target"), link.find("mac")
        if source is not None and source.get("network"):
            networks.append(source.get("network", ""))
        if target is not None and target.get("dev"):
            links[target.get("dev", "")] = "" if mac is None else mac.get("address", "")
    ports = [target for target in root.iterfind("devices/channel/target") if target.get("name") == AGENT_PORT]
    return LiveDomain(
        links=links,
        networks=tuple(networks),
        agent=any(port.get("state") == "connected" for port in ports),
        has_agent_port=bool(ports),
        disks=tuple(
            source.get("file", "") for source in root.iterfind("devices/disk/source") if source.get("file")
        ),
    )
