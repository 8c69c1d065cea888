"""libvirt without nfio: virsh, the images' directory, and what may be left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from engine import stop_still
from libvirt_view import MACHINES_OWN
from probes import need
from subject import PROGRAMS, SHELL, Hung, Subject

from hypervisor.hypervisor_base import HypervisorBase
from hypervisor.libvirt_network import BRIDGE, NETWORK
from nfio.recipes import BASE, SUITE

KVM_SEEN = "kvm.json"
#: What of Debian's packages these guests have no use for; the rest makes images in half the time.
_LEFT_OUT = (
    *("./usr/share", "./usr/lib/x86_64-linux-gnu/gconv", "./usr/lib/x86_64-linux-gnu/perl", "./lib/udev"),
    *(f"./lib/modules/*/kernel/fs/{name}" for name in ("btrfs", "ceph", "nfs*", "smb", "xfs")),
    *(f"./lib/modules/*/kernel/drivers/{name}" for name in ("comedi", "infiniband", "net/ethernet")),
)


def virsh(*arguments: str, check: bool = True) -> str:
    """Output of virsh against this machine's libvirtd."""
    done = subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not check or done.returncode == 0, f"virsh {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def answers() -> bool:
    """Whether libvirtd is there."""
    if shutil.which("virsh") is None:
        return False
    done = subprocess.run(
        ["virsh", "-c", "qemu:///system", "version"], capture_output=True, check=False, timeout=20
    )
    return done.returncode == 0


class LibvirtSubject(Subject):
    """A directory of the suite's own, and this machine's libvirtd."""

    name = "Libvirt"
    ended = "shut off"
    shares_kernel = False
    little_memory = 96 << 20
    at_once = 2
    fixtures = ()
    nowhere: ClassVar[dict[str, str]] = {"NFIO_LIBVIRT_URI": "qemu+unix:///system?socket=/nonexistent/socket"}

    @contextmanager
    def hung(self, directory: Path, vnf_id: str) -> Iterator[Hung]:
        pidfile = Path("/run/nfio-libvirtd.pid")
        need("libvirt", pidfile.exists(), "libvirtd was not started by scripts/libvirt-engine")
        pid = int(pidfile.read_text())
        driver = self.driver(timeout_s=2.0)
        driver.ping("")
        stop_still(pid)
        try:
            yield Hung(driver, lambda: driver.list_guests("", "root"), lambda: os.kill(pid, signal.SIGCONT))
        finally:
            os.kill(pid, signal.SIGCONT)

    def root_file_system(self) -> dict[str, bytes]:
        need("libvirt", answers(), "no libvirtd answers; scripts/libvirt-engine start starts one")
        need("libvirt", shutil.which("mmdebstrap") is not None, "mmdebstrap is not installed")
        return {}

    def begin(self, directory: Path) -> None:
        self.directory = directory / "libvirt"
        os.environ["NFIO_LIBVIRT_DIR"] = str(self.directory)
        directory.chmod(0o711)  # QEMU is another user
        if (MACHINES_OWN / KVM_SEEN).exists():  # else KVM is tried out once more, which takes seconds
            self.directory.mkdir(mode=0o711)
            shutil.copy(MACHINES_OWN / KVM_SEEN, self.directory)

    def end(self) -> None:
        try:
            super().end()
        finally:
            del os.environ["NFIO_LIBVIRT_DIR"]

    def leftovers(self) -> list[str]:
        found = super().leftovers()
        found += [
            str(path) for part in ("machines", "store", "images") for path in self.directory.glob(f"{part}/*")
        ]
        found += [name for name in virsh("net-list", "--all", "--name").split() if name == NETWORK]
        found += [name for name in os.listdir("/sys/class/net") if name == BRIDGE]
        return found

    def make_images(self, driver: HypervisorBase, directory: Path, files: dict[str, bytes]) -> None:
        tarball = directory / "root.tar"
        self._debootstrap(driver, tarball, directory / "setup")
        for program, (script, labels) in PROGRAMS.items():
            driver.import_image(self.image(program), tarball, [*SHELL, script], labels)

    @staticmethod
    def _debootstrap(driver: HypervisorBase, tarball: Path, hook: Path) -> None:
        hook.write_text(
            "#!/bin/sh\nset -e\n"
            'cd "$1"; mkdir -p usr/bin proc sys dev run; ln -sf busybox bin/sh\n'
            "chroot . /bin/busybox sh -c 'for tool in $(/bin/busybox --list); do "
            "[ -e /bin/$tool ] || [ -e /sbin/$tool ] || /bin/busybox ln -s /bin/busybox /usr/bin/$tool 2>/dev/null || :; "
            "done; cp /usr/share/base-passwd/passwd.master /etc/passwd'\n"
            f"rm -rf {' '.join(_LEFT_OUT)}\n"
        )
        hook.chmod(0o755)
        subprocess.run(
            [
                *("mmdebstrap", "--variant=extract", "--aptopt=APT::Install-Recommends false"),
                *(f"--include={','.join((*BASE, *driver.image_packages))}", f"--extract-hook={hook}"),
                *(SUITE, str(tarball)),
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )

    def make_stranger(self, name: str, image: str) -> None:
        xml = f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
        file = self.directory / "stranger.xml"
        file.write_text(xml)
        virsh("define", str(file))
        file.unlink()

    def remove_stranger(self, name: str) -> None:
        virsh("undefine", name)

    def names(self) -> list[str]:
        return virsh("list", "--all", "--name").split()

    def is_privileged(self, vnf_id: str) -> bool:
        """Whether QEMU runs as root."""
        pid = Path(f"/run/libvirt/qemu/{virsh('domname', vnf_id)}.pid").read_text().strip()
        return Path(f"/proc/{pid}").stat().st_uid == 0

    def kill(self, vnf_id: str) -> None:
        virsh("destroy", vnf_id)
