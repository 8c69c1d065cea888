"""What boots a machine: kernels of this host, and disk images that are not nfio's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from xml.etree import ElementTree

import pytest
from engine import wait_until
from engine_view import output_of
from libvirt_view import LibvirtView, virsh
from mount import Mount, Vnf, errno_of

from hypervisor.libvirt_disks import DISK, INITRD, KERNEL
from hypervisor.libvirt_guest import INIT
from hypervisor.libvirt_images import find_image, store_dir
from hypervisor.libvirt_network import NETWORK

pytestmark = pytest.mark.engines("Libvirt")

COMES_UP_S = 60

#: Where an image of nfio's has its root file system: behind the boot partition.
ROOT_OFFSET = 41 << 20
#: Somebody's own machine: it gets its address from DHCP, or gives itself the one it is told.
OWN_INIT = """\
#!/bin/busybox sh
exec < /dev/null > /dev/ttyS0 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
modprobe -a virtio_net virtio_console button evdev
acpid > /dev/null 2>&1
ip link set eth0 up
if grep own.address= /proc/cmdline; then
    for word in $(cat /proc/cmdline); do
        case $word in
            own.address=*) ip addr add "${word#*=}" dev eth0 ;;
            own.gateway=*) ping -c 1 "${word#*=}" ;;
        esac
    done
else
    mkdir -p /run/nfio
    udhcpc -i eth0 -q -s /usr/lib/nfio/machine/dhcp
fi
echo "own machine: $(cat /proc/cmdline)"
while :; do sleep 1000; done
"""
OWN_POWER_BUTTON = "#!/bin/busybox sh\nmount -o remount,ro /; poweroff -f\n"


@pytest.fixture
def nfio(shared: Mount) -> Mount:
    """These tests leave nothing behind that could disturb the next one."""
    return shared


@dataclass
class BuiltImage:
    """Copies of what an image of nfio's is made of, which somebody could have from anywhere."""

    disk: Path
    kernel: Path
    initrd: Path


@pytest.fixture
def built(stocked: LibvirtView, directory: Path, monkeypatch: pytest.MonkeyPatch) -> BuiltImage:
    for name, value in stocked.variables.items():
        monkeypatch.setenv(name, value)
    store = store_dir(find_image("nfio/firewall").store)
    kernel, initrd = (shutil.copy(store / name, directory / f"own-{name}") for name in (KERNEL, INITRD))
    return BuiltImage(store / DISK, Path(kernel), Path(initrd))


@pytest.fixture
def own_disk(built: BuiltImage, directory: Path) -> Iterator[Path]:
    """A raw disk image with a boot loader, a program of its owner's, and no guest agent."""
    disk = directory / "own.raw"
    output_of("qemu-img", "convert", "-O", "raw", str(built.disk), str(disk))
    orders = ["rm /usr/sbin/qemu-ga"]
    for path, text in ((INIT, OWN_INIT), ("/etc/acpi/PWRF/00000080", OWN_POWER_BUTTON)):
        (directory / Path(path).name).write_text(text)
        orders += [
            f"rm {path}",
            f"write {directory / Path(path).name} {path}",
            f"set_inode_field {path} mode 0100755",
        ]
    done = subprocess.run(
        ["debugfs", "-w", "-f", "/dev/stdin", f"{disk}?offset={ROOT_OFFSET}"],
        input="\n".join([*orders, "quit", ""]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.count("Allocated inode") == 2, done.stderr
    before = disk.stat().st_mtime_ns
    yield disk
    assert disk.stat().st_mtime_ns == before, "somebody's disk image was written to"


def run(vnf: Vnf, command: str) -> str:
    vnf.write("command", f"{command}\n")
    return vnf.read("command")


def arguments_of(nfio: Mount, vnf: Vnf) -> list[str]:
    """What QEMU was started with."""
    pid = nfio.engine.pid(nfio.guest_of(vnf))
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def argument(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def leases(guest: str) -> list[str]:
    """Addresses that a machine's link was given by DHCP."""
    mac = ElementTree.fromstring(virsh("dumpxml", guest)).find("devices/interface/mac")
    assert mac is not None
    lines = virsh("net-dhcp-leases", NETWORK, "--mac", mac.get("address", "")).splitlines()
    return [word.split("/")[0] for line in lines for word in line.split() if word.endswith("/24")]


def test_a_machine_boots_the_kernel_that_its_boot_conf_names(nfio: Mount, built: BuiltImage) -> None:
    firewall = nfio.make("firewall", "fw0")
    lines = {"kernel": built.kernel, "initrd": built.initrd, "cmdline": "own.word=seen panic=7"}
    firewall.write("config/boot.conf", "".join(f"{key}={value}\n" for key, value in lines.items()))
    firewall.act("activate")
    assert (firewall.state, firewall.error) == ("RUNNING", "")
    told = run(firewall, "cat /proc/cmdline").split()
    assert "own.word=seen" in told and told[-1] == "panic=7"
    arguments = arguments_of(nfio, firewall)
    assert argument(arguments, "-kernel") == str(built.kernel)
    assert argument(arguments, "-initrd") == str(built.initrd)
    firewall.act("destroy")
    built.initrd.unlink()
    assert errno_of(lambda: firewall.act("activate")) == "EIO"
    assert f"there is no file {built.initrd}" in firewall.error and firewall.state == "DEFINED"


def test_a_disk_image_of_somebodys_own_boots_and_gets_its_address_by_dhcp(
    nfio: Mount, own_disk: Path
) -> None:
    vnf = nfio.make("firewall", "own")
    vnf.write("machine/vm.image", f"{own_disk}\n")
    vnf.act("activate")
    assert (vnf.state, vnf.status, vnf.error) == ("RUNNING", "running", "")
    assert "-kernel" not in arguments_of(nfio, vnf)
    wait_until(lambda: vnf.address, COMES_UP_S, "its address is seen")
    assert leases(nfio.guest_of(vnf)) == [vnf.address]
    wait_until(lambda: "own machine: " in vnf.read("log"), COMES_UP_S, "its serial line is in log")
    assert ", 0% packet loss" in output_of("ping", "-q", "-c", "3", "-i", "0.1", vnf.address)
    assert vnf.number("stats/rx_packets") >= 3
    assert errno_of(lambda: run(vnf, "true")) == "ENOTSUP"
    assert "install qemu-guest-agent" in vnf.error and "org.qemu.guest_agent.0" in vnf.error
    vnf.act("stop")
    assert (vnf.state, vnf.error) == ("CONFIGURED", "")


def test_a_disk_image_boots_by_a_kernel_of_this_host_and_arp_knows_its_address(
    nfio: Mount, own_disk: Path, built: BuiltImage
) -> None:
    vnf = nfio.make("firewall", "own")
    vnf.write("machine/vm.image", f"{own_disk}\n")
    vnf.write("config/boot.conf", "cmdline=console=ttyS0\n")
    assert errno_of(lambda: vnf.act("deploy")) == "ENOTSUP"
    assert "need kernel=" in vnf.error
    vnf.write("config/boot.conf", "")
    vnf.act("deploy")  # now the network is there
    gateway = ElementTree.fromstring(virsh("net-dumpxml", NETWORK)).find("ip")
    assert gateway is not None
    network = ip_interface(f"{gateway.get('address')}/{gateway.get('prefix')}")
    address = f"{network.ip + 76}"
    words = f"console=ttyS0 own.address={address}/{network.network.prefixlen} own.gateway={network.ip}"
    vnf.write("config/boot.conf", f"kernel={built.kernel}\ninitrd={built.initrd}\ncmdline={words}\n")
    vnf.act("destroy")
    vnf.act("activate")
    assert argument(arguments_of(nfio, vnf), "-append") == words
    wait_until(lambda: vnf.address, COMES_UP_S, "its address is seen")
    assert vnf.address == address
    assert leases(nfio.guest_of(vnf)) == []
    assert f"own machine: {words}" in vnf.read("log")
