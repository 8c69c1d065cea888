"""A caching resolver: unbound, driven through its control socket (unbound-control(8))."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from middleboxes import Guest, Knob, LiveFile, Middlebox, Order, Recipe, Settings
from nfio.errors import ConfigurationRejected, HypervisorError

CONFIGURATION = "nfio-unbound.conf"
SOCKET = "/run/unbound.ctl"
# A view that no client is in. It tells which of the local data are nfio's, and which nf_conf's.
VIEW = "nfio"
TTL_S = 3600  # unbound's own, of a record that has none
RECORD_BYTES = 2000  # its control socket drops whoever sends a longer line (remote.c: 2,048 with its end)

_FILE = f"/etc/nfio/{CONFIGURATION}"
_CONTROL = f"unbound-control -q -c {_FILE}"
_NAME = re.compile(r"(?:\.|(?:[A-Za-z0-9_*/-]{1,63}\.)*[A-Za-z0-9_*/-]{1,63}\.?)")
_RECORD = re.compile(
    r"(?P<name>\S+)\s+(?:(?P<ttl>\d+)\s+)?(?:[Ii][Nn]\s+)?(?P<type>[A-Za-z][A-Za-z0-9]*)\s+(?P<value>\S.*)"
)


# Its checker takes any number for a port, and unbound listens at what is left of it in 16 bits.
CHECK = f"""\
unbound-checkconf {_FILE} || exit 1
port=$(unbound-checkconf -o port {_FILE})
[ "$port" -lt 65536 ] && exit
echo "port: $port is not a port"
exit 1
"""
_CHECK = ("sh", "-c", CHECK)

# unbound forgets the queries that wait for other servers: if there is a moment without one soon,
# that is the one. It answers the order before it reloads, and the next question when that is done.
RELOAD = f"""\
tries=0
until {_CONTROL} stats_noreset | grep -qx 'total.requestlist.current.user=0' || [ $tries -eq 20 ]; do
    tries=$((tries + 1))
done
{_CONTROL} reload_keep_cache && {_CONTROL} status
"""


# -- what is configured -----------------------------------------------------------------------


def record(line: str) -> tuple[str, str]:
    """A record's name, and all of it as unbound lists it. ValueError if it is none.

    unbound's own checker looks at the rest of it: the type, and most values.
    """
    found = _RECORD.fullmatch(line)
    if found is None or "'" in line:
        raise ValueError(f"{line!r} is not a record: name [ttl] type value")
    name = _domain(found["name"])
    kind, value = found["type"].upper(), found["value"]
    if kind in ("A", "AAAA"):
        value = str((ipaddress.IPv4Address if kind == "A" else ipaddress.IPv6Address)(value))
    whole = f"{name}\t{found['ttl'] or TTL_S}\tIN\t{kind}\t{value}"
    if len(whole.encode()) > RECORD_BYTES:
        raise ValueError(f"{line[:40]!r}… is longer than the {RECORD_BYTES} bytes that unbound takes")
    return name, whole


def _domain(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > 253:
        raise ValueError(f"{text!r} is not a domain name")
    return text.lower().rstrip(".") + "."


def forwarder(line: str) -> str:
    """An address as unbound takes it: ``192.0.2.1``, or with a port ``192.0.2.1@5353``."""
    address, at, port = line.partition("@")
    if at and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{line!r}: {port!r} is not a port")
    # What stands behind a % can be anything, and unbound would take it for configuration.
    if "%" in address:
        raise ValueError(f"{line!r}: an address without the name of an interface")
    return f"{ipaddress.ip_address(address)}{at}{port}"


def _each(check: Callable[[str], object]) -> Callable[[str], None]:
    """The check of a knob whose lines are checked one by one."""

    def check_lines(text: str) -> None:
        for line in Settings({"": text}).lines(""):
            check(line)

    return check_lines


def render(settings: Settings) -> Mapping[str, str]:
    """The file that unbound reads: the user's, and what nfio needs and makes of the knobs."""
    data = [f"    local-data: '{record(line)[1]}'" for line in settings.lines("records")]
    lines = [
        'include: "/etc/nfio/nf_conf"',
        "remote-control:",
        "    control-enable: yes",
        f'    control-interface: "{SOCKET}"',
        "    control-use-cert: no",
        "server:",
        '    chroot: ""',
        '    username: ""',
        '    pidfile: ""',
        '    logfile: ""',
        "    use-syslog: no",
        # What the checker cannot know, an address that the VNF does not have, is no reason to fail later.
        "    ip-freebind: yes",
        *data,
        "view:",
        f'    name: "{VIEW}"',
        *data,
    ]
    if forwarders := settings.lines("forwarders"):
        lines += ["forward-zone:", '    name: "."']
        lines += [f"    forward-addr: {forwarder(line)}" for line in forwarders]
    return {CONFIGURATION: "\n".join([*lines, ""])}


# -- what runs --------------------------------------------------------------------------------


def ask(guest: Guest, command: str, *lines: str) -> str:
    """unbound's answer to one command; those that take lines have them end with EOT."""
    text = "\n".join([f"UBCT1 {command}", *lines, *(["\x04"] if lines else []), ""])
    answer = guest.exchange(SOCKET, text.encode()).decode(errors="replace")
    if answer.startswith("error"):
        raise ConfigurationRejected(f"unbound: {answer.removeprefix('error').strip()}")
    return answer


def _by_name(lines: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lines:
        found.setdefault(line.partition("\t")[0], set()).add(line)
    return found


def apply_records(guest: Guest, settings: Settings) -> None:
    """Change the local data where they differ; what is in the cache, and on its way, stays."""
    checked = guest.execute(list(_CHECK))
    if checked.exit_code:
        raise ConfigurationRejected(checked.output.decode(errors="replace"))
    wanted = _by_name([record(line)[1] for line in settings.lines("records")])
    there = _by_name([line for line in ask(guest, f"view_list_local_data {VIEW}").splitlines() if line])
    removed = [name for name, data in there.items() if not data <= wanted.get(name, set())]
    added = [
        line for name, data in wanted.items() if name in removed or data != there.get(name) for line in data
    ]
    for view in ("{}", f"view_{{}} {VIEW}"):
        if removed:
            ask(guest, view.format("local_datas_remove"), *removed)
        if added:
            ask(guest, view.format("local_datas"), *added)


def apply_forwarders(guest: Guest, settings: Settings) -> None:
    """Ask others from now on; what is in the cache stays."""
    addresses = [forwarder(line) for line in settings.lines("forwarders")]
    ask(guest, " ".join(["forward_add", ".", *addresses]) if addresses else "forward_remove .")


def flush(guest: Guest, text: str) -> None:
    """Take a name, and all that are below it, out of the cache."""
    ask(guest, f"flush_zone {'.' if text == 'all' else _domain(text)}")


def parse_statistics(text: str) -> dict[str, int]:
    """Of ``stats_noreset``, the sums over all threads of what was counted.

    Raises:
        HypervisorError (EIO): it is none.
    """
    found = re.findall(r"^total\.num\.(\w+)=(\d+)$", text, re.MULTILINE)
    if not found:
        raise HypervisorError("unbound gives no statistics")
    return {name: int(value) for name, value in found}


def statistic(name: str) -> Callable[[Guest], int]:
    """A reader of one of unbound's numbers."""
    return lambda guest: parse_statistics(ask(guest, "stats_noreset"))[name]


MIDDLEBOX = Middlebox(
    type="dns",
    summary="caching DNS resolver (unbound)",
    recipe=Recipe(
        packages=("unbound",),
        setup=(
            "echo 'unbound:x:121:121::/nonexistent:/usr/sbin/nologin' >> /etc/passwd",
            "echo 'unbound:x:121:' >> /etc/group",
            "mkdir -p /run",
            "chown 121:121 /run",
        ),
    ),
    check=_CHECK,
    run=("unbound", "-d", "-p", "-c", _FILE),
    ready=f"{_CONTROL} status > /dev/null 2>&1",
    reload=("sh", "-c", RELOAD),
    user=121,
    sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
    default_config="""\
# unbound's own configuration. `echo reload > action` checks and applies it.
server:
    interface: 0.0.0.0
    access-control: 0.0.0.0/0 allow
""",
    render=render,
    files={
        "queries": LiveFile(statistic("queries"), "queries of clients (total.num.queries)"),
        "cache_hits": LiveFile(
            statistic("cachehits"), "queries answered at once, from cache or records (total.num.cachehits)"
        ),
        "cache_misses": LiveFile(
            statistic("cachemiss"), "queries for which others were asked (total.num.cachemiss)"
        ),
        "records": Knob(
            "what it answers by itself, a record a line: name [ttl] type value",
            _each(record),
            lines=True,
            apply=apply_records,
        ),
        "forwarders": Knob(
            "resolvers that it asks, an address[@port] a line; empty: the root servers and those they name",
            _each(forwarder),
            lines=True,
            apply=apply_forwarders,
        ),
        "flush": Order("takes a name, and all below it, out of the cache; `all`: everything", flush),
    },
)
