"""A traffic shaper: tc on the interface through which the traffic that it forwards leaves again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping

from middleboxes import Guest, Knob, LiveFile, Middlebox, Recipe, Settings
from nfio.errors import HypervisorError, HypervisorTimeout, NotSupported

DISCIPLINE = "nfio-shaper.tc"

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:([kmgt]?)(i?)(bit|bps))?", re.IGNORECASE | re.ASCII)
_TIME = re.compile(r"\d+(\.\d+)?(s|sec|secs|ms|msec|msecs|us|usec|usecs)", re.IGNORECASE | re.ASCII)
_LOSS = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)
_PREFIXES = ("", "k", "m", "g", "t")
_FRAME_BYTES = 1514
_LIMIT_BYTES = (1 << 32) - 1  # tc's own
PROBE_TIMEOUT_S = 5.0

# BusyBox's shell prefers its own ip and tc to programs of those names: paths say which are meant.
# tc has no dry run: what an interface takes that is there for this alone, eth0 takes too. Which line
# was wrong it says last, below its usage. One that was cut short has left that interface behind.
CHECK = f"""\
cd /tmp
/bin/ip link delete nfio-check 2> /dev/null
other=$(sed 's/#.*//' /etc/nfio/nf_conf | grep -o '\\<dev[[:space:]]\\+[^[:space:]]*' | grep -v '[[:space:]]eth0$')
[ -z "$other" ] || {{ printf '%s: commands of nf_conf are for dev eth0' "$other"; exit 1; }}
/bin/ip link add nfio-check type veth peer name nfio-checked || exit 1
for file in {DISCIPLINE} nf_conf; do
    sed 's/\\<dev[[:space:]][[:space:]]*eth0\\>/dev nfio-check/g' /etc/nfio/$file > $file
    words=$(/sbin/tc -batch $file 2>&1) || {{
        printf '%s\n' "$words" | tail -n 1
        printf '%s\n' "$words" | head -n 2
        /bin/ip link delete nfio-check
        exit 1
    }}
done
/bin/ip link delete nfio-check
"""

# Without commands of the user's, a discipline of the same kind is changed in its place and keeps its
# queue and its counters; else all begins as the interface of the check did.
APPLY = f"""\
cd /tmp
has_commands() {{ grep -qv '^[[:space:]]*\\(#\\|$\\)' "$1"; }}
apply() {{
    if [ ! -s $1/{DISCIPLINE} ] || has_commands $1/nf_conf || [ -e commands ]; then
        /sbin/tc qdisc delete dev eth0 root 2> /dev/null
        /sbin/tc qdisc delete dev eth0 ingress 2> /dev/null
        rm -f commands
    fi
    if has_commands $1/nf_conf; then touch commands; fi
    /sbin/tc -batch $1/{DISCIPLINE} && /sbin/tc -batch $1/nf_conf
}}
if apply /etc/nfio; then
    mkdir -p good && cp /etc/nfio/{DISCIPLINE} /etc/nfio/nf_conf good
    exit
fi
if [ -d good ]; then apply good; fi
exit 1
"""


def bits_per_s(text: str) -> int:
    """A rate as tc writes it: 10mbit; 500kbit; 2mbps is in bytes; 1000000. Raises ValueError."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a rate as tc writes them: 500kbit, 10mbit, 1.5gbit")
    number, prefix, binary, unit = found.groups(default="")
    bits = float(number) * (1024 if binary else 1000) ** _PREFIXES.index(prefix.lower())
    bits *= 8 if unit.lower() == "bps" else 1
    if not 8000 <= bits <= 1e12:
        raise ValueError(f"{text!r} is not between 8kbit and 1tbit")
    return int(bits)


def check_rate(text: str) -> None:
    """Raises ValueError if it is no rate."""
    if text:
        bits_per_s(text)


def check_delay(text: str) -> None:
    """Raises ValueError if it is no time, NotSupported where the kernel cannot delay."""
    if text and not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not a time as tc writes them: 20ms, 1.5s, 300us")
    if text:
        need_netem()


def check_loss(text: str) -> None:
    """Raises ValueError if it is no percentage, NotSupported where the kernel cannot lose."""
    found = _LOSS.fullmatch(text)
    if text and (found is None or float(found[1]) > 100):
        raise ValueError(f"{text!r} is not a percentage: 0.1%, 5%")
    if text:
        need_netem()


def need_netem() -> None:
    """Try netem in a network namespace that ends with the attempt.

    Raises:
        NotSupported (EOPNOTSUPP): this host's kernel has none.
        HypervisorTimeout (ETIMEDOUT): it did not say in time, while it loaded the module maybe.
    """
    attempt = ("unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    try:
        done = subprocess.run(attempt, capture_output=True, timeout=PROBE_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise HypervisorTimeout("netem could not be tried: tc does not answer") from None
    except OSError as error:
        raise NotSupported(f"netem could not be tried: {error}") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise NotSupported(f"the kernel of this host has no netem (CONFIG_NET_SCH_NETEM), tc says: {words}")


def discipline(rate: str, delay: str, loss: str) -> list[str]:
    """tc's commands. Kinds have handles of their own: only one of the same kind is changed in place."""
    bucket = ""
    if rate:
        bytes_per_s = bits_per_s(rate) // 8
        # What is sent at once: 10 ms, but never less than two frames. Larger segments than that
        # are taken apart by tbf. What waits: 100 ms more, but never less than ten frames.
        burst = max(bytes_per_s // 100, 2 * _FRAME_BYTES)
        limit = min(burst + max(bytes_per_s // 10, 10 * _FRAME_BYTES), _LIMIT_BYTES)
        bucket = f"tbf rate {bytes_per_s * 8}bit burst {burst} limit {limit}"
    if not delay and not loss:
        return [f"qdisc replace dev eth0 root handle 1: {bucket}"] if bucket else []
    netem = "netem limit 10000" + (f" delay {delay}" if delay else "") + (f" loss {loss}" if loss else "")
    if not bucket:
        return [f"qdisc replace dev eth0 root handle 2: {netem}"]
    return [
        f"qdisc replace dev eth0 root handle 3: {netem}",
        f"qdisc replace dev eth0 parent 3:1 handle 30: {bucket}",
    ]


def render(settings: Settings) -> Mapping[str, str]:
    """The queueing discipline that the knobs ask for; none if they are empty."""
    lines = discipline(settings["rate"], settings["delay"], settings["loss"])
    return {DISCIPLINE: "".join(f"{line}\n" for line in lines)}


def root_statistics(listing: str) -> dict[str, int]:
    """``backlog`` and ``drops`` of the root in `tc -s -j qdisc show`; it counts those below it too."""
    try:
        roots = [found for found in json.loads(listing or "[]") if found.get("root")]
        return {name: sum(int(root.get(name, 0)) for root in roots) for name in ("backlog", "drops")}
    except (ValueError, TypeError, AttributeError):
        raise HypervisorError(f"tc: {listing}") from None


def statistics(guest: Guest) -> dict[str, int]:
    """``backlog`` in bytes and ``drops`` in packets of the discipline that eth0 has now."""
    return root_statistics(guest.tool("tc", "-s", "-j", "qdisc", "show", "dev", "eth0"))


def backlog(guest: Guest) -> int:
    """Bytes that wait in the queue now."""
    return statistics(guest)["backlog"]


def drops(guest: Guest) -> int:
    """Packets dropped since the VNF was started: a discipline that another replaces takes its count along.

    It is asked for before each change, so that only those dropped during the change are missed.
    """
    with guest.turn():
        now, last = statistics(guest)["drops"], guest.memory.get("last", 0)
        if now < last:
            guest.memory["gone"] = guest.memory.get("gone", 0) + last
        guest.memory["last"] = now
        return guest.memory.get("gone", 0) + now


MIDDLEBOX = Middlebox(
    type="shaper",
    summary="traffic shaper (tc)",
    recipe=Recipe(packages=("iproute2",)),
    check=("sh", "-c", CHECK),
    apply=("sh", "-c", APPLY),
    reload=("sh", "-c", APPLY),
    capabilities=("NET_ADMIN",),
    sysctls={
        "net.ipv4.ip_forward": "1",
        # A redirect would lead the packets of neighbours on its only link past it.
        "net.ipv4.conf.all.send_redirects": "0",
        "net.ipv4.conf.default.send_redirects": "0",
    },
    default_config="""\
# Commands of tc(8) without `tc`, for `tc -batch`; they are run after those that the knobs ask for.
# `echo reload > action` tries them on another interface, then applies them. `rate` is simpler than:
# qdisc replace dev eth0 root handle 10: htb default 1
# class add dev eth0 parent 10: classid 10:1 htb rate 10mbit
""",
    render=render,
    files={
        "rate": Knob("what leaves it at most, as tc writes rates: 10mbit; empty: no limit", check_rate),
        "delay": Knob("added to each packet, as tc writes times: 20ms; empty: none (netem)", check_delay),
        "loss": Knob("packets lost at random: 0.1%; empty: none (netem)", check_loss),
        "backlog": LiveFile(backlog, "bytes waiting in its queue now (tc's statistics)"),
        "drops": LiveFile(drops, "packets its queue has dropped since it was started (tc's statistics)"),
    },
    drops=drops,
)
