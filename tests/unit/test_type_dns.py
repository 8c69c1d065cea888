"""What is a record and a forwarder, what unbound is told of them, and what it says of itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from hypervisor.hypervisor_base import CommandResult
from middleboxes import Guest, Settings, dns
from nfio.errors import ConfigurationRejected, HypervisorError


@pytest.mark.parametrize(
    ("line", "listed"),
    [
        ("www.example.test A 10.0.0.1", "www.example.test.\t3600\tIN\tA\t10.0.0.1"),
        ("WWW.Example.test. 60 in a 10.0.0.1", "www.example.test.\t60\tIN\tA\t10.0.0.1"),
        ("x AAAA 2001:DB8:0::1", "x.\t3600\tIN\tAAAA\t2001:db8::1"),
        ('_a._tcp.x 5 IN TXT "a b" "c"', '_a._tcp.x.\t5\tIN\tTXT\t"a b" "c"'),
        ("*.x MX 10 mail.x.", "*.x.\t3600\tIN\tMX\t10 mail.x."),
    ],
)
def test_a_record_is_what_unbound_lists(line: str, listed: str) -> None:
    assert dns.record(line) == (listed.partition("\t")[0], listed)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "www",
        "www A",
        "www 60 A",
        "a..b A 10.0.0.1",
        "x A 10.0.0.300",
        "x A 10.0.0.1 10.0.0.2",
        "x AAAA 1.2.3.4",
        "x TXT it's",
        f"{'a' * 64} A 10.0.0.1",
        "x -1 A 10.0.0.1",
        "x TXT " + 10 * f'"{"ä" * 100}" ',  # 2,000 characters are more bytes than unbound takes at once
    ],
)
def test_what_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        dns.record(line)


@limits(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" \t'\"#"), max_size=60))
def test_no_text_ends_the_line_or_the_quotes_that_it_is_put_in(text: str) -> None:
    try:
        (rendered,) = dns.render(Settings({"records": text, "forwarders": ""})).values()
    except ValueError:
        return
    for line in rendered.splitlines():
        if "local-data" in line:
            assert line.startswith("    local-data: '") and line.count("'") == 2 and line.endswith("'")


@pytest.mark.parametrize(
    "line", ["10.0.0.300", "dns.test", "10.0.0.1@", "10.0.0.1@0", "10.0.0.1@65536", "@53", "::1%a server:"]
)
def test_a_forwarder_is_an_address_with_or_without_a_port(line: str) -> None:
    assert dns.forwarder("10.0.0.1") == "10.0.0.1" and dns.forwarder("2001:DB8::1@54") == "2001:db8::1@54"
    with pytest.raises(ValueError):
        dns.forwarder(line)


def test_the_users_configuration_comes_first() -> None:
    settings = Settings({"records": "# none\n", "forwarders": "10.0.0.1\n\n10.0.0.2@54"})
    (text,) = dns.render(settings).values()
    assert text.startswith('include: "/etc/nfio/nf_conf"\n') and "local-data" not in text
    assert text.endswith('name: "."\n    forward-addr: 10.0.0.1\n    forward-addr: 10.0.0.2@54\n')


class Unbound(Guest):
    """A guest whose unbound has some local data, and does what it is told."""

    def __init__(self, *data: str) -> None:
        self.data = data
        self.told: list[str] = []

    def execute(self, command: list[str]) -> CommandResult:
        return CommandResult(0, b"")

    def exchange(self, where: int | str, request: bytes, end: bytes = b"") -> bytes:
        command, _, rest = request.decode().partition("\n")
        if "list" in command:
            return "\n\n".join([*self.data, ""]).encode()
        self.told.append(f"{command.removeprefix('UBCT1 ')}: {rest.removesuffix(chr(4) + chr(10)).strip()}")
        return b"error no\n" if "bad" in rest else b"ok\n"


A1, A2 = "a.\t3600\tIN\tA\t10.0.0.1", "a.\t3600\tIN\tA\t10.0.0.2"
B1 = "b.\t3600\tIN\tA\t10.0.0.1"


@pytest.mark.parametrize(
    ("there", "records", "told"),
    [
        ((), "", []),
        ((A1,), "A A 10.0.0.1", []),
        ((A1,), "a A 10.0.0.1\nb A 10.0.0.1", [f"local_datas: {B1}"]),
        ((A1, A2, B1), "b A 10.0.0.1", ["local_datas_remove: a."]),
        ((A1, A2, B1), "a A 10.0.0.2\nb A 10.0.0.1", ["local_datas_remove: a.", f"local_datas: {A2}"]),
    ],
)
def test_only_names_whose_records_change_are_touched(
    there: tuple[str, ...], records: str, told: list[str]
) -> None:
    guest = Unbound(*there)
    dns.apply_records(guest, Settings({"records": records}))
    in_view = [f"view_{line.partition(':')[0]} nfio:{line.partition(':')[2]}" for line in told]
    assert guest.told == told + in_view


def test_what_unbound_refuses_is_said_in_its_words() -> None:
    with pytest.raises(ConfigurationRejected, match="unbound: no"):
        dns.apply_records(Unbound(), Settings({"records": "x TXT bad"}))


def test_statistics_are_sums_of_all_threads() -> None:
    text = "thread0.num.queries=1\ntotal.num.queries=3\ntotal.num.cachehits=2\ntotal.tcpusage=0\n"
    assert dns.parse_statistics(text) == {"queries": 3, "cachehits": 2}
    with pytest.raises(HypervisorError):
        dns.parse_statistics("")
