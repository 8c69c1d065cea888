"""A router: FRR's zebra, staticd, ospfd and bgpd."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from typing import Any

from middleboxes import Guest, Knob, LiveFile, Middlebox, Recipe, Settings
from middleboxes.inside.own_user import as_user
from nfio.errors import HypervisorError

STATIC_FILE = "nfio-static.conf"
DAEMONS = ("zebra", "staticd", "ospfd", "bgpd")
UID, VTY_GID = 200, 201

_FRR_CONF = "/etc/frr/frr.conf"
_SOCKETS = "/var/run/frr"
_TOGETHER = f"{{ cat /etc/nfio/nf_conf; echo; cat /etc/nfio/{STATIC_FILE}; }}"

# FRR's own way to a user of its own asks for CAP_SYS_ADMIN, which it needs for VRFs that are network
# namespaces and will not do without. So the daemons are that user from the start, with two
# capabilities, and libfakeroot makes of the request that is refused one that was not needed.
_LIBRARY = "/usr/lib/x86_64-linux-gnu/libfakeroot/libfakeroot-sysv.so"

# zebra comes first: whoever does not find it asks again after 10 s.
# Each daemon has a shell that waits for it alone, and says in a pipe that it has ended: BusyBox's
# `wait -n` overlooks children.
RUN = f"""\
cd {_SOCKETS}
serve() {{
    trap 'kill $!' TERM
    LD_PRELOAD={_LIBRARY} /usr/lib/frr/$1 -u frr -g frr -P 0 -f /dev/null --log stdout &
    wait $!
    wait $!
    echo "$? $1" >&3
}}
mkfifo ended
exec 3<> ended
trap 'kill $shells; wait; exit 0' TERM INT
for daemon in {" ".join(DAEMONS)}; do
    serve $daemon &
    shells="$shells $!"
    until [ -S $daemon.vty ]; do kill -0 $! || exit 1; sleep 0.01; done
done
{_TOGETHER} > {_FRR_CONF}
vtysh -f {_FRR_CONF} || exit 1
touch serving
read -r status daemon <&3
echo "$daemon has ended with status $status"
[ "$status" = 0 ] || exit "$status"
exit 1
"""

# frr-reload.py, FRR's own, gives the daemons the difference between what runs and the file. What one
# of them refuses leaves the rest in force: so what ran before is put back in the same way.
RELOAD = f"""\
cd {_SOCKETS}
apply() {{ python3 /usr/lib/frr/frr-reload.py --reload --stdout --log-level warning --rundir {_SOCKETS} {_FRR_CONF} 2>&1; }}
vtysh -c 'show running-config no-header' > before || exit 1
{_TOGETHER} > {_FRR_CONF}
words=$(apply) && exit 0
printf '%s\\n' "$words" | sed "s/$(printf '\\033')\\[[0-9;]*m//g" >&2
cat before > {_FRR_CONF}
apply >&2
exit 1
"""


def route(line: str) -> tuple[ipaddress.IPv4Network, ipaddress.IPv4Address]:
    """A line of ``static_routes``. Raises ValueError if it is none."""
    words = line.split()
    if len(words) != 3 or words[1] != "via":
        raise ValueError(f"{line[:80]!r} is not `PREFIX via ADDRESS`")
    return ipaddress.IPv4Network(words[0]), ipaddress.IPv4Address(words[2])


def check_routes(text: str) -> None:
    """Raises ValueError if a line of ``static_routes`` is no route."""
    for line in Settings({"": text}).lines(""):
        route(line)


def render(settings: Settings) -> Mapping[str, str]:
    """The static routes as staticd's commands."""
    routes = map(route, settings.lines("static_routes"))
    return {STATIC_FILE: "".join(f"ip route {prefix} {hop}\n" for prefix, hop in routes)}


def routes(guest: Guest) -> str:
    """The kernel's routing table (RTM_GETROUTE), as ip(8) prints it."""
    return guest.tool("ip", "-4", "route", "show")


def ask(guest: Guest, daemon: str, command: str) -> dict[str, Any]:
    """A daemon's answer in JSON to a command of its vty.

    Commands end with a NUL, answers with three and the status. `exit` makes the daemon close the
    connection behind the answer, whatever its status is.

    Raises:
        HypervisorError (EIO): the answer is none.
    """
    answer = guest.exchange(f"{_SOCKETS}/{daemon}.vty", f"{command}\0exit\0".encode())
    text = answer.partition(b"\0")[0].decode(errors="replace")
    try:
        found = json.loads(text or "{}")
    except ValueError:
        raise HypervisorError(f"{daemon}: {text}") from None
    return found if isinstance(found, dict) else {}


def ospf_neighbors(answer: Mapping[str, Any]) -> Iterator[str]:
    """Lines of ``neighbors`` from ospfd's `show ip ospf neighbor json`."""
    for router_id, adjacencies in answer.get("neighbors", answer).items():
        for seen in adjacencies:
            up_s = seen.get("upTimeInMsec", 0) // 1000
            yield f"ospf {seen['address']} {router_id} {seen['state'].partition('/')[0]} {up_s}"


def bgp_neighbors(answer: Mapping[str, Any]) -> Iterator[str]:
    """Lines of ``neighbors`` from bgpd's `show bgp summary json`: a peer of two families is one line."""
    peers = {
        address: peer
        for family in answer.values()
        if isinstance(family, dict)
        for address, peer in family.get("peers", {}).items()
    }
    for address, peer in peers.items():
        up_s = peer["peerUptimeMsec"] // 1000 if peer["state"] == "Established" else 0
        yield f"bgp {address} {peer['remoteAs']} {peer['state']} {up_s}"


def neighbors(guest: Guest) -> str:
    """Lines of ``protocol address peer state seconds``, those of OSPF first."""
    lines = [
        *ospf_neighbors(ask(guest, "ospfd", "show ip ospf neighbor json")),
        *bgp_neighbors(ask(guest, "bgpd", "show bgp summary json")),
    ]
    return "".join(f"{line}\n" for line in lines)


MIDDLEBOX = Middlebox(
    type="router",
    summary="router (FRR: static routes, OSPF, BGP)",
    recipe=Recipe(
        packages=("frr", "frr-pythontools", "iproute2", "libcap2-bin", "libfakeroot", "libpam-modules"),
        setup=(
            f"echo 'frr:x:{UID}:{UID}:FRR:/var/run/frr:/bin/false' >> /etc/passwd",
            f"printf 'frr:x:{UID}:\\nfrrvty:x:{VTY_GID}:frr\\n' >> /etc/group",
            # Not in /run, which is empty in an image.
            "mkdir -p /var/run/frr /var/tmp/frr",
            "chown -R frr:frr /etc/frr /var/tmp/frr",
            # root empties it before each start, without the capability to write where it may not.
            "chown frr:root /var/run/frr; chmod 770 /var/run/frr",
            # vtysh asks PAM, whose modules are not configured here, before it opens the sockets.
            "rm -f /etc/pam.d/*",
            "printf 'auth sufficient pam_permit.so\\naccount sufficient pam_permit.so\\n' > /etc/pam.d/frr",
            ": > /etc/frr/vtysh.conf",
            "python3 /usr/lib/frr/frr-reload.py --help > /dev/null",  # leaves what it imports compiled
            # What only maintainer scripts would use.
            "rm -rf /usr/bin/perl* /usr/share/perl* /usr/lib/*/perl* /usr/lib/*/gconv",
        ),
    ),
    check=("sh", "-c", f"{_TOGETHER} | vtysh -C -f /dev/stdin"),
    apply=("sh", "-c", f"rm -f {_SOCKETS}/*; {_TOGETHER} | vtysh -C -f /dev/stdin"),
    run=as_user(UID, RUN, capabilities=("NET_ADMIN", "NET_RAW"), groups=(VTY_GID,)),
    ready=f"test -e {_SOCKETS}/serving",
    reload=as_user(UID, RELOAD, groups=(VTY_GID,)),
    # SETUID and SETGID bring it to its user, and are gone there.
    capabilities=("NET_ADMIN", "NET_RAW", "SETUID", "SETGID"),
    sysctls={
        "net.ipv4.ip_forward": "1",
        "net.ipv4.ip_unprivileged_port_start": "0",
        # Where both neighbours are on its only link, a redirect would lead the packets past it.
        "net.ipv4.conf.all.send_redirects": "0",
        "net.ipv4.conf.default.send_redirects": "0",
    },
    default_config="""\
! FRR's own configuration (zebra, staticd, ospfd, bgpd). `echo reload > action` checks and applies it.
! router ospf
!  redistribute static
!  network 0.0.0.0/0 area 0
! exit
""",
    render=render,
    files={
        "routes": LiveFile(routes, "the kernel's IPv4 routes, one a line (ip route show)"),
        "neighbors": LiveFile(
            neighbors,
            "one a line: ospf or bgp, address, router id or AS, state, seconds it has been up (ospfd's and bgpd's vty)",
        ),
        "static_routes": Knob("static routes, one a line: `PREFIX via ADDRESS`", check_routes, lines=True),
    },
)
