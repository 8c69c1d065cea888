"""What the suite must know of each driver beside its interface: how to look at its engine from outside."""

from __future__ import annotations

import io
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import ClassVar, NamedTuple

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

#: what follows the number in each line of a console that takes more than 2 MiB in all
CHATTER = " is a line of a console that is written to a lot" * 5

#: The guests of these tests: what each image runs as its first program, and its labels.
PROGRAMS: dict[str, tuple[str, dict[str, str]]] = {
    "idle": ("trap 'exit 0' TERM; echo started; while :; do sleep 60 & wait $!; done", {}),
    "stubborn": ("trap '' TERM; while :; do sleep 60; done", {}),
    "failing": ("echo 'no such luck' >&2; exit 3", {}),
    "ending": ("while ! test -e /end; do sleep 0.05; done; exit 4", {}),
    "eater": ("while ! test -e /eat; do sleep 0.05; done; x=eat; while :; do x=$x$x; done", {}),
    "chatty": (f"seq -w 12000 | sed 's/$/{CHATTER}/'; sleep 600", {}),
    "slow": (
        "sleep 0.3; touch /serving; echo 'nfio: ready'; trap 'exit 0' TERM; sleep 600 & wait $!",
        {"io.nfio.init": "1"},
    ),
    "rejecting": ("echo 'nfio: rejected'; echo 'line 7: what is this?'; exit 78", {"io.nfio.init": "1"}),
}


class Hung(NamedTuple):
    """An engine that is stopped.

    Attributes:
        driver: waits for two seconds.
        call: asks the engine something; succeeds when it answers.
        go_on: lets the engine go on.
    """

    driver: HypervisorBase
    call: Callable[[], object]
    go_on: Callable[[], None]


class Subject(ABC):
    """One driver and its engine, as they are without nfio."""

    name: str
    #: the engine's word for a guest that has ended
    ended: str
    #: its guests are containers: this host's kernel sees their processes and holds their limits
    shares_kernel = True
    #: the least memory that a guest can run with, roughly
    little_memory = 16 << 20
    #: how many guests this machine starts at once within a test's time
    at_once = 8
    #: fixtures that skip, or fail where it is required, if this machine cannot run it
    fixtures: tuple[str, ...]
    #: an environment in which nobody answers where the driver expects its engine
    nowhere: ClassVar[dict[str, str]]

    def begin(self, directory: Path) -> None:  # noqa: B027  # most have nothing to prepare
        """Called before the first test, with a directory of the suite's own."""

    def end(self) -> None:
        """Called after the last test: fails if something is left."""
        left = self.leftovers()
        assert not left, f"left over: {left}"

    def leftovers(self) -> list[str]:
        """What of the suite is still on this machine once all its guests are gone."""
        return [name for name in self.names() if "contract" in name]

    @abstractmethod
    def hung(self, directory: Path, vnf_id: str) -> AbstractContextManager[Hung]:
        """Stop the engine; at the end of the body at the latest it goes on.

        Args:
            vnf_id: a deployed guest that does not run.
        """

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

    def driver(self, timeout_s: float | None = None) -> HypervisorBase:
        """A new object of the driver's class."""
        module, _, name = DRIVERS[self.name].partition(":")
        made: HypervisorBase = getattr(import_module(module), name)()
        if timeout_s is not None:
            made.timeout_s = timeout_s
        return made

    def image(self, program: str) -> str:
        return f"nfio-contract/{program}"

    def make_images(self, driver: HypervisorBase, directory: Path, files: dict[str, bytes]) -> None:
        """Give the engine the images of ``PROGRAMS``, through its driver."""
        tarball = directory / "root.tar"
        with tarfile.open(tarball, "w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
            for applet in _APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for program, (script, labels) in PROGRAMS.items():
            driver.import_image(self.image(program), tarball, [*SHELL, script], labels)
