"""An engine as it is without nfio: what tests look at, and what they do behind nfio's back."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hypervisor.hypervisor_base import HypervisorBase, VnfSpec
from hypervisor.hypervisor_factory import make_driver


@dataclass(frozen=True)
class Seen:
    """What an engine says of a guest. ``word``: what it does; ``exit_code``: of its last run."""

    guest: str
    uuid: str
    label: str
    name: str
    word: str
    exit_code: int


class EngineView(ABC):
    """One engine on this machine.

    Attributes:
        name: the hypervisor type.
        created, running, paused, ended: its words for what a guest does.
        whole_suite: every end-to-end test runs on it, not the main line alone.
        restarts: it starts a guest again by itself, with its own command.
        other_hosts: it runs guests on other machines too.
        no_image: what it says of an image that it does not have.
        little_memory: what it says of a limit that is too low.
        name_taken: what it says of a name that another guest has.
        killed: what ``error`` says of a guest that was killed.
    """

    name: ClassVar[str]
    created: ClassVar[str]
    running: ClassVar[str] = "running"
    paused: ClassVar[str] = "paused"
    ended: ClassVar[str]
    whole_suite: ClassVar[bool] = True
    restarts: ClassVar[bool] = False
    other_hosts: ClassVar[bool] = False
    no_image: ClassVar[str]
    little_memory: ClassVar[str]
    name_taken: ClassVar[str]
    killed: ClassVar[str] = "signal 9"

    @property
    def probe(self) -> str:
        """What NFIO_REQUIRE calls it, and ``nfio image build --for``."""
        return self.name.lower()

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that lead nfio to it."""
        return {}

    def missing(self) -> str:
        """Why it cannot be had on this machine; empty if it can."""
        return ""

    def begin(self, directory: Path) -> None:  # noqa: B027  # most have nothing to prepare
        """Called before the first test, with a directory of the suite's own."""

    def stock(self) -> None:  # noqa: B027  # most use the images as they were built
        """Called once the images of all types are built."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """What of the tests is still on this machine once they have removed their guests."""

    # -- looking ----------------------------------------------------------------------------

    @abstractmethod
    def seen(self, root_id: str) -> list[Seen]:
        """Every guest of a root."""

    def guests(self, root_id: str) -> list[str]:
        """Ids of all guests of a root."""
        return [seen.guest for seen in self.seen(root_id)]

    @abstractmethod
    def exists(self, guest: str) -> bool:
        """Whether it has a guest of that id."""

    @abstractmethod
    def pid(self, guest: str) -> int:
        """First process of a guest that runs."""

    @abstractmethod
    def memory_limit(self, guest: str) -> int:
        """Bytes of memory that a guest may have; a very large number if there is no limit."""

    @abstractmethod
    def is_privileged(self, guest: str) -> bool:
        """Whether a guest has the host's own rights."""

    @abstractmethod
    def run(self, guest: str, *command: str) -> str:
        """Output of a program in a guest."""

    def counters(self, guest: str) -> dict[str, int]:
        """The guest's own view of its interface: its /proc/net/dev."""
        text = self.run(guest, "cat", "/proc/net/dev")
        columns = next(line.split(":")[1].split() for line in text.splitlines() if "eth0:" in line)
        names = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets")
        return dict(zip(names, (int(columns[i]) for i in (0, 1, 8, 9)), strict=True))

    # -- doing, behind nfio's back ----------------------------------------------------------

    @abstractmethod
    def kill(self, guest: str) -> None:
        """End its first process with SIGKILL."""

    @abstractmethod
    def stop(self, guest: str) -> None:
        """Ask its first process to end, and wait until it has."""

    @abstractmethod
    def pause(self, guest: str) -> None:
        """Freeze it."""

    @abstractmethod
    def unpause(self, guest: str) -> None:
        """Let it go on."""

    @abstractmethod
    def remove(self, *guests: str) -> None:
        """Remove guests, whatever they do."""

    def clear(self, *guests: str) -> None:
        """Remove guests and all that belongs to them, once a test is over."""
        if guests:
            self.remove(*guests)

    def restart(self, guest: str) -> None:
        """Start a guest again by the engine's own command, if it ``restarts``."""
        raise AssertionError(f"{self.name} starts no guest again by itself: {guest}")

    @abstractmethod
    def make_stranger(self, name: str) -> str:
        """Make a guest of that name that is not nfio's; its id."""

    def remove_all(self, root_id: str) -> None:
        """Remove every guest of a root, once a test is over."""
        self.clear(*self.guests(root_id))


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables of this process for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def driver_of(view: EngineView) -> Iterator[HypervisorBase]:
    """nfio's driver for an engine, where its own command would be a driver again."""
    with environment(view.variables):
        yield make_driver(view.name)


def make_by_driver(view: EngineView, name: str) -> str:
    """Make a guest ``<user>-<vnf name>`` of no root and no uuid: a stranger to every mount."""
    user, _, vnf_name = name.partition("-")
    with driver_of(view) as driver:
        guest, _, words = driver.deploy("", user, "nfio/firewall", vnf_name, spec=VnfSpec())
    assert guest is not None, words
    return guest


def output_of(*command: str, check: bool = True, timeout: float = 60) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def host_leftovers(*marks: str) -> list[str]:
    """Mounts, links, packet filter rules and processes of this machine that hold one of some words."""
    found = Path("/proc/self/mountinfo").read_text().splitlines()
    found += os.listdir("/sys/class/net")
    found += output_of("nft", "list", "ruleset").splitlines()
    found += output_of("iptables-save", check=False).splitlines()
    found += output_of("ps", "-eo", "args").splitlines()
    return [line for line in found if any(mark in line for mark in marks)]
