"""Network address translation: masquerading and port forwards by nftables."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from middleboxes import Guest, Knob, LiveFile, Middlebox, Recipe, Settings
from middleboxes.host.connections import connections, parse

RULESET = "nfio-ruleset.nft"


def forward(line: str) -> tuple[str, int, str, int]:
    """``tcp 8080 10.0.0.5 80``: protocol and port of the VNF, address and port of the server.

    Raises:
        ValueError: it is no forward.
    """
    words = line.split()
    if len(words) != 4:
        raise ValueError(f"{line!r}: a forward is `proto port address port`, as in `tcp 8080 10.0.0.5 80`")
    protocol, port, server, server_port = words
    if protocol not in ("tcp", "udp"):
        raise ValueError(f"{line!r}: the protocol is tcp or udp")
    for number in (port, server_port):
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
            raise ValueError(f"{line!r}: {number!r} is no port: 1 to 65535")
    try:
        address = ipaddress.IPv4Address(server)
    except ValueError:
        raise ValueError(f"{line!r}: {server!r} is no IPv4 address") from None
    if address.is_unspecified or address.is_loopback or address.is_multicast or int(address) == 0xFFFFFFFF:
        raise ValueError(f"{line!r}: nothing can be forwarded to {server}")
    return protocol, int(port), server, int(server_port)


def check_forwards(text: str) -> None:
    """Raises ValueError if a line is no forward, or two are for the same port."""
    taken: set[tuple[str, int]] = set()
    for line in Settings({"forwards": text}).lines("forwards"):
        place = forward(line)[:2]
        if place in taken:
            raise ValueError(f"{line!r}: {place[0]} {place[1]} is forwarded already")
        taken.add(place)


def check_masquerade(text: str) -> None:
    """Raises ValueError if it is neither on nor off."""
    if text not in ("on", "off"):
        raise ValueError("write on or off")


def render(settings: Settings) -> Mapping[str, str]:
    """The file that replaces all rules by those of nf_conf and the translations, in one transaction."""
    # nft takes the newline behind an include for its own: a second one ends what nf_conf does not.
    lines = ["flush ruleset", 'include "/etc/nfio/nf_conf"', "", "table ip nfio {"]
    lines += ["\tchain prerouting {", "\t\ttype nat hook prerouting priority dstnat; policy accept;"]
    for line in settings.lines("forwards"):
        protocol, port, server, server_port = forward(line)
        # What only passes through to somebody else's port is not the VNF's to forward.
        lines.append(f"\t\tfib daddr type local {protocol} dport {port} dnat to {server}:{server_port}")
    lines += ["\t}", "\tchain postrouting {"]
    lines += ["\t\ttype nat hook postrouting priority srcnat; policy accept;"]
    if settings["masquerade"] == "on":
        lines.append('\t\toifname != "lo" masquerade')
    # On one link the kernel would tell clients that there is a shorter way: past the VNF.
    lines += ["\t}", "\tchain no_redirects {", "\t\ttype filter hook output priority raw; policy accept;"]
    lines += ["\t\ticmp type redirect drop"]
    return {RULESET: "\n".join([*lines, "\t}", "}", ""])}


def binding(line: str) -> str | None:
    """``masquerade tcp inside outside remote`` of a line of conntrack; None if it is not translated."""
    connection = parse(line)
    if connection is None:
        return None
    protocol, there, back = connection
    if there.target != back.source:
        return f"forward {protocol} {back.source} {there.target} {there.source}\n"
    if there.source != back.target:
        return f"masquerade {protocol} {there.source} {back.target} {there.target}\n"
    return None


def bindings(guest: Guest) -> str:
    """The translations in use now, one connection a line."""
    return "".join(filter(None, map(binding, connections(guest).splitlines())))


MIDDLEBOX = Middlebox(
    type="nat",
    summary="network address translation (nftables)",
    recipe=Recipe(packages=("nftables", "conntrack")),
    check=("nft", "-c", "-f", f"/etc/nfio/{RULESET}"),
    apply=("nft", "-f", f"/etc/nfio/{RULESET}"),
    reload=("nft", "-f", f"/etc/nfio/{RULESET}"),
    capabilities=("NET_ADMIN",),
    sysctls={"net.ipv4.ip_forward": "1"},
    default_config="""\
# Further rules, as nft(8) reads them. `echo reload > action` applies them at once.
# Translation is nfio's own: see the files forwards and masquerade.
table inet filter {
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state invalid drop
	}
}
""",
    render=render,
    files={
        "forwards": Knob(
            "ports of the VNF that lead to a server: `proto port address port`, one a line",
            check_forwards,
            lines=True,
        ),
        "masquerade": Knob(
            "on: what leaves the VNF has its address; off: clients keep theirs",
            check_masquerade,
            default="on",
        ),
        "bindings": LiveFile(
            bindings,
            "translated connections, one a line: kind, protocol, inside, outside, remote (conntrack)",
        ),
        "connections": LiveFile(connections, "tracked connections, one a line (conntrack -L)"),
    },
)
