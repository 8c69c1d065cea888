"""What nat takes, renders, and makes of what the kernel tracks."""

from __future__ import annotations

import pytest

from middleboxes import Settings, nat
from middleboxes.host.connections import Way, parse

TCP = (
    "tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=10.0.0.9 sport=41000 dport=80 "
    "src=10.0.0.9 dst=10.0.0.2 sport=80 dport=41007 [ASSURED] mark=0 use=1"
)
FORWARDED = (
    "udp      17 29 src=10.0.0.5 dst=10.0.0.2 sport=5000 dport=53 [UNREPLIED] "
    "src=10.0.0.9 dst=10.0.0.2 sport=5353 dport=5000 mark=0 use=1"
)
PING = (
    "icmp     1 29 src=10.0.0.5 dst=10.0.0.9 type=8 code=0 id=7 "
    "src=10.0.0.9 dst=10.0.0.2 type=0 code=0 id=7 mark=0 use=1"
)
PLAIN = TCP.replace("dst=10.0.0.2 ", "dst=10.0.0.5 ").replace("41007", "41000")
SIX = "tcp 6 9 SYN_SENT src=2001:db8::1 dst=2001:db8::2 sport=1 dport=2 src=2001:db8::2 dst=2001:db8::1 sport=2 dport=1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (TCP, "masquerade tcp 10.0.0.5:41000 10.0.0.2:41007 10.0.0.9:80\n"),
        (FORWARDED, "forward udp 10.0.0.9:5353 10.0.0.2:53 10.0.0.5:5000\n"),
        (PING, "masquerade icmp 10.0.0.5:7 10.0.0.2:7 10.0.0.9:7\n"),
        (PLAIN, None),
        (SIX, None),
        ("conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.", None),
        ("", None),
    ],
)
def test_a_binding_is_a_connection_whose_ways_differ(line: str, said: str | None) -> None:
    assert nat.binding(line) == said


def test_both_ways_of_a_connection_are_parsed() -> None:
    there, back = Way("[2001:db8::1]:1", "[2001:db8::2]:2"), Way("[2001:db8::2]:2", "[2001:db8::1]:1")
    assert parse(SIX) == ("tcp", there, back)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tcp 80 10.0.0.5", "proto port address port"),
        ("tcp 80 10.0.0.5 80 81", "proto port address port"),
        ("sctp 80 10.0.0.5 80", "tcp or udp"),
        ("tcp 0 10.0.0.5 80", "'0' is no port"),
        ("tcp 80 10.0.0.5 65536", "'65536' is no port"),
        ("tcp -1 10.0.0.5 80", "'-1' is no port"),
        ("tcp 80 ::1 80", "no IPv4 address"),
        ("tcp 80 127.0.0.1 80", "nothing can be forwarded"),
        ("tcp 80 10.0.0.5 80\nudp 80 10.0.0.5 80\ntcp 080 10.0.0.6 80", "tcp 80 is forwarded already"),
    ],
)
def test_what_is_no_forward_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nat.check_forwards(text)


def test_forwards_and_masquerading_are_rules() -> None:
    def rules(forwards: str, masquerade: str) -> str:
        values = {"forwards": forwards, "masquerade": masquerade}
        nat.check_forwards(forwards)
        (text,) = nat.render(Settings(values)).values()
        assert text.count("{") == text.count("}")
        return text

    text = rules("# web\ntcp 8080 10.0.0.5 80\n\nudp 53 10.0.0.6 5353", "on")
    assert text.startswith('flush ruleset\ninclude "/etc/nfio/nf_conf"\n')
    assert "fib daddr type local tcp dport 8080 dnat to 10.0.0.5:80\n" in text
    assert "fib daddr type local udp dport 53 dnat to 10.0.0.6:5353\n" in text
    assert " masquerade\n" in text and " masquerade\n" not in rules("", "off")
