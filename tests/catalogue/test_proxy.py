"""A proxy between clients and an origin server that counts: what is fetched once, denied, forgotten."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from engine import wait_until
from http_load import Load
from lab import Client
from mount import Mount, Vnf, errno_of
from views import CONTAINERS

TYPES = ("proxy",)
pytestmark = pytest.mark.engines(*CONTAINERS)

# Each answer is its own number; those below /kept may be kept for ten minutes.
_ORIGIN = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        text = f"{Handler.asked}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Cache-Control", "max-age=600" if self.path.startswith("/kept") else "no-store")
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("", 80), Handler).serve_forever()
"""


@pytest.fixture
def proxy(nfio: Mount) -> Vnf:
    made = nfio.make("proxy", "squid")
    made.act("activate")
    return made


@pytest.fixture
def here(proxy: Vnf, client) -> Client:
    return client(proxy)


@pytest.fixture
def origin(proxy: Vnf, client) -> str:
    return serve(client(proxy))


def serve(server: Client) -> str:
    """Make it an origin server; its URL."""
    server.begin(sys.executable, "-c", _ORIGIN)
    wait_until(lambda: ":80 " in server.run("ss", "-Hltn"), 10, "the origin server listens")
    return f"http://{server.address}"


def fetch(here: Client, proxy: Vnf, url: str, *options: str) -> str:
    """Status and body of an answer, as a client of the proxy sees them."""
    address = f"{proxy.address}:3128"
    answer = here.run("curl", "-s", "-m", "5", "-x", address, "-w", "\n%{http_code}", *options, url)
    body, _, status = answer.rpartition("\n")
    return f"{status} {body.strip()}" if status == "200" else status


def test_what_is_kept_is_fetched_once_until_it_is_purged(proxy: Vnf, here: Client, origin: str) -> None:
    assert [proxy.value(file) for file in ("requests", "hit_ratio", "objects", "clients")] == [
        "0",
        "0.0000",
        "0",
        "0",
    ]
    assert fetch(here, proxy, f"{origin}/kept") == "200 1"
    assert [fetch(here, proxy, f"{origin}/kept") for _ in range(2)] == ["200 1", "200 1"]
    assert fetch(here, proxy, f"{origin}/fresh") == "200 2"
    assert fetch(here, proxy, f"{origin}/fresh") == "200 3"
    assert (proxy.number("requests"), proxy.value("hit_ratio")) == (5, "0.4000")
    assert (proxy.number("objects"), proxy.number("clients")) == (1, 1)
    proxy.write("purge", f"{origin}/kept\n")
    assert proxy.number("objects") == 0
    assert fetch(here, proxy, f"{origin}/kept") == "200 4"
    proxy.write("purge", f"{origin}/never-seen\n")
    for order in ("everything\n", "http://a.test/ http://b.test/\n"):
        assert errno_of(lambda order=order: proxy.write("purge", order)) == "EINVAL"
    # Reads and orders are no requests, and nobody else may give them.
    assert proxy.number("requests") == 6
    assert fetch(here, proxy, f"{origin}/kept", "-X", "PURGE") == "403"
    assert fetch(here, proxy, "http://127.0.0.1:8098/squid-internal-mgr/info") == "403"
    assert fetch(here, proxy, f"http://{proxy.address}:8098/squid-internal-mgr/info") == "403"
    assert fetch(here, proxy, f"http://{proxy.address}:3128/squid-internal-mgr/info") == "403"
    assert fetch(here, proxy, f"{origin}/kept") == "200 4"


def test_rules_decide_and_a_bad_one_leaves_the_old_ones(
    proxy: Vnf, here: Client, origin: str, client
) -> None:
    other: Client = client(proxy)
    proxy.write("acl", f"deny domain .example.test\ndeny src {other.address} method GET,HEAD\n")
    assert fetch(here, proxy, "http://www.example.test/") == "403"
    assert fetch(other, proxy, f"{origin}/kept") == "403"
    assert fetch(here, proxy, f"{origin}/kept") == "200 1"
    assert (proxy.number("requests"), proxy.number("clients")) == (3, 2)
    for bad in ("deny domain a;b\n", "drop all\n", "deny src 10.0.0.0/99\n", "allow port 80 all\n"):
        assert errno_of(lambda bad=bad: proxy.write("acl", bad)) == "EINVAL"
    assert "allow port 80 all" in proxy.error
    config = proxy.read("config/nf_conf")
    for bad, words in (
        ("http_access maybe all", "expecting 'allow' or 'deny'"),
        ("no such word", "unrecognized: 'no'"),
        ("http_access allow nobody", "ACL not found: nobody"),
    ):
        proxy.write("config/nf_conf", f"{config}{bad}\n")
        assert errno_of(lambda: proxy.act("reload")) == "EINVAL"
        assert words in proxy.error and "nf_conf" in proxy.error
    assert fetch(other, proxy, f"{origin}/kept") == "403"
    proxy.write("config/nf_conf", config)
    proxy.write("acl", "\n")
    # What it keeps outlives a change.
    assert fetch(other, proxy, f"{origin}/kept") == "200 1"


def test_a_reload_under_load_fails_no_request(
    proxy: Vnf, here: Client, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(here, proxy, f"{origin}/kept") == "200 1"
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}:3128")
    load = Load(here, f"{origin}/kept")
    for _ in range(3):
        proxy.act("reload")
        proxy.write("acl", "deny domain .example.test\n")
    done = load.end()
    assert done.failed == [] and done.requests >= 1000
    assert done.pages == {"1": done.requests}
    assert proxy.number("requests") == 1 + done.requests


def test_one_that_is_killed_is_seen_and_comes_back_with_its_rules(nfio: Mount, proxy: Vnf, client) -> None:
    proxy.write("acl", "deny domain .example.test\n")
    pid = nfio.engine.pid(nfio.guest_of(proxy))
    os.kill(pid, signal.SIGSTOP)
    # One that does not answer keeps its own files alone waiting.
    assert errno_of(lambda: proxy.read("requests")) == "ETIMEDOUT"
    assert proxy.state == "RUNNING" and proxy.number("stats/rx_bytes") >= 0
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: proxy.state == "ERROR", 2, "it is seen")
    assert "signal 9" in proxy.error
    assert nfio.events(proxy)[-1]["to"] == "ERROR"
    assert errno_of(lambda: proxy.read("requests")) == "ENETDOWN"
    proxy.write("state", "RUNNING\n")
    here = client(proxy)  # a bridge that no VNF is on any more may have gone, with its clients' links
    assert fetch(here, proxy, "http://www.example.test/") == "403"
    assert fetch(here, proxy, f"{serve(client(proxy))}/kept") == "200 1"
    assert (proxy.number("requests"), proxy.value("hit_ratio")) == (2, "0.0000")
