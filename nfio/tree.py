"""What every instance directory holds, whatever its type."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """How a file answers."""

    CONTROL = auto()  # each write is an order; never stored
    VALUE = auto()  # stored; its content is checked when it is written
    TEXT = auto()  # stored as it is
    LIVE = auto()  # asked for when it is opened


@dataclass(frozen=True)
class FileSpec:
    """One file of an instance.

    Attributes:
        kind: how it answers.
        mode: its permissions until somebody changes them.
        summary: one line for the reference.
    """

    kind: Kind
    mode: int
    summary: str

    @property
    def live(self) -> bool:
        """Whether its content is made up when it is opened, so that its size is not known."""
        return self.kind in (Kind.LIVE, Kind.CONTROL)


#: What getattr says of a file whose size is not known before it is read.
LIVE_SIZE = 1000

COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "pkt_drops")

DIRECTORIES = ("config", "machine", "stats")

FILES: dict[str, FileSpec] = {
    "action": FileSpec(Kind.CONTROL, 0o644, "write a word to make a move; reads the last word that was carried out"),
    "status": FileSpec(Kind.LIVE, 0o444, "the hypervisor's own word for what the VNF does; `undeployed` before deploy"),
    "state": FileSpec(Kind.CONTROL, 0o644, "the state it is in; write the state it shall be in"),
    "error": FileSpec(Kind.LIVE, 0o444, "why the last operation failed, in one line; empty if it did not"),
    "uuid": FileSpec(Kind.LIVE, 0o444, "the entity's uuid"),
    "command": FileSpec(Kind.CONTROL, 0o600, "write a command, read its output (stdout and stderr)"),
    "log": FileSpec(Kind.LIVE, 0o444, "the last 1 MiB of the VNF's console output"),
    "config/boot.conf": FileSpec(Kind.VALUE, 0o644, "how to boot it: lines of key=value (autostart=yes|no, restart=on-failure|no)"),
    "config/nf_conf": FileSpec(Kind.TEXT, 0o644, "the function's own configuration"),
    "machine/ip": FileSpec(Kind.VALUE, 0o644, "host that runs it; empty or localhost is this one"),
    "machine/vm.image": FileSpec(Kind.VALUE, 0o644, "image name; the type's own on mkdir"),
    "machine/vm.vcpu": FileSpec(Kind.VALUE, 0o644, "CPUs, a positive number; empty is no limit"),
    "machine/vm.memory": FileSpec(Kind.VALUE, 0o644, "memory: 64M, 1G, bytes; empty is no limit"),
    "machine/vm.ip": FileSpec(Kind.LIVE, 0o444, "the VNF's own IP address"),
    "stats/rx_bytes": FileSpec(Kind.LIVE, 0o444, "bytes the VNF received"),
    "stats/tx_bytes": FileSpec(Kind.LIVE, 0o444, "bytes the VNF sent"),
    "stats/rx_packets": FileSpec(Kind.LIVE, 0o444, "packets the VNF received"),
    "stats/tx_packets": FileSpec(Kind.LIVE, 0o444, "packets the VNF sent"),
    "stats/pkt_drops": FileSpec(
        Kind.LIVE, 0o444, "packets dropped at both ends of its links, and by the function on purpose"
    ),
    "stats/cpu_seconds": FileSpec(Kind.LIVE, 0o444, "whole seconds of CPU time since it was started"),
    "stats/memory_bytes": FileSpec(Kind.LIVE, 0o444, "bytes of memory it uses now"),
}  # fmt: skip

#: Directories of an instance in which temporary files may be made: those with writable files.
WRITABLE = ("", "config", "machine")
