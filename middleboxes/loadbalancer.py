"""A load balancer: haproxy, driven through its runtime API."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping

from middleboxes import Directory, Guest, Knob, LiveFile, Middlebox, Recipe, Settings
from middleboxes.host.haproxy import FRONTEND, SERVER, SOCKET, ask, order, statistics
from nfio.errors import ConfigurationRejected

BACKEND = "nfio"
BACKEND_FILE = "nfio-backend.cfg"
MASTER = "/run/haproxy-master.pid"
STATES = ("ready", "drain", "maint")

#: how long requests may go on to a server that is removed, and how long haproxy may take to let go of it
GRACE_S = 2.0

_CONFIGURATION = ("-f", "/etc/nfio/nf_conf", "-f", f"/etc/nfio/{BACKEND_FILE}")

# The master executes itself anew for a reload, and tells itself of its processes, and in the end
# that it has but to wait, in its environment. A new worker is there only if all was well.
RELOAD = f"""\
told() {{ tr '\\0|' '\\n\\n' < /proc/$(cat {MASTER})/environ; }}
reloads() {{ told | sed -n 's/^type=m;.*;reloads=\\([0-9]*\\);.*/\\1/p'; }}
before=$(reloads)
kill -USR2 "$(cat {MASTER})" || exit 1
tries=0
until [ "$(reloads)" != "$before" ] && told | grep -q '^HAPROXY_MWORKER_WAIT_ONLY=1'; do
    tries=$((tries + 1))
    [ $tries -lt 800 ] || {{ echo 'haproxy did not reload in time'; exit 1; }}
    sleep 0.01
done
told | grep -q '^type=w;.*;reloads=0;' || {{ echo 'haproxy kept its old configuration: its log says why'; exit 1; }}
"""


# -- what is configured -----------------------------------------------------------------------


def endpoint(text: str) -> tuple[str, int]:
    """Address and port of ``192.0.2.1:80`` or ``[2001:db8::1]:80``. ValueError if it is none."""
    host, _, port = text.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    try:
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError
        if in_brackets:
            # What stands behind a % can be anything, and haproxy would take it for commands.
            if "%" in host:
                raise ValueError
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        what = "is not an address and a port: 192.0.2.1:80 or [2001:db8::1]:80"
        raise ValueError(f"{text!r} {what}") from None


def check_address(text: str) -> None:
    """An endpoint, or nothing: the server is not used."""
    if text:
        endpoint(text)


def check_weight(text: str) -> None:
    """ValueError if it is not a number from 0 to 256."""
    if not (text.isascii() and text.isdigit() and int(text) <= 256):
        raise ValueError(f"{text!r} is not a weight from 0 to 256")


def check_state(text: str) -> None:
    """ValueError if it is none of STATES."""
    if text not in STATES:
        raise ValueError(f"{text!r} is none of {', '.join(STATES)}")


def server(settings: Settings, name: str) -> tuple[str, str, str]:
    """Endpoint as haproxy writes it, weight and state of a server; no endpoint: it is not used."""
    place = f"backends/{name}"
    text = settings[f"{place}/address"]
    if text:
        host, port = endpoint(text)
        text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return text, settings[f"{place}/weight"], settings[f"{place}/state"]


def render(settings: Settings) -> Mapping[str, str]:
    """The backend of all servers, and the socket of the runtime API."""
    lines = [
        "global",
        f"    stats socket {SOCKET} mode 600 level admin expose-fd listeners",
        "    stats timeout 1m",
        f"backend {BACKEND}",
    ]
    for name in settings.names("backends"):
        address, weight, state = server(settings, name)
        if address:
            # There is no word for a server that begins drained: it is one without weight.
            weight = "0" if state == "drain" else weight
            disabled = " disabled" if state == "maint" else ""
            lines.append(f"    server {name} {address} weight {weight} check{disabled}")
    return {BACKEND_FILE: "\n".join([*lines, ""])}


# -- what runs --------------------------------------------------------------------------------


def apply(guest: Guest, settings: Settings, name: str) -> None:
    """Make a running haproxy's server what its files say; the other servers' requests go on."""
    address, weight, state = server(settings, name) if name in settings.names("backends") else ("", "", "")
    known = any(row["svname"] == name for row in statistics(guest, BACKEND, SERVER))
    target = f"{BACKEND}/{name}"
    if not address:
        if known:
            remove(guest, target)
        return
    if known:
        host, port = endpoint(address)
        order(guest, f"set server {target} addr {host} port {port}", "no need to change", "changed from")
    else:
        order(guest, f"add server {target} {address} weight {weight} check", "New server registered")
        order(guest, f"enable health {target}")
    commands = [f"set server {target} weight {weight}", f"set server {target} state {state}"]
    # One that begins to serve has its weight before, one that ends keeps its old one until it has.
    for command in commands if state == "ready" else reversed(commands):
        order(guest, command)


def remove(guest: Guest, target: str) -> None:
    """Take a server out; requests that it does not end within GRACE_S are cut."""
    name = target.partition("/")[2]
    begun = time.monotonic()
    while True:
        # One that is drained ends what it has. Each time that it leaves that state its idle
        # connections are closed, without which haproxy does not let go of it.
        order(guest, f"set server {target} state drain")
        waited = time.monotonic() - begun
        if waited > GRACE_S:
            order(guest, f"shutdown sessions server {target}")
        if waited > GRACE_S or of_server("scur")(guest, name) == 0:
            order(guest, f"set server {target} state maint")
            answer = ask(guest, f"del server {target}")
            if "deleted" in answer:
                return
            if waited > 2 * GRACE_S:
                raise ConfigurationRejected(f"haproxy: {answer}")
        time.sleep(0.02)


def of_server(column: str) -> Callable[[Guest, str], int]:
    """A reader of one number of a server; 0 while it has no address."""

    def read(guest: Guest, name: str) -> int:
        values = (row[column] for row in statistics(guest, BACKEND, SERVER) if row["svname"] == name)
        return int(next(values, "0"))

    return read


def status(guest: Guest, name: str) -> str:
    """haproxy's word for a server, without its count of checks (``UP 1/3``)."""
    for row in statistics(guest, BACKEND, SERVER):
        if row["svname"] == name:
            word = row["status"].split()[0]
            return "DRAIN\n" if word == "UP" and row["weight"] == "0" else f"{word}\n"
    return "unset\n"


def frontends(guest: Guest) -> str:
    """A line with the columns' names, and one for each frontend."""
    columns = ("pxname", "status", "scur", "stot", "req_tot", "bin", "bout")
    lines = ["name status active_sessions sessions requests rx_bytes tx_bytes"]
    lines += [" ".join(row[column] or "0" for column in columns) for row in statistics(guest, "-1", FRONTEND)]
    return "\n".join([*lines, ""])


MIDDLEBOX = Middlebox(
    type="loadbalancer",
    summary="load balancer (haproxy)",
    recipe=Recipe(
        packages=("haproxy",),
        setup=(
            "echo 'haproxy:x:120:120::/nonexistent:/usr/sbin/nologin' >> /etc/passwd",
            "echo 'haproxy:x:120:' >> /etc/group",
            "mkdir -p /run",
            "chown 120:120 /run",
        ),
    ),
    check=("haproxy", "-c", *_CONFIGURATION),
    # A worker that ends takes the master with it.
    run=(
        "sh",
        "-c",
        f"rm -f {SOCKET}; echo $$ > {MASTER}; exec haproxy -W -db {' '.join(_CONFIGURATION)}",
    ),
    ready=f"grep -qs MWORKER_WAIT_ONLY=1 /proc/$(cat {MASTER})/environ 2> /dev/null",
    reload=("sh", "-c", RELOAD),
    user=120,
    # What the checker cannot know, an address that the VNF does not have, is no reason to fail later.
    sysctls={"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ip_nonlocal_bind": "1"},
    default_config=f"""\
# haproxy's own configuration. `echo reload > action` checks and applies it.
# The backend `{BACKEND}` is made of backends/; it takes mode, timeouts and balance of `defaults`.
defaults
    mode http
    balance roundrobin
    option redispatch 1
    option idle-close-on-response
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend www
    bind :80
    default_backend {BACKEND}
""",
    render=render,
    files={
        "frontends": LiveFile(
            frontends,
            "a line for each frontend, below the columns' names: name, status, sessions now, sessions, requests,"
            " bytes from clients, bytes to clients (show stat)",
        ),
        "backends": Directory(
            "the servers that requests are shared among",
            entries=Directory(
                "a server",
                apply=apply,
                files={
                    "address": Knob(
                        "address:port, where it serves; empty: not used", check_address, apply=apply
                    ),
                    "weight": Knob("its share, 0 to 256, of all weights", check_weight, "100", apply=apply),
                    "state": Knob(
                        "ready, drain (no new requests) or maint (not used)",
                        check_state,
                        "ready",
                        apply=apply,
                    ),
                    "status": LiveFile(status, "haproxy's word: UP, DOWN, DRAIN, MAINT; unset (show stat)"),
                    "active_sessions": LiveFile(
                        of_server("scur"), "sessions (requests, in mode http) that it serves now (show stat)"
                    ),
                    "sessions": LiveFile(of_server("stot"), "sessions that it was given (show stat)"),
                    "rx_bytes": LiveFile(of_server("bin"), "bytes that were sent to it (show stat)"),
                    "tx_bytes": LiveFile(of_server("bout"), "bytes that it sent (show stat)"),
                },
            ),
        ),
    },
)
