"""A DHCP server for the VNF's own link: dnsmasq."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from middleboxes import Guest, Knob, LiveFile, Middlebox, Recipe, Settings
from middleboxes.inside.own_user import as_user

MAIN_FILE = "nfio-dhcp.conf"
HOSTS_FILE = "nfio-dhcp-hosts"
UID = 202
PLACE = "/var/lib/misc"  # not in /run, which is empty in an image
LEASES = f"{PLACE}/dnsmasq.leases"
_UNIT_S = {"": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LEAST_S = 120  # dnsmasq gives two minutes to whoever wants to give less

CHECK = f"""\
dnsmasq --test -C /etc/nfio/{MAIN_FILE} 2>&1 || exit 1
sed 's/^/dhcp-host=/' /etc/nfio/{HOSTS_FILE} | dnsmasq --test -C - 2>&1
"""

# dnsmasq reads all but the hosts once, when it starts: for a reload it is started anew, with its
# leases. One that cannot start (its exit status is 1 to 5) is tried again: nfio puts the old files
# back meanwhile.
RUN = f"""\
trap 'kill "$program" 2>/dev/null; exit 0' TERM INT
again=0
while :; do
    rm -f {PLACE}/dnsmasq.pid {PLACE}/reload
    cat $(ls -d /etc/nfio/* | grep -v {HOSTS_FILE}) > {PLACE}/config
    dnsmasq -k -C /etc/nfio/{MAIN_FILE} --log-facility=- --pid-file={PLACE}/dnsmasq.pid &
    program=$!
    wait $program
    status=$?
    if [ -e {PLACE}/reload ]; then
        again=200
    elif [ $again -gt 0 ] && [ $status -ge 1 ] && [ $status -le 5 ]; then
        touch {PLACE}/failed
        again=$((again - 1))
        sleep 0.1
    else
        [ $status = 0 ] && exit 1
        exit $status
    fi
done
"""

RELOAD = f"""\
program=$(cat {PLACE}/dnsmasq.pid) || exit 1
if cat $(ls -d /etc/nfio/* | grep -v {HOSTS_FILE}) | cmp -s - {PLACE}/config; then
    kill -HUP "$program"
    # A packet that comes before dnsmasq has taken the signal is answered from the old hosts.
    while grep -q '^ShdPnd:.*[13579bdf]$' "/proc/$program/status"; do sleep 0.01; done
    exit
fi
rm -f {PLACE}/failed
touch {PLACE}/reload
kill "$program"
while [ -e {PLACE}/reload ] || ! [ -s {PLACE}/dnsmasq.pid ]; do
    [ -e {PLACE}/failed ] && echo 'dnsmasq does not start with it: its log says why' && exit 1
    sleep 0.01
done
"""


def _address(text: str, line: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise ValueError(f"{line!r}: {text!r} is no IPv4 address") from None


def parse_range(line: str) -> list[str]:
    """``10.0.0.100 10.0.0.199 12h``: first and last address, and the lease time if there is one.

    Raises:
        ValueError: it is none.
    """
    words = line.split()
    if len(words) not in (2, 3):
        raise ValueError(f"{line!r}: first address, last address, and a lease time or none")
    if _address(words[0], line) > _address(words[1], line):
        raise ValueError(f"{line!r}: the last address is below the first")
    if len(words) == 3 and words[2] != "infinite":
        time = re.fullmatch(r"(\d{1,8})([mhdw]?)", words[2], re.ASCII)
        if time is None:
            raise ValueError(f"{line!r}: a lease time is seconds, or a number with m, h, d or w, or infinite")
        if int(time[1]) * _UNIT_S[time[2]] < _LEAST_S:
            raise ValueError(f"{line!r}: a lease lasts {_LEAST_S} s at least")
    return words


def parse_host(line: str) -> list[str]:
    """``52:54:00:12:34:56 10.0.0.7 printer``: MAC and address, and the name if there is one.

    Raises:
        ValueError: it is none.
    """
    words = line.split()
    if len(words) not in (2, 3):
        raise ValueError(f"{line!r}: MAC, address, and a name or none")
    if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", words[0]):
        raise ValueError(f"{line!r}: {words[0]!r} is no MAC")
    _address(words[1], line)
    if len(words) == 3 and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", words[2]):
        raise ValueError(f"{line!r}: {words[2]!r} is no host name")
    if len(words) == 3 and re.fullmatch(r"ignore|infinite|\d+[mhdws]?", words[2], re.IGNORECASE):
        raise ValueError(f"{line!r}: to dnsmasq {words[2]!r} is no name, but a lease time or an order")
    return [words[0].lower(), *words[1:]]


def check_pool(text: str) -> None:
    """Raises ValueError if a line is no range."""
    for line in Settings({"pool": text}).lines("pool"):
        parse_range(line)


def check_hosts(text: str) -> None:
    """Raises ValueError if a line is no host, or two have one MAC, address or name."""
    seen: set[str] = set()
    for line in Settings({"hosts": text}).lines("hosts"):
        for word in parse_host(line):
            if word in seen:
                raise ValueError(f"{line!r}: {word} is in a line above")
            seen.add(word)


def render(settings: Settings) -> Mapping[str, str]:
    """dnsmasq's main file, which includes nf_conf, and the file of hosts that it reads on SIGHUP.

    To ping an address before it gives it, it would need CAP_NET_RAW.
    """
    lines = ["no-ping", f"dhcp-leasefile={LEASES}", f"dhcp-hostsfile=/etc/nfio/{HOSTS_FILE}"]
    lines += [f"dhcp-range={','.join(parse_range(line))}" for line in settings.lines("pool")]
    hosts = [",".join(parse_host(line)) for line in settings.lines("hosts")]
    return {
        MAIN_FILE: "\n".join([*lines, "conf-file=/etc/nfio/nf_conf", ""]),
        HOSTS_FILE: "".join(f"{host}\n" for host in hosts),
    }


def leases(guest: Guest) -> str:
    """The leases as dnsmasq keeps them.

    It writes the file anew for each change: what is seen twice is not a part of one.
    """
    text = guest.read_file(LEASES)
    for _ in range(10):
        before, text = text, guest.read_file(LEASES)
        if text == before:
            break
    return text


MIDDLEBOX = Middlebox(
    type="dhcp",
    summary="DHCP server (dnsmasq)",
    recipe=Recipe(
        packages=("dnsmasq-base", "libcap2-bin"),
        setup=(
            f"echo 'dhcp:x:{UID}:{UID}:DHCP server:{PLACE}:/bin/false' >> /etc/passwd",
            f"mkdir -p {PLACE} && : > {LEASES} && chown {UID} {LEASES}",
            # root removes what the last run left, without the capability to write where it may not.
            f"chown {UID}:root {PLACE} && chmod 770 {PLACE}",
        ),
    ),
    check=("sh", "-c", CHECK),
    apply=("sh", "-c", f"rm -f {PLACE}/dnsmasq.pid\n{CHECK}"),
    # dnsmasq insists on NET_ADMIN: it writes the addresses that it gives to the kernel's ARP table.
    run=as_user(UID, RUN, capabilities=("NET_ADMIN",)),
    ready=f"test -s {PLACE}/dnsmasq.pid",
    reload=as_user(UID, RELOAD),
    # SETUID and SETGID bring it to its user, and are gone there.
    capabilities=("NET_ADMIN", "SETUID", "SETGID"),
    sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
    default_config="""\
# dnsmasq's own configuration. `echo reload > action` checks and applies it. `pool` and `hosts` are read before it.
port=0                        # no DNS
interface=eth0
dhcp-option=option:router     # none; dhcp-option=option:router,10.0.0.1 tells clients of one
#dhcp-option=option:dns-server,10.0.0.2
#dhcp-authoritative           # it is the only DHCP server of its link
""",
    render=render,
    files={
        "leases": LiveFile(
            leases, "leases, one a line: end (s since 1970, 0: never), MAC, address, name, client id"
        ),
        "pool": Knob("what it gives: first and last address, lease time", check=check_pool, lines=True),
        "hosts": Knob("fixed addresses: MAC, address, name", check=check_hosts, lines=True),
    },
)
