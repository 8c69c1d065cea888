"""A line of the table, and the places that lines share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from places import Mounted, Peer, Reads

COUNTER = "stats/rx_bytes"
GUEST_COUNTER = "/sys/class/net/eth0/statistics/rx_bytes"


@dataclass
class Row:
    """One line of the table.

    Attributes:
        ours, peer: medians, in ``unit``; peer is the bar itself where the bar is absolute.
        ratio: ours to peer, or peer to ours where more is better.
        ok: whether the bar was reached; None where there is none.
    """

    name: str
    what: str
    ours: float
    peer: float
    unit: str
    ratio: float
    bar: str = ""
    ok: bool | None = None
    detail: str = ""
    absolute: bool = False

    @property
    def ours_text(self) -> str:
        return f"{self.ours:.4g} {self.unit}"

    @property
    def peer_text(self) -> str:
        return "" if self.absolute else f"{self.peer:.4g} {self.unit}"

    @property
    def ratio_text(self) -> str:
        return "" if self.absolute else f"{self.ratio:.2f}" if self.ratio < 100 else f"{self.ratio:.0f}"


def at_most(name: str, what: str, ours: float, peer: float, unit: str, bar: float, detail: str = "") -> Row:
    ratio = ours / peer
    return Row(name, what, ours, peer, unit, ratio, f"≤ {bar:g}", ratio <= bar, detail)


def limit(name: str, what: str, value: float, unit: str, bar: float, detail: str = "") -> Row:
    return Row(name, what, value, bar, unit, value / bar, f"≤ {bar:g} {unit}", value <= bar, detail, True)


class Bench:
    """The places that rows share, made when a row first asks for them."""

    def __init__(self, directory: Path, stack: ExitStack, *, quick: bool, say: Callable[[str], None]) -> None:
        self.directory = directory
        self._stack = stack
        self.quick = quick
        self.say = say

    def times(self, many: int, few: int) -> int:
        return few if self.quick else many

    @cached_property
    def peer(self) -> Peer:
        self.say("building the C peer")
        return Peer(self.directory / "peer", self._stack)

    @cached_property
    def small(self) -> Mounted:
        """10 instances, one running."""
        self.say("mounting nfio with 10 instances")
        made = Mounted(self.directory / "small", self._stack)
        made.define(10)
        made.start(1)
        return made

    @cached_property
    def large(self) -> Mounted:
        """1,000 instances, one running."""
        self.say("mounting nfio with 1,000 instances")
        made = Mounted(self.directory / "large", self._stack)
        made.define(1000)
        made.start(1)
        return made

    @cached_property
    def native(self) -> Mounted:
        """Native, with nothing defined."""
        self.say("mounting nfio on Native")
        return Mounted(self.directory / "native", self._stack, "Native")

    @cached_property
    def libvirt(self) -> Mounted:
        """Libvirt, with nothing defined."""
        self.say("mounting nfio on Libvirt")
        return Mounted(self.directory / "libvirt", self._stack, "Libvirt")

    def firewall_config(self) -> Path:
        """The files that a firewall sees in its configuration directory."""
        instance = self.native.make("firewall", "config")
        uuid = (instance / "uuid").read_text().strip()
        (instance / "action").write_text("deploy\n")
        return self.native.root / ".nfio" / "guests" / uuid

    def alternate(self, *paths: Path, cpu: int | None = None) -> list[Reads]:
        """Read several files in turn, many rounds."""
        reads = [Reads() for _ in paths]
        for _ in range(self.times(40, 8)):
            for path, sum_of in zip(paths, reads, strict=True):
                sum_of.add(self.peer.read(path, 500, cpu))
        return reads
