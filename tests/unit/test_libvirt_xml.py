"""The XML of domains and networks: names and paths are data in it, whatever they hold."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.hypervisor_base import Resources
from hypervisor.libvirt_metadata import NAMESPACE, Asked, Mark, parse_mark
from hypervisor.libvirt_xml import (
    AGENT_PORT,
    CONSOLE_PORT,
    DomainPlan,
    Kernel,
    domain_xml,
    memory_of,
    network_xml,
    parse_domain,
    quota_of,
    vcpus_of,
)

MIB = 1 << 20
PLAN = DomainPlan(
    name="root-firewall-fw0",
    uuid="2dd9c6dc-5b78-4b55-9baf-4e59e55c9322",
    kind="qemu",
    mark=Mark(root="r", uuid="u", image="nfio/firewall", store="s"),
    resources=Resources(),
    cpus=4,
    disk=Path("/m/root.qcow2"),
    config=Path("/m/config.raw"),
    serial_log=Path("/m/serial.log"),
    console_log=Path("/m/console.log"),
    network="nfio",
    mac="52:54:00:00:00:01",
    kernel=Kernel("/s/vmlinuz", "/s/initrd", "console=ttyS0"),
)

#: what XML can hold at all
texts = st.text(
    st.characters(min_codepoint=32, exclude_categories=("Cs", "Cn"), exclude_characters="\x7f￾￿"),
    min_size=1,
    max_size=40,
)


def parsed(plan: DomainPlan) -> ElementTree.Element:
    return ElementTree.fromstring(domain_xml(plan))


@given(texts, texts, texts)
def test_names_paths_and_command_lines_are_never_markup(name: str, path: str, cmdline: str) -> None:
    plan = replace(PLAN, name=name, disk=Path("/") / path.replace("/", "_"), kernel=Kernel("/k", "", cmdline))
    root = parsed(plan)
    assert root.findtext("name") == name
    assert root.findtext("os/cmdline") == cmdline
    assert [e.tag for e in root] == [e.tag for e in parsed(PLAN)]
    source = root.find("devices/disk/source")
    assert source is not None and source.get("file") == str(plan.disk)


@given(texts, texts)
def test_a_mark_reads_back_as_it_was_written(root: str, image: str) -> None:
    mark = Mark(root=root, image=image, uuid="u", asked=Asked.STOP.value)
    text = ElementTree.tostring(mark.element(named=False), encoding="unicode")
    assert parse_mark(text) == mark


def test_the_mark_stands_in_the_metadata_in_nfios_namespace() -> None:
    (element,) = parsed(PLAN).iterfind(f"metadata/{{{NAMESPACE}}}vnf")
    assert parse_mark(ElementTree.tostring(element, encoding="unicode")) == PLAN.mark


def test_a_mark_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse_mark("<vnf root='r' colour='blue'/>") == Mark(root="r")


@pytest.mark.parametrize(
    ("vcpu", "count", "quota"),
    [(None, 1, -1), (0.2, 1, 20_000), (1, 1, 100_000), (1.5, 2, 150_000), (3, 3, 300_000)],
)
def test_cpus_are_whole_and_the_quota_is_exact(vcpu: float | None, count: int, quota: int) -> None:
    resources = Resources(vcpu=vcpu)
    assert (vcpus_of(resources), quota_of(resources)) == (count, quota)
    root = parsed(replace(PLAN, resources=resources))
    vcpus = root.findall("vcpus/vcpu")
    assert [v.get("enabled") for v in vcpus] == ["yes"] * count + ["no"] * (4 - count)
    assert vcpus[0].get("hotpluggable") == "no"
    assert {v.get("hotpluggable") for v in vcpus[1:]} == {"yes"}
    assert root.findtext("cputune/global_quota") == (None if vcpu is None else str(quota))


def test_a_machine_has_memory_where_none_is_said() -> None:
    assert memory_of(Resources()) == 256 * MIB
    root = parsed(replace(PLAN, resources=Resources(memory_bytes=100 * MIB)))
    assert root.findtext("memory") == root.findtext("currentMemory") == str(100 * MIB)


def test_a_disk_of_somebody_else_boots_by_itself_and_gets_no_ports_of_nfios() -> None:
    root = parsed(replace(PLAN, kernel=None, config=None, console_log=None))
    boot = root.find("os/boot")
    assert boot is not None and boot.get("dev") == "hd"
    assert root.find("os/kernel") is None
    assert [t.get("name") for t in root.iterfind("devices/channel/target")] == [AGENT_PORT]
    assert len(root.findall("devices/disk")) == 1


def test_a_machine_of_nfios_has_a_console_port_and_a_read_only_configuration() -> None:
    root = parsed(PLAN)
    assert {t.get("name") for t in root.iterfind("devices/channel/target")} == {AGENT_PORT, CONSOLE_PORT}
    disk, config = root.findall("devices/disk")
    assert disk.find("readonly") is None and config.find("readonly") is not None


def test_the_format_of_a_disk_is_said_and_never_guessed() -> None:
    for disk in parsed(PLAN).iterfind("devices/disk"):
        driver = disk.find("driver")
        assert driver is not None and driver.get("type") in ("qcow2", "raw")


def test_the_cpu_is_the_hosts_own_under_kvm_only() -> None:
    modes = {}
    for kind in ("kvm", "qemu"):
        cpu = parsed(replace(PLAN, kind=kind)).find("cpu")
        assert cpu is not None
        modes[kind] = cpu.get("mode")
    assert modes == {"kvm": "host-passthrough", "qemu": "custom"}


def test_a_network_gives_its_first_address_to_the_host() -> None:
    root = ElementTree.fromstring(network_xml("nfio", "nfiovirt0", IPv4Network("10.213.250.0/24")))
    ip, lease = root.find("ip"), root.find("ip/dhcp/range")
    assert ip is not None and lease is not None
    assert (ip.get("address"), ip.get("prefix")) == ("10.213.250.1", "24")
    assert (lease.get("start"), lease.get("end")) == ("10.213.250.2", "10.213.250.254")


LIVE = """
<domain><devices>
  <disk><source file='/m/root.qcow2'/></disk><disk><target dev='hda'/></disk>
  <interface type='network'><mac address='52:54:00:00:00:01'/><source network='nfio'/><target dev='vnet3'/></interface>
  <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/></interface>
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='STATE'/></channel>
</devices></domain>
"""


@pytest.mark.parametrize(("state", "connected"), [("connected", True), ("disconnected", False)])
def test_what_a_running_domain_says_of_itself(state: str, connected: bool) -> None:
    live = parse_domain(LIVE.replace("STATE", state))
    assert live.links == {"vnet3": "52:54:00:00:00:01"}
    assert live.networks == ("nfio",)
    assert (live.agent, live.has_agent_port) == (connected, True)
    assert live.disks == ("/m/root.qcow2",)
