"""A web server: nginx."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from middleboxes import Guest, LiveFile, Middlebox, Recipe, Settings
from nfio.errors import HypervisorError, HypervisorTimeout

STATUS_PORT = 8099
STATUS_FILE = "nfio-status.conf"

_STATUS = re.compile(r"Active connections: (\d+)\s+server accepts handled requests\s+(\d+) \d+ (\d+)")


# `nginx -s reload` only sends a signal: the reload is done when no old worker accepts any more.
# A master that could not apply the configuration (a port that is taken) keeps its old workers.
RELOAD = """\
old=$(grep -ls 'nginx: [w]orker process' /proc/[0-9]*/cmdline)
nginx -s reload -c /etc/nfio/nf_conf || exit 1
tries=0
for worker in $old; do
    while grep -qs worker "$worker" && ! grep -qs 'shutting down' "$worker"; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo 'nginx kept its old configuration: its log says why'; exit 1; }
        sleep 0.01
    done
done
"""


def render(_settings: Settings) -> Mapping[str, str]:
    """The server that answers nfio's questions, on the VNF's loopback only."""
    return {
        STATUS_FILE: f"server {{ listen 127.0.0.1:{STATUS_PORT}; access_log off; "
        "location = /status { stub_status; } location / { return 404; } }\n"
    }


def parse_status(text: str) -> dict[str, int]:
    """nginx's stub_status: connections now, connections and requests since it was started.

    Raises:
        HypervisorError (EIO): it is none.
    """
    found = _STATUS.match(text)
    if found is None:
        raise HypervisorError(
            f"nginx gives no status: keep `include /etc/nfio/{STATUS_FILE};` in the http block of nf_conf"
        )
    active, accepted, requests = map(int, found.groups())
    return {"active_connections": active, "connections": accepted, "requests": requests}


def status(name: str) -> Callable[[Guest], int]:
    """A reader of one number of the status, less what nfio's own questions add to it."""

    def read(guest: Guest) -> int:
        with guest.turn():
            asked = guest.memory.get("asked", 0) + 1
            try:
                value = parse_status(guest.http_get(STATUS_PORT, "/status"))[name]
            except HypervisorTimeout:
                guest.memory["asked"] = asked  # nginx counts it as soon as it goes on
                raise
            guest.memory["asked"] = asked
        return value - (1 if name == "active_connections" else asked)

    return read


MIDDLEBOX = Middlebox(
    type="web",
    summary="web server (nginx)",
    recipe=Recipe(
        packages=("nginx-light",),
        setup=(
            "mkdir -p /var/www/html /var/lib/nginx /var/log/nginx /run",
            "echo '<h1>nfio web</h1>' > /var/www/html/index.html",
            "ln -sf /dev/stdout /var/log/nginx/access.log",
            "ln -sf /dev/stderr /var/log/nginx/error.log",
            "chown -R 33:33 /var/lib/nginx /var/log/nginx /run",
        ),
    ),
    check=("nginx", "-t", "-q", "-c", "/etc/nfio/nf_conf"),
    # One that was killed leaves its pid file behind, which would pass for readiness.
    run=("sh", "-c", "rm -f /run/nginx.pid; exec nginx -c /etc/nfio/nf_conf -g 'daemon off;'"),
    ready="test -s /run/nginx.pid",
    reload=("sh", "-c", RELOAD),
    # It runs as Debian's www-data and never has a privilege: ports from 80 on are free to it.
    user=33,
    sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
    default_config=f"""\
# nginx's own configuration. `echo reload > action` checks and applies it.
pid /run/nginx.pid;
error_log stderr;
events {{ }}
http {{
    include /etc/nginx/mime.types;
    include /etc/nfio/{STATUS_FILE};    # keeps the live files
    access_log off;
    server {{
        listen 80;
        root /var/www/html;
    }}
}}
""",
    render=render,
    files={
        "active_connections": LiveFile(
            status("active_connections"), "client connections open now (stub_status)"
        ),
        "connections": LiveFile(
            status("connections"), "client connections accepted since it was started (stub_status)"
        ),
        "requests": LiveFile(status("requests"), "client requests since it was started (stub_status)"),
    },
)
