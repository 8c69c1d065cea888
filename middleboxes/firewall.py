"""A packet filter: nftables in the VNF's network namespace."""

from __future__ import annotations

from collections.abc import Mapping

from middleboxes import Guest, LiveFile, Middlebox, Recipe, Settings

TABLE = "nfio"
RULESET = "nfio-ruleset.nft"

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
    return "\n".join([*lines, "}", ""])


def render(settings: Settings) -> Mapping[str, str]:
    """The file that replaces all rules by those of nf_conf in one transaction."""
    return {RULESET: f'flush ruleset\ninclude "/etc/nfio/nf_conf"\n{counting_table(settings.drops)}'}


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


MIDDLEBOX = Middlebox(
    type="firewall",
    summary="packet filter (nftables)",
    recipe=Recipe(packages=("nftables",)),
    check=("nft", "-c", "-f", f"/etc/nfio/{RULESET}"),
    apply=("nft", "-f", f"/etc/nfio/{RULESET}"),
    reload=("nft", "-f", f"/etc/nfio/{RULESET}"),
    capabilities=("NET_ADMIN",),
    sysctls={"net.ipv4.ip_forward": "1"},
    default_config="""\
# Rules of this firewall, as nft(8) reads them. `echo reload > action` applies them at once.
table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy accept;
\t}
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t}
}
""",
    render=render,
    files={"rules": LiveFile(rules, "the ruleset as the kernel has it, with its counters (nft list ruleset)")},
    drops=drops,
)
