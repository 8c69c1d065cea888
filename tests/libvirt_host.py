"""Another host with a libvirtd of its own: namespaces of its network and mounts, and a veth link there."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from engine import wait_until
from engine_view import output_of
from libvirt_view import URI
from remote import FarAway, Sshd

POOL = "nfio"
POOL_DIRECTORY = Path("/var/lib/nfio/libvirt/pool")

# What libvirt and nfio keep on a host is this one's own. Its /dev/kvm is not for QEMU: else
# libvirt would try it out at each call.
_HOST = """\
set -e
cgroups=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$cgroups"
mount -t sysfs sysfs /sys
mount --move "$cgroups" /sys/fs/cgroup
rmdir "$cgroups"
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
exec libvirtd --pid-file /run/libvirt/libvirtd.pid
"""


class LibvirtHost(FarAway):
    """A host that is reached by ssh, and by nothing else."""

    link = "nfiotestvirt"
    namespace = "nfiotestvirt"
    network = "10.213.249"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.sshd: Sshd | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)
            with (self.directory / "libvirtd.log").open("wb") as log:
                self.process = subprocess.Popen(
                    [
                        *("nsenter", f"--net=/run/netns/{self.namespace}"),
                        *("unshare", "--mount", "--propagation", "private", "sh", "-c", _HOST),
                    ],
                    stdout=log,
                    stderr=log,
                )
            wait_until(lambda: self.answers, 30, "the other host's libvirtd answers")
            self.sshd = Sshd(self.directory / "ssh", address=self.address, port=22, inside=self._inside)
            self.sshd.start()
        except BaseException:
            self.__exit__()
            raise
        return self

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
    def _inside(self) -> tuple[str, ...]:
        assert self.process is not None
        return ("nsenter", "-n", "-m", "-t", str(self.process.pid), "--")

    @property
    def variables(self) -> dict[str, str]:
        assert self.sshd is not None
        return {"PATH": self.sshd.variables["PATH"]}

    @property
    def answers(self) -> bool:
        done = subprocess.run(
            [*self._inside, "virsh", "-c", URI, "version"], capture_output=True, timeout=20, check=False
        )
        return done.returncode == 0

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a command on that host."""
        return output_of(*self._inside, *command, check=check)

    def virsh(self, *arguments: str, check: bool = True) -> str:
        return self.run("virsh", "-q", "-c", URI, *arguments, check=check)

    def guests(self) -> list[str]:
        return self.virsh("list", "--all", "--uuid").split()

    def volumes(self) -> dict[str, str]:
        """Names of the volumes of nfio's pool, and their files."""
        lines = self.virsh("vol-list", POOL, check=False).splitlines()
        return dict(line.split() for line in lines)
