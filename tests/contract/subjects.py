"""What the suite must know of each driver beside its interface: how to look at its engine from outside.

A further driver is tested by one more entry of ``SUBJECTS``.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import engine as engines

from hypervisor.hypervisor_base import HypervisorBase
from hypervisor.hypervisor_factory import DRIVERS

SHELL = ["/bin/busybox", "sh", "-c"]
_APPLETS = (
    "sh",
    "cat",
    "sleep",
    "echo",
    "touch",
    "head",
    "tr",
    "id",
    "rm",
    "sed",
    "seq",
    "test",
    "sysctl",
    "ping",
)

#: The guests of these tests: what each image runs as its first program, and its labels.
PROGRAMS: dict[str, tuple[str, dict[str, str]]] = {
    "idle": ("trap 'exit 0' TERM; echo started; while :; do sleep 60 & wait $!; done", {}),
    "stubborn": ("trap '' TERM; while :; do sleep 60; done", {}),
    "failing": ("echo 'no such luck' >&2; exit 3", {}),
    "ending": ("while ! test -e /end; do sleep 0.05; done; exit 4", {}),
    "eater": ("while ! test -e /eat; do sleep 0.05; done; x=eat; while :; do x=$x$x; done", {}),
    "chatty": ("seq -w 60000 | sed 's/$/ is a line of a console that is written to a lot/'; sleep 600", {}),
    "slow": (
        "sleep 0.3; touch /serving; echo 'nfio: ready'; trap 'exit 0' TERM; sleep 600 & wait $!",
        {"io.nfio.init": "1"},
    ),
    "rejecting": ("echo 'nfio: rejected'; echo 'line 7: what is this?'; exit 78", {"io.nfio.init": "1"}),
}


class Subject(ABC):
    """One driver and its engine, as they are without nfio."""

    name: str
    #: fixtures that skip, or fail where it is required, if this machine cannot run it
    fixtures: tuple[str, ...]
    #: an environment in which nobody answers where the driver expects its engine
    nowhere: ClassVar[dict[str, str]]

    @abstractmethod
    def root_file_system(self) -> dict[str, bytes]:
        """Programs that the guests need, by path: a static busybox at ``bin/busybox``."""

    @abstractmethod
    def make_stranger(self, name: str, image: str) -> None:
        """Make a guest of that name that is not nfio's."""

    @abstractmethod
    def remove_stranger(self, name: str) -> None:
        """Remove it."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all guests that the engine has, nfio's or not."""

    @abstractmethod
    def is_privileged(self, vnf_id: str) -> bool:
        """Whether the engine gives the guest the host's own rights."""

    @abstractmethod
    def kill(self, vnf_id: str) -> None:
        """End its first process behind the driver's back."""

    @abstractmethod
    def remove_image(self, image: str) -> None:
        """Remove an image that the suite made."""

    def driver(self, timeout_s: float | None = None) -> HypervisorBase:
        """A new object of the driver's class."""
        module, _, name = DRIVERS[self.name].partition(":")
        made: HypervisorBase = getattr(import_module(module), name)()
        if timeout_s is not None:
            made.timeout_s = timeout_s
        return made

    def image(self, program: str) -> str:
        return f"nfio-contract/{program}"

    def make_images(self, driver: HypervisorBase, directory: Path) -> None:
        """Give the engine the images of ``PROGRAMS``, through its driver."""
        tarball = directory / "root.tar"
        with tarfile.open(tarball, "w") as tar:
            for path, content in self.root_file_system().items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
            for applet in _APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for program, (script, labels) in PROGRAMS.items():
            driver.import_image(self.image(program), tarball, [*SHELL, script], labels)


class DockerSubject(Subject):
    name = "Docker"
    fixtures = ("docker", "images")
    nowhere: ClassVar[dict[str, str]] = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}

    def root_file_system(self) -> dict[str, bytes]:
        container = engines.docker("create", "nfio/firewall", "/bin/true")
        try:
            done = subprocess.run(
                ["docker", "-H", engines.SOCKET, "cp", f"{container}:/bin/busybox", "-"],
                capture_output=True,
                check=True,
            )
        finally:
            engines.docker("rm", container)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            program = tar.extractfile("busybox")
            assert program is not None
            return {"bin/busybox": program.read()}

    def make_stranger(self, name: str, image: str) -> None:
        engines.docker("create", "--name", name, image)

    def remove_stranger(self, name: str) -> None:
        engines.docker("rm", "-f", name)

    def names(self) -> list[str]:
        return engines.docker("ps", "-a", "--format", "{{.Names}}").split()

    def is_privileged(self, vnf_id: str) -> bool:
        (found,) = json.loads(engines.docker("inspect", vnf_id))
        return bool(found["HostConfig"]["Privileged"])

    def kill(self, vnf_id: str) -> None:
        engines.docker("kill", vnf_id)

    def remove_image(self, image: str) -> None:
        engines.docker("rmi", "-f", image, check=False)


SUBJECTS: dict[str, Subject] = {subject.name: subject for subject in (DockerSubject(),)}
