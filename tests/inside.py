"""Hosts on this one, and nfio on such a host: namespaces of network and mounts, and a link there."""

from __future__ import annotations

import subprocess
from pathlib import Path

from engine_view import EngineView, output_of
from mount import NFIO, Mount
from remote import FarAway

#: What sysfs shows belongs to a network namespace; control groups are everybody's.
OWN_SYS = """\
set -e
cgroups=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$cgroups"
mount -t sysfs sysfs /sys
mount --move "$cgroups" /sys/fs/cgroup
rmdir "$cgroups"
"""


class InnerHost(FarAway):
    """A host at the other end of a cable that commands can be run on."""

    def start(self, script: str, log: Path) -> None:
        """Begin its mount namespace with a shell script; its last program is the host's first process."""
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.namespace}"),
                    *("unshare", "--mount", "--propagation", "private", "sh", "-c", OWN_SYS + script),
                ],
                stdout=output,
                stderr=output,
            )

    @property
    def inside(self) -> tuple[str, ...]:
        """What runs a command on that host."""
        assert self.process is not None
        return ("nsenter", "-n", "-m", "-t", str(self.process.pid), "--")

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a command on that host."""
        return output_of(*self.inside, *command, check=check)


class MountInside(Mount):
    """nfio on such a host: what it mounts is seen there, and from here through its first process."""

    def __init__(self, directory: Path, engine: EngineView, host: InnerHost) -> None:
        super().__init__(directory, engine, variables=host.variables)
        assert host.process is not None
        self.host = host
        self.place = self.path
        self.path = Path(f"/proc/{host.process.pid}/root{self.place}")

    def nfio(
        self, *arguments: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        there = [str(self.place) if word == str(self.path) else word for word in arguments]
        done = subprocess.run(
            [*self.host.inside, *NFIO, *there],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"nfio {' '.join(there)}: {done.stderr}{self.log()}"
        return done

    @property
    def is_mounted(self) -> bool:
        return f" {self.place} " in self.host.run("cat", "/proc/self/mountinfo")
