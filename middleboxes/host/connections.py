"""Connections that the kernel tracks in a guest's network namespace."""

from __future__ import annotations

import re
from dataclasses import dataclass

from middleboxes.host.guest import Guest

_FIELD = re.compile(r"\b(src|dst|sport|dport|id)=(\S+)")


def connections(guest: Guest) -> str:
    """What connection tracking knows, one connection a line, as conntrack(8) prints it."""
    # A machine's own conntrack says how many there are on the same stream.
    lines = guest.tool("conntrack", "-L").splitlines(keepends=True)
    return "".join(line for line in lines if " src=" in line)


@dataclass(frozen=True)
class Way:
    """One direction of a connection: ``address:port`` of both ends; without ports their id (ICMP)."""

    source: str
    target: str


def parse(line: str) -> tuple[str, Way, Way] | None:
    """A connection's protocol, and its way there and back; None if the line is no connection."""
    there, separator, back = line.partition(" src=")[2].partition(" src=")
    if not separator:
        return None
    return line.split()[0], _way(f"src={there}"), _way(f"src={back}")


def _way(text: str) -> Way:
    found = dict(_FIELD.findall(text))

    def end(address: str, port: str) -> str:
        place = f"[{found[address]}]" if ":" in found[address] else found[address]
        number = found.get(port, found.get("id", ""))
        return f"{place}:{number}" if number else place

    return Way(end("src", "sport"), end("dst", "dport"))
