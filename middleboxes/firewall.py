"""A packet filter: nftables in the VNF's network namespace."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

from middleboxes import Directory, Guest, Knob, LiveFile, Middlebox, Order, Recipe, Settings
from middleboxes.host.connections import connections
from middleboxes.host.nft_listing import zeroing
from nfio.errors import Busy, ConfigurationRejected, HypervisorError, HypervisorTimeout, NetworkDown

TABLE = "nfio"
RULESET = "nfio-ruleset.nft"

# A policy that no chain takes would protect nothing, and nobody would be told: a ruleset that nft
# takes without knowing the policy does not ask for it.
APPLY = f"""\
if ! grep -q 'define POLICY = "accept"' /etc/nfio/{RULESET} &&
    sed 's/define POLICY = "[a-z]*"//' /etc/nfio/{RULESET} | nft -c -f - 2> /dev/null; then
    echo 'policy is not accept, and no chain of nf_conf takes it: write policy $POLICY; in those that shall'
    exit 1
fi
exec nft -f /etc/nfio/{RULESET}
"""

# Every packet that enters a hook is counted before the first chain of the user's and after the
# last: the difference was dropped between them, by whatever rule, policy, set or verdict map.
# Prerouting and output begin behind the kernel's defragmentation (-400), which makes one packet
# of several; conntrack's confirmation sits at the very end (2147483647).
_HOOKS = {
    "prerouting": -399,
    "input": -2147483647,
    "forward": -2147483647,
    "output": -399,
    "postrouting": -2147483647,
}
_LAST = 2147483646


def counting_table(drops: int) -> str:
    """The table that counts what goes in and what comes out, going on from ``drops``."""
    lines = [f"table inet {TABLE} {{", f"  counter carried {{ packets {drops} bytes 0 }}"]
    lines += ["  counter entered { }", "  counter left { }"]
    for hook, first in _HOOKS.items():
        for counter, priority in (("entered", first), ("left", _LAST)):
            lines.append(
                f"  chain {hook}_{counter} {{ type filter hook {hook} priority {priority}; "
                f'policy accept; counter name "{counter}"; }}'
            )
    # On one link the kernel would tell clients that there is a shorter way: past the firewall.
    redirects = "icmp type redirect drop; icmpv6 type nd-redirect drop"
    lines.append(f"  chain no_redirects {{ type filter hook output priority -400; {redirects}; }}")
    return "\n".join([*lines, "}", ""])


def check_policy(text: str) -> None:
    """Raises ValueError if it is no policy."""
    if text not in ("accept", "drop"):
        raise ValueError("write accept or drop")


def check_set(name: str) -> None:
    """Raises ValueError if no set can have that name."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name.endswith("-v6"):
        raise ValueError(
            f"{name!r} is no name of a set: a letter, then letters, digits, _ and -, and no -v6 at its end"
        )


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(name: str) -> Network:
    """What an element's name means: ``10.0.0.5``, ``10.0.0.0_24``, ``2001:db8::_32``.

    Raises:
        ValueError: no address, and no prefix.
    """
    try:
        if not re.fullmatch(r"[0-9A-Fa-f.:]+(_[0-9]{1,3})?", name):
            raise ValueError("other characters")
        return ipaddress.ip_network(name.replace("_", "/"))
    except ValueError as error:
        raise ValueError(f"{name!r} is no address or prefix (10.0.0.5, 10.0.0.0_24): {error}") from None


def declared(settings: Settings, name: str) -> Iterator[tuple[str, str, list[str]]]:
    """The two nft sets that a set is: name, type, and elements without those that others contain."""
    networks = [network(entry) for entry in settings.names(f"sets/{name}")]
    four = [each for each in networks if isinstance(each, ipaddress.IPv4Network)]
    six = [each for each in networks if isinstance(each, ipaddress.IPv6Network)]
    yield name, "ipv4_addr", [str(each) for each in ipaddress.collapse_addresses(four)]
    yield f"{name}-v6", "ipv6_addr", [str(each) for each in ipaddress.collapse_addresses(six)]


def commands(settings: Settings, name: str) -> Iterator[str]:
    """nft commands that make a set what it is declared to be, whether it is there or not."""
    yield "add table inet filter;"
    for own, kind, elements in declared(settings, name):
        yield f"add set inet filter {own} {{ type {kind}; flags interval; }};"
        yield f"flush set inet filter {own};"
        if elements:
            yield f"add element inet filter {own} {{"
            yield from (f"{element}," for element in elements)
            yield "};"


def put_set(guest: Guest, settings: Settings, name: str, _element: str = "") -> None:
    """Bring a set of the running VNF up to date; its rules and their counters stay.

    Raises:
        Busy (EBUSY): rules refer to a set that shall go.
        ConfigurationRejected (EINVAL): nft refused it.
    """
    stays = name in settings.names("sets")
    gone = (f"delete set inet filter {own};" for own, _, _ in declared(settings, name))
    try:
        guest.tool("nft", *(commands(settings, name) if stays else gone))
    except (HypervisorTimeout, NetworkDown):
        raise
    except HypervisorError as error:
        if stays:
            raise ConfigurationRejected(f"set {name}: {error}") from error
        raise Busy(f"set {name}: rules refer to it: {error}") from error


def render(settings: Settings) -> Mapping[str, str]:
    """The file that replaces all rules by those of nf_conf in one transaction."""
    lines = [f'flush ruleset; define POLICY = "{settings["policy"]}"']
    for name in settings.names("sets"):
        lines.append(" ".join(commands(settings, name)))
    # nft takes the newline behind an include for its own: a second one ends what nf_conf does not.
    lines += ['include "/etc/nfio/nf_conf"', "", counting_table(settings.drops)]
    return {RULESET: "\n".join(lines)}


def count_drops(counters: Mapping[str, int]) -> int:
    """Packets that went into a hook and did not come out of it."""
    return counters.get("carried", 0) + max(0, counters.get("entered", 0) - counters.get("left", 0))


def drops(guest: Guest) -> int:
    """Packets the rules dropped since the VNF was started; never less than it said before.

    A packet that is on its way while the counters are read has gone in and not yet come out. So
    more than was known is believed only when a second look says it too.
    """
    known = guest.memory.get("drops", 0)
    now = count_drops(guest.packet_counters(TABLE))
    if now > known:
        now = min(now, count_drops(guest.packet_counters(TABLE)))
    with guest.lock:
        guest.memory["drops"] = max(now, guest.memory.get("drops", 0))
        return guest.memory["drops"]


def without_own_table(ruleset: str) -> str:
    """The listing of ``nft list ruleset`` less nfio's counting table."""
    kept, skipping = [], False
    for line in ruleset.splitlines(keepends=True):
        if line.startswith(f"table inet {TABLE} {{"):
            skipping = True
        if not skipping:
            kept.append(line)
        if line.startswith("}"):
            skipping = False
    return "".join(kept)


def rules(guest: Guest) -> str:
    """The ruleset as the kernel has it, without what nfio adds."""
    return without_own_table(guest.tool("nft", "list", "ruleset"))


def zero_counters(guest: Guest, order: str) -> None:
    """Put the counters of all rules to zero, in one transaction. Raises ValueError: no such order."""
    if order != "1":
        raise ValueError("1 zeroes the counters of all rules")
    made = zeroing(without_own_table(guest.tool("nft", "-a", "list", "ruleset")))
    if made:
        guest.tool("nft", *made)


MIDDLEBOX = Middlebox(
    type="firewall",
    summary="packet filter (nftables)",
    recipe=Recipe(packages=("nftables", "conntrack")),
    check=("nft", "-c", "-f", f"/etc/nfio/{RULESET}"),
    apply=("sh", "-c", APPLY),
    reload=("sh", "-c", APPLY),
    capabilities=("NET_ADMIN",),
    sysctls={"net.ipv4.ip_forward": "1"},
    default_config="""\
# Rules of this firewall, as nft(8) reads them. `echo reload > action` applies them at once.
# $POLICY is what the file policy says. The addresses of sets/NAME are @NAME, and @NAME-v6.
table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy $POLICY;
\t\tct state established,related accept
\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
\t}
\tchain forward {
\t\ttype filter hook forward priority filter; policy $POLICY;
\t\tct state established,related accept
\t}
}
""",
    render=render,
    files={
        "policy": Knob(
            "what becomes of packets that no rule decides on: accept or drop", check_policy, "accept"
        ),
        "sets": Directory(
            "sets of addresses, for the rules",
            entries=Directory(
                "a set: a file for each address (10.0.0.5) or prefix (10.0.0.0_24)",
                entries=Knob("an element; what is written to it is a note", apply=put_set),
                check=network,
                apply=put_set,
            ),
            check=check_set,
        ),
        "zero_counters": Order("1 puts the counters of all rules to zero", zero_counters),
        "rules": LiveFile(rules, "the ruleset as the kernel has it, with its counters (nft list ruleset)"),
        "connections": LiveFile(connections, "tracked connections, one a line (conntrack -L)"),
    },
    drops=drops,
)
