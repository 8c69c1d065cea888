"""An intrusion detection sensor: nDPI's flow risks, and nftables logging through ulogd2."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from middleboxes import Directory, Guest, Knob, LiveFile, Middlebox, Recipe, Settings, Stream
from middleboxes.inside import ids_recorder
from middleboxes.inside.own_user import as_user

UID = 203
PLACE = str(ids_recorder.PLACE)
RULESET = "nfio-ids.nft"
RECORDER = "nfio-ids.py"
_PLUGINS = "/usr/lib/x86_64-linux-gnu/ulogd"

ULOGD = f"""\
[global]
logfile="stdout"
loglevel=7
plugin="{_PLUGINS}/ulogd_inppkt_NFLOG.so"
plugin="{_PLUGINS}/ulogd_raw2packet_BASE.so"
plugin="{_PLUGINS}/ulogd_filter_IFINDEX.so"
plugin="{_PLUGINS}/ulogd_filter_IP2STR.so"
plugin="{_PLUGINS}/ulogd_output_JSON.so"
stack=log:NFLOG,base:BASE,ifi:IFINDEX,ip:IP2STR,json:JSON
[log]
group={ids_recorder.LOG_GROUP}
netlink_qtimeout=10
[json]
file="{ids_recorder.LOGGED}"
sync=1
"""

MESSAGE_BYTES = 100  # nft 1.0.6 overruns its stack with a prefix of more than 127
_RULE = re.compile(r'"([^"\\$]{1,100})"\s+([^;#]+)')
# Statements of nft's that change packets, or whether they are tracked: a sensor looks on.
_CHANGES = re.compile(r"(?<![@\w])(set|notrack|tproxy)\b")


def parse_rule(line: str) -> tuple[str, str]:
    """``"telnet" tcp dport 23``: the message, and the match as nft(8) reads it.

    Raises:
        ValueError: it is no rule.
    """
    found = _RULE.fullmatch(line)
    if found is None or not found[1].isprintable() or len(found[1].encode()) > MESSAGE_BYTES:
        raise ValueError(
            f'{line!r}: a rule is "message" (1 to {MESSAGE_BYTES} bytes, without \\ and $) and a match of nft\'s,'
            " without ; and #"
        )
    if changes := _CHANGES.search(re.sub(r'"[^"]*"', '""', found[2])):
        raise ValueError(f"{line!r}: {changes[1]!r} changes packets: a rule is a match")
    return found[1], found[2].strip()


def check_rules(text: str) -> None:
    """Raises ValueError if a line is no rule. Whether nft knows the match, nft says."""
    for line in Settings({"rules": text}).lines("rules"):
        parse_rule(line)


def render(settings: Settings) -> Mapping[str, str]:
    """The ruleset, which takes the place of the old one in one transaction; ulogd's configuration; the recorder."""
    rules = []
    for line in settings.lines("rules"):
        message, match = parse_rule(line)
        # The limit bounds what a flood costs; the recorder raises the same only once a minute.
        log = f'log prefix "rule:{message}" group {ids_recorder.LOG_GROUP} snaplen 128'
        rules.append(f"\t\t{match} limit rate 100/second burst 200 packets {log}\n")
    return {
        RULESET: f"""\
flush ruleset
include "/etc/nfio/nf_conf"

table inet nfio {{
\tchain rules {{
\t\ttype filter hook prerouting priority mangle; policy accept;
{"".join(rules)}\t}}
\tchain redirects {{
\t\t# A client that is shown a shorter way would pass the sensor by.
\t\ttype filter hook output priority filter; policy accept;
\t\ticmp type redirect drop
\t\ticmpv6 type nd-redirect drop
\t}}
}}
""",
        "nfio-ulogd.conf": ULOGD,
        RECORDER: Path(ids_recorder.__file__).read_text(),
    }


def recorded(word: str) -> Callable[[Guest], str]:
    """A reader of what the recorder answers."""

    def read(guest: Guest) -> str:
        return guest.exchange(str(ids_recorder.SOCKET), f"{word}\n".encode()).decode(errors="replace")

    return read


MIDDLEBOX = Middlebox(
    type="ids",
    summary="intrusion detection sensor (nDPI, nftables and ulogd2)",
    recipe=Recipe(
        packages=(
            "nftables",
            "libndpi-bin",
            "ulogd2",
            "ulogd2-json",
            "python3-minimal",
            "libpython3.11-stdlib",
            "libcap2-bin",
        ),
        # Of what ulogd2 brings to be configured on a system of its own, nothing is run.
        setup=(
            "rm -rf /usr/bin/perl* /usr/share/perl* /usr/lib/*/perl* /usr/lib/*/gconv",
            f"echo 'ids:x:{UID}:{UID}:IDS:{PLACE}:/bin/false' >> /etc/passwd",
            # root empties it before each start, without the capability to write where it may not.
            f"mkdir -m 770 {PLACE} && chown {UID}:root {PLACE}",
        ),
    ),
    check=("nft", "-c", "-f", f"/etc/nfio/{RULESET}"),
    # What an earlier run left behind would pass for readiness.
    apply=("sh", "-c", f"rm -f {PLACE}/* && exec nft -f /etc/nfio/{RULESET}"),
    # Who listens to log groups only root and its group may read.
    run=as_user(
        UID,
        f"exec python3 -I /etc/nfio/{RECORDER}",
        capabilities=("NET_ADMIN", "NET_RAW"),
        groups=(0,),
    ),
    ready=f"test -S {ids_recorder.SOCKET}",
    reload=("nft", "-f", f"/etc/nfio/{RULESET}"),
    # SETUID and SETGID bring it to its user, and are gone there.
    capabilities=("NET_ADMIN", "NET_RAW", "SETUID", "SETGID"),
    sysctls={"net.ipv4.ip_forward": "1"},
    default_config=f"""\
# Rules of this sensor, as nft(8) reads them. A packet that is logged with
# `log prefix "KIND:MESSAGE" group {ids_recorder.LOG_GROUP}` raises an alert. `echo reload > action` applies them at once.
# Here: a source that addresses more than 20 ports in a minute, those of the last minute aside.
table inet scans {{
\tset ports4 {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags dynamic; timeout 1m; size 65535; }}
\tset ports6 {{ type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags dynamic; timeout 1m; size 65535; }}
\tset sources4 {{ type ipv4_addr; flags dynamic; timeout 2m; size 65535; }}
\tset sources6 {{ type ipv6_addr; flags dynamic; timeout 2m; size 65535; }}
\tchain prerouting {{
\t\ttype filter hook prerouting priority raw; policy accept;
\t\ttcp flags & (fin | syn | rst | ack) == syn jump probe
\t\tudp dport < 1024 jump probe
\t\ttcp flags & (fin | syn | rst | psh | ack | urg) == {{ 0x0, fin, fin | psh | urg }} limit rate 100/second log prefix "scan:TCP flags" group {ids_recorder.LOG_GROUP} snaplen 128
\t}}
\tchain probe {{
\t\tip saddr . ip daddr . meta l4proto . th dport @ports4 return
\t\tip6 saddr . ip6 daddr . meta l4proto . th dport @ports6 return
\t\tadd @ports4 {{ ip saddr . ip daddr . meta l4proto . th dport }}
\t\tadd @ports6 {{ ip6 saddr . ip6 daddr . meta l4proto . th dport }}
\t\tadd @sources4 {{ ip saddr limit rate over 20/minute burst 20 packets }} jump raise
\t\tadd @sources6 {{ ip6 saddr limit rate over 20/minute burst 20 packets }} jump raise
\t}}
\tchain raise {{
\t\tlimit rate 100/second burst 200 packets log prefix "scan:ports" group {ids_recorder.LOG_GROUP} snaplen 128
\t}}
}}
""",
    render=render,
    files={
        "alerts": LiveFile(recorded("alerts"), "the last 2,000 alerts, JSON lines"),
        "flows": LiveFile(recorded("flows"), "the last 4,096 flows, JSON lines"),
        "protocols": LiveFile(recorded("protocols"), "flows, packets and bytes by protocol, JSON lines"),
        "rules": Knob(
            'lines `"message" match`: a packet that matches raises an alert', check_rules, lines=True
        ),
        "pipes": Directory(
            "what blocks", {"alerts": Stream("alerts from its opening on", str(ids_recorder.ALERTS))}
        ),
    },
)
