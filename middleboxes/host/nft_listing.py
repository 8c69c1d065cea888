"""What nft(8) lists, made into commands for nft(8)."""

from __future__ import annotations

import re

_TABLE = re.compile(r"table (\S+ \S+) \{")
_CHAIN = re.compile(r"\tchain (\S+) \{")
_RULE = re.compile(r"\t\t(.*\bcounter packets .*) # handle (\d+)")
_COUNTED = re.compile(r"\bcounter packets \d+ bytes \d+")


def zeroing(listing: str) -> list[str]:
    """nft commands that put every counter of a ``nft -a list ruleset`` to zero.

    nft 1.0.6 cannot reset the counters in rules: each rule with one is replaced by itself.
    """
    made, table, chain = [], "", ""
    for line in listing.splitlines():
        if found := _TABLE.match(line):
            table = found[1]
            made.append(f"reset counters table {table};")
        elif found := _CHAIN.match(line):
            chain = found[1]
        elif found := _RULE.fullmatch(line):
            rule = _COUNTED.sub("counter packets 0 bytes 0", found[1])
            made.append(f"replace rule {table} {chain} handle {found[2]} {rule};")
    return made
