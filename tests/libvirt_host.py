"""Hosts with a libvirtd of their own: namespaces of their network and mounts, and a veth link there.

``LibvirtHost`` is another host, which ssh leads to. ``OwnLibvirt`` is one on which nfio itself
runs, and whose libvirtd may be killed.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote

from engine import wait_until
from engine_view import output_of
from inside import InnerHost
from libvirt_view import MACHINES_OWN, URI
from remote import Sshd

POOL = "nfio"
POOL_DIRECTORY = Path("/var/lib/nfio/libvirt/pool")

# What libvirt and nfio keep on a host is this one's own. Its /dev/kvm is not for QEMU: else
# libvirt would try it out at each call.
_HOST = """\
for place in /run/libvirt /var/lib/libvirt /etc/libvirt /var/log/libvirt /var/cache/libvirt /var/lib/nfio; do
    mkdir -p "$place"
    mount -t tmpfs -o mode=755 tmpfs "$place"
done
if [ -e /dev/kvm ]; then
    : > /run/libvirt/no-kvm
    chmod 0 /run/libvirt/no-kvm
    mount --bind /run/libvirt/no-kvm /dev/kvm
    echo 'namespaces = []' > /etc/libvirt/qemu.conf  # a mount below /dev would be in their way
fi
virtlogd --daemon --pid-file /run/libvirt/virtlogd.pid
"""
_LIBVIRTD = ("libvirtd", "--pid-file", "/run/libvirt/libvirtd.pid")


class LibvirtHost(InnerHost):
    """A host that is reached by ssh, and by nothing else."""

    link = "nfiotestvirt"
    namespace = "nfiotestvirt"
    network = "10.213.249"
    #: what stays as long as the host does
    first_process: ClassVar[tuple[str, ...]] = _LIBVIRTD

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.sshd: Sshd | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)
            self.start(_HOST + f"exec {' '.join(self.first_process)}\n", self.directory / "libvirtd.log")
            self._serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _serve(self) -> None:
        wait_until(lambda: self.answers, 30, "the other host's libvirtd answers")
        self.sshd = Sshd(self.directory / "ssh", address=self.address, port=22, inside=self.inside)
        self.sshd.start()

    def __exit__(self, *failure: object) -> None:
        try:
            if self.process is not None and self.answers:
                for guest in self.guests():
                    self.virsh("destroy", guest, check=False)
            if self.sshd is not None:
                self.sshd.stop()
            # Its log daemon, its networks' dnsmasq, and sessions of ssh whose cable was cut.
            subprocess.run(["kill", *output_of("ip", "netns", "pids", self.namespace).split()], check=False)
        finally:
            super().__exit__(*failure)

    @property
    def variables(self) -> dict[str, str]:
        assert self.sshd is not None
        return {"PATH": self.sshd.variables["PATH"]}

    @property
    def answers(self) -> bool:
        done = subprocess.run(
            [*self.inside, "virsh", "-c", URI, "version"], capture_output=True, timeout=20, check=False
        )
        return done.returncode == 0

    def virsh(self, *arguments: str, check: bool = True) -> str:
        return self.run("virsh", "-q", "-c", URI, *arguments, check=check)

    def guests(self) -> list[str]:
        return self.virsh("list", "--all", "--uuid").split()

    def volumes(self) -> dict[str, str]:
        """Names of the volumes of nfio's pool, and their files."""
        lines = self.virsh("vol-list", POOL, check=False).splitlines()
        return dict(line.split() for line in lines)


class OwnLibvirt(LibvirtHost):
    """A host of nfio's own. Its machines use images in the directory, which others see too."""

    link = "nfiotestown"
    namespace = "nfiotestown"
    network = "10.213.248"
    first_process = ("sleep", "infinity")

    def _serve(self) -> None:
        wait_until(lambda: self.run("cat", "/run/libvirt/virtlogd.pid", check=False), 10, "its log daemon")
        index = f"images/{quote('nfio/firewall', safe='')}.json"
        for part in (index, f"store/{json.loads((MACHINES_OWN / index).read_text())['store']}", "kvm.json"):
            (self.images / part).parent.mkdir(mode=0o711, exist_ok=True)
            copy = (str(MACHINES_OWN / part), str(self.images / part))
            # Nobody writes to them: they are what machines' own disks lie over.
            if subprocess.run(["cp", "-al", *copy], capture_output=True, check=False).returncode:
                output_of("cp", "-a", *copy)
        self.start_libvirtd()

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
        self.libvirtd.wait(10)

    @property
    def images(self) -> Path:
        place = self.directory / "libvirt"
        place.mkdir(mode=0o711, exist_ok=True)
        return place

    @property
    def variables(self) -> dict[str, str]:
        return {"NFIO_LIBVIRT_DIR": str(self.images)}

    def start_libvirtd(self) -> None:
        with (self.directory / "libvirtd.log").open("ab") as log:
            self.libvirtd = subprocess.Popen([*self.inside, *_LIBVIRTD], stdout=log, stderr=log)
        wait_until(lambda: self.answers, 30, "libvirtd answers")

    def end_libvirtd(self, how: signal.Signals) -> None:
        """Its machines and their log daemon go on."""
        self.libvirtd.send_signal(how)
        self.libvirtd.wait(30)

    def pid(self, guest: str) -> int:
        """QEMU's process, as all see it."""
        return int(self.run("cat", f"/run/libvirt/qemu/{self.virsh('domname', guest)}.pid"))
