"""A resolver that asks another one: what clients are answered, and what is asked for it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import dns_load
import pytest
from engine import wait_until
from lab import Client
from mount import Mount, Vnf, errno_of
from views import CONTAINERS

TYPES = ("dns",)
pytestmark = pytest.mark.engines(*CONTAINERS)

FAR = "10.9.9.9"
ANSWER = f"0 ['{FAR}'] 1"
NO_SUCH_NAME = "3 [] 1"
COUNTERS = ("queries", "cache_hits", "cache_misses")


@pytest.fixture
def upstream(nfio: Mount) -> Vnf:
    """A resolver that knows every name below far.example."""
    made = nfio.make("dns", "upstream")
    text = f'    local-zone: "far.example." redirect\n    local-data: "far.example. A {FAR}"\n'
    made.write("config/nf_conf", made.read("config/nf_conf") + text)
    made.act("activate")
    return made


@pytest.fixture
def resolver(nfio: Mount, upstream: Vnf) -> Vnf:
    """One that asks it, with a record of its own."""
    made = nfio.make("dns", "resolver")
    made.write("forwarders", f"{upstream.address}\n")
    made.write("records", f"www.example.test A {FAR}\n")
    made.act("activate")
    return made


def ask(client: Client, vnf: Vnf, name: str) -> str:
    return client.run(sys.executable, str(Path(dns_load.__file__)), vnf.address, name).strip()


def counters(vnf: Vnf) -> tuple[int, ...]:
    return tuple(vnf.number(name) for name in COUNTERS)


def test_what_a_client_asks_is_answered_and_counted(upstream: Vnf, resolver: Vnf, client) -> None:
    here: Client = client(resolver)
    assert ask(here, resolver, "a.far.example") == ANSWER
    assert (counters(resolver), upstream.number("queries")) == ((1, 0, 1), 1)
    assert ask(here, resolver, "a.far.example") == ANSWER
    assert ask(here, resolver, "www.example.test") == ANSWER
    assert (counters(resolver), upstream.number("queries")) == ((3, 2, 1), 1)
    # What is flushed is asked for again, what is not is not.
    assert ask(here, resolver, "b.far.example") == ANSWER
    resolver.write("flush", "a.far.example\n")
    assert [ask(here, resolver, f"{name}.far.example") for name in "ab"] == [ANSWER] * 2
    assert (counters(resolver), upstream.number("queries")) == ((6, 3, 3), 3)
    resolver.write("flush", "all\n")
    assert [ask(here, resolver, f"{name}.far.example") for name in "ab"] == [ANSWER] * 2
    assert (counters(resolver), upstream.number("queries")) == ((8, 3, 5), 5)
    assert errno_of(lambda: resolver.write("flush", "a b\n")) == "EINVAL"


def test_records_and_forwarders_change_while_it_serves(upstream: Vnf, resolver: Vnf, client) -> None:
    here: Client = client(resolver)
    assert ask(here, resolver, "a.far.example") == ANSWER
    with (resolver.path / "records").open("a") as records:
        records.write("mail.example.test 60 A 10.0.0.1\nmail.example.test 60 A 10.0.0.2\n")
    assert ask(here, resolver, "mail.example.test") == "0 ['10.0.0.1', '10.0.0.2'] 1"
    assert ask(here, resolver, "www.example.test") == ANSWER
    resolver.write("records", 'mail.example.test 60 A 10.0.0.2\nmail.example.test TXT "a b"\n')
    assert ask(here, resolver, "mail.example.test") == "0 ['10.0.0.2'] 1"
    assert ask(here, resolver, "www.example.test") == NO_SUCH_NAME
    kept = resolver.read("records")
    for text, word in (
        ("mail.example.test MX bad", "integer expected"),  # unbound's checker
        ("mail.example.test A 10.0.0.300", "10.0.0.300"),
        ("mail.example.test", "name [ttl] type value"),
    ):
        assert errno_of(lambda text=text: resolver.write("records", f"{text}\n")) == "EINVAL"
        assert word in resolver.error and resolver.read("records") == kept
    assert ask(here, resolver, "mail.example.test") == "0 ['10.0.0.2'] 1"
    # It has neither been started anew nor lost what it knew.
    asked = upstream.number("queries")
    assert ask(here, resolver, "a.far.example") == ANSWER and upstream.number("queries") == asked
    resolver.write("forwarders", "127.0.0.1@1\n")
    assert ask(here, resolver, "a.far.example") == ANSWER
    assert ask(here, resolver, "c.far.example").startswith("2 ")  # SERVFAIL: nobody is there to ask
    resolver.write("forwarders", f"{upstream.address}@53\n")
    resolver.write("flush", ".\n")
    assert ask(here, resolver, "c.far.example") == ANSWER
    assert errno_of(lambda: resolver.write("forwarders", "10.0.0.300\n")) == "EINVAL"


def test_a_reload_under_load_fails_no_query(upstream: Vnf, resolver: Vnf, client) -> None:
    load = dns_load.Load(client(resolver), resolver.address, "www.example.test", "far.example", FAR)
    wait_until(lambda: resolver.number("queries") > 100)
    config = resolver.read("config/nf_conf")
    resolver.write("config/nf_conf", f"{config}    cache-min-ttl: 5\n")
    for _ in range(3):
        resolver.act("reload")
    for bad, word in (("port: 99999", "99999 is not a port"), ("no-such-word: 5", "no-such-word")):
        resolver.write("config/nf_conf", f"{config}    {bad}\n")
        assert errno_of(lambda: resolver.act("reload")) == "EINVAL"
        assert word in resolver.error
    assert "nf_conf:" in resolver.error and "no-such-word" in resolver.error
    seen = resolver.number("queries")
    wait_until(lambda: resolver.number("queries") > seen + 100)
    done = load.end()
    assert done.failed == [] and done.requests >= 1000


def test_one_that_is_killed_is_seen_and_comes_back_with_its_records(
    nfio: Mount, resolver: Vnf, client
) -> None:
    here: Client = client(resolver)
    with (resolver.path / "records").open("a") as records:
        records.write("mail.example.test A 10.0.0.1\n")
    pid = nfio.engine.pid(nfio.guest_of(resolver))
    os.kill(pid, signal.SIGSTOP)
    # One that does not answer keeps its own files alone waiting.
    assert errno_of(lambda: resolver.read("queries")) == "ETIMEDOUT"
    assert resolver.state == "RUNNING" and resolver.number("stats/rx_bytes") > 0
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: resolver.state == "ERROR", 2, "it is seen")
    assert "signal 9" in resolver.error
    assert nfio.events(resolver)[-1]["to"] == "ERROR"
    assert errno_of(lambda: resolver.read("queries")) == "ENETDOWN"
    assert errno_of(lambda: resolver.write("flush", "all\n")) == "ENETDOWN"
    resolver.write("records", "# none\n")
    resolver.write("state", "RUNNING\n")
    assert ask(here, resolver, "a.far.example") == ANSWER
    assert ask(here, resolver, "mail.example.test") == NO_SUCH_NAME
    assert counters(resolver) == (2, 1, 1)
