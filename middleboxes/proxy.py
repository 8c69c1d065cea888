"""A caching forward proxy: squid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from middleboxes import Guest, Knob, LiveFile, Middlebox, Order, Recipe, Settings
from nfio.errors import HypervisorError

MANAGER_PORT = 8098
MAIN_FILE = "nfio-proxy.conf"
UID = 13  # Debian's proxy

HITS = r"^client_http\.hits = (\d+)$"
REQUESTS = r"^client_http\.requests = (\d+)$"
OBJECTS = r"^\s+(\d+) Hot Object Cache Items$"
CLIENTS = r"^\s+Number of clients accessing cache:\s+(\d+)$"

# nfio's own port: the cache manager and PURGE, on the VNF's loopback, and not counted. Nobody else
# gets at either: not by another port, and not by asking the proxy to connect to this one.
# url_rewrite_extras and store_id_extras are asked for a client's name by default, which is one DNS
# query for each client, whether or not there is a program to tell it to.
_OWN = f"""\
http_port 127.0.0.1:{MANAGER_PORT} worker-queues
acl nfio_port localport {MANAGER_PORT}
acl nfio_target port {MANAGER_PORT}
acl nfio_purge method PURGE
stats_collection deny nfio_port
http_access allow nfio_port manager
http_access allow nfio_port nfio_purge
http_access deny nfio_port
http_access deny nfio_target
http_access deny manager
http_access deny nfio_purge
url_rewrite_extras "%>a %un %>rm"
store_id_extras "%>a %un %>rm"
pid_filename /run/squid.pid
"""

# squid's parser takes an http_access line that is none, says so and goes on.
CHECK = f"""\
words=$(squid -k parse -f /etc/nfio/{MAIN_FILE} 2>&1)
status=$?
words=$(echo "$words" | sed -n 's/^[0-9/]* [0-9:]*| //; /ERROR:\\|FATAL:\\|^aclParse\\|^ACL not\\|unrecognized/p')
[ $status = 0 ] && ! echo "$words" | grep -q 'ERROR:\\|^aclParse' && exit
echo "$words"
exit 1
"""

# On SIGHUP squid closes its ports and opens them some 30 ms later. Meanwhile stand-ins listen on
# them, which SO_REUSEPORT (worker-queues) allows to its own user; tcp_migrate_req makes the kernel
# hand the connections that one listener leaves behind to the other.
RELOAD = r"""
use Socket qw(:all);

sub listening {
    my %found;
    for my $file (glob "/proc/net/{tcp,tcp6}") {
        open my $lines, "<", $file or next;
        while (<$lines>) {
            my @of = split;
            $found{$of[9]} = $of[1] if $of[3] eq "0A" && $of[7] == $>;
        }
    }
    return %found;
}

my %old = listening();
my @stand_ins;
for my $where (values %old) {
    my ($address, $port) = split /:/, $where;
    my $bytes = pack "L*", map { hex } unpack "(A8)*", $address;
    my $six = length $bytes > 4;
    socket my $stand_in, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0 or next;
    setsockopt $stand_in, SOL_SOCKET, SO_REUSEPORT, 1;
    bind $stand_in, $six ? pack_sockaddr_in6(hex $port, $bytes) : pack_sockaddr_in(hex $port, $bytes) or next;
    push @stand_ins, $stand_in if listen $stand_in, 4096;
}
my %before = listening();
open my $file, "<", "/run/squid.pid" or die "squid does not run: $!\n";
kill "HUP", <$file> + 0 or die "squid: $!\n";
my $seen = 0;
for (1 .. 1000) {
    my %now = listening();
    my $new = grep { !$before{$_} } keys %now;
    exit if $new && $new == $seen && !grep { $old{$_} } keys %now;
    $seen = $new;
    select undef, undef, undef, 0.005;
}
die "squid did not open its ports again: its log says why\n";
"""


#: what a rule may ask: squid's words for it, what its values are, and what they look like. With -n
#: squid looks no name up for a rule: one that no DNS server answers would hold up every request.
_TESTS = {
    "src": ("src", "addresses and networks", r"((\d{1,3}\.){3}\d{1,3}|[\da-fA-F]*:[\da-fA-F:]+)(/\d+)?"),
    "domain": ("dstdomain -n", "names; .name is all below it too", r"\.?\w[\w-]*(\.[\w-]+)*"),
    "port": ("port", "ports and first-last", r"\d{1,5}(-\d{1,5})?"),
    "method": ("method", "methods in capitals", r"[A-Z]+"),
}


def parse_rule(line: str) -> tuple[str, list[tuple[str, list[str]]]]:
    """``deny src 10.0.0.0/8 domain a.test,.b.test``: its verdict, and what it asks with the values.

    Raises:
        ValueError: it is no rule.
    """
    verdict, *words = line.split()
    if verdict not in ("allow", "deny"):
        raise ValueError(f"{line!r}: a rule begins with allow or deny")
    if words == ["all"]:
        return verdict, []
    if not words or len(words) % 2:
        raise ValueError(f"{line!r}: after {verdict} comes all, or pairs of {', '.join(_TESTS)} and values")
    asked = []
    for test, values in zip(words[::2], words[1::2], strict=True):
        if test not in _TESTS:
            raise ValueError(f"{line!r}: no {test!r}: one of {', '.join(_TESTS)}")
        _, what, pattern = _TESTS[test]
        for value in values.split(","):
            if not re.fullmatch(pattern, value, re.ASCII):
                raise ValueError(f"{line!r}: {value!r}: {test} takes {what}")
        asked.append((test, values.split(",")))
    return verdict, asked


def check_acl(text: str) -> None:
    """Raises ValueError if a line is no rule."""
    for line in Settings({"acl": text}).lines("acl"):
        parse_rule(line)


def rules(settings: Settings) -> list[str]:
    """The rules of ``acl`` as squid reads them."""
    lines = []
    for number, line in enumerate(settings.lines("acl"), 1):
        verdict, asked = parse_rule(line)
        names = []
        for place, (test, values) in enumerate(asked, 1):
            names.append(f"nfio_{number}_{place}")
            # squid breaks a line of 8 KiB in two: lines of one name are one list.
            lines += [f"acl {names[-1]} {_TESTS[test][0]} {' '.join(some)}" for some in _by_tens(values)]
        lines.append(f"http_access {verdict} {' '.join(names) or 'all'}")
    return lines


def _by_tens(values: list[str]) -> Iterator[list[str]]:
    yield from (values[begin : begin + 10] for begin in range(0, len(values), 10))


def render(settings: Settings) -> Mapping[str, str]:
    """squid's main file: nfio's port, the rules of ``acl``, and then nf_conf with its own."""
    return {MAIN_FILE: "\n".join([_OWN, *rules(settings), "include /etc/nfio/nf_conf", ""])}


def find(page: str, pattern: str) -> int:
    """A number on a page of squid's cache manager.

    Raises:
        HypervisorError (EIO): it is not there.
    """
    found = re.search(pattern, page, re.MULTILINE)
    if found is None:
        raise HypervisorError(f"squid's cache manager does not tell {pattern!r}: {page[:200]!r}")
    return int(found[1])


def parse_hit_ratio(counters: str) -> str:
    """Hits per request, 0 to 1, from the page ``counters``; 0 before the first request."""
    hits, asked = find(counters, HITS), find(counters, REQUESTS)
    return f"{hits / max(1, asked):.4f}\n"


def ask(guest: Guest, page: str) -> str:
    """A page of squid's cache manager."""
    return guest.http_get(MANAGER_PORT, f"/squid-internal-mgr/{page}")


def purge(guest: Guest, text: str) -> None:
    """Forget an object. One that is not kept is as good as forgotten.

    Raises:
        ValueError: that is no URL.
        HypervisorError (EIO): squid refused it.
    """
    if not re.fullmatch(r"(http|https|ftp)://[!-~]+", text):
        raise ValueError(f"{text!r}: one URL, with its scheme and nothing else")
    request = f"PURGE {text} HTTP/1.0\r\n\r\n".encode()
    answer = guest.exchange(MANAGER_PORT, request).split(b"\r\n", 1)[0].decode(errors="replace")
    if answer.split()[1:2] not in (["200"], ["404"]):
        raise HypervisorError(f"squid does not purge {text}: {answer}")


MIDDLEBOX = Middlebox(
    type="proxy",
    summary="caching HTTP proxy (squid)",
    recipe=Recipe(
        packages=("squid",),
        setup=(
            f"mkdir -p /var/spool/squid /var/log/squid && chown -R {UID}:{UID} /run /var/spool/squid /var/log/squid",
            # Of Perl, which a helper of squid's brings, perl-base is enough for the reload.
            "rm -rf /usr/share/perl /usr/lib/*/perl /usr/lib/*/gconv",
        ),
    ),
    check=("sh", "-c", CHECK),
    # One that was killed leaves its pid file behind, which would pass for readiness.
    run=("sh", "-c", f"rm -f /run/squid.pid; exec squid -N -f /etc/nfio/{MAIN_FILE}"),
    ready=f"wget -q -O /dev/null http://127.0.0.1:{MANAGER_PORT}/squid-internal-mgr/menu 2>/dev/null",
    reload=("perl", "-e", RELOAD),
    user=UID,
    sysctls={"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.tcp_migrate_req": "1"},
    default_config="""\
# squid's own configuration. `echo reload > action` checks and applies it. The rules of `acl` come before these.
http_port 3128 worker-queues    # worker-queues: a reload loses no connection
visible_hostname nfio-proxy
acl local src 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fe80::/10
acl tls port 443
http_access deny CONNECT !tls
http_access deny to_localhost
http_access allow local
http_access deny all
cache_mem 32 MB
maximum_object_size_in_memory 1 MB
cache_log /dev/stderr
access_log none
max_filedescriptors 4096
shutdown_lifetime 0 seconds
pinger_enable off
netdb_filename none
""",
    render=render,
    files={
        "hit_ratio": LiveFile(
            lambda guest: parse_hit_ratio(ask(guest, "counters")),
            "requests answered from the cache, of all, 0 to 1 (counters)",
        ),
        "requests": LiveFile(
            lambda guest: find(ask(guest, "counters"), REQUESTS),
            "client requests answered since it was started (counters)",
        ),
        "objects": LiveFile(
            lambda guest: find(ask(guest, "info"), OBJECTS), "objects in the memory cache (info)"
        ),
        "clients": LiveFile(
            # Whoever asks is one too: the VNF's loopback address.
            lambda guest: find(ask(guest, "info"), CLIENTS) - 1,
            "client addresses known since it was started (info)",
        ),
        "acl": Knob("rules, of which the first that matches decides", check=check_acl, lines=True),
        "purge": Order("a URL that the cache shall forget", purge),
    },
)
