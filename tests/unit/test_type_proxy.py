"""The proxy's rules and what squid's cache manager says."""

from __future__ import annotations

import pytest

from middleboxes import Settings
from middleboxes.proxy import MAIN_FILE, check_acl, parse_hit_ratio, render
from nfio.errors import HypervisorError


def test_rules_come_in_their_order_between_nfios_port_and_the_users_own() -> None:
    text = render(
        Settings(
            {
                "acl": "# ours\ndeny domain .a.test,b.test method CONNECT\n\nallow src 10.0.0.0/8,fd00::/8 port 1-99\nallow all"
            }
        )
    )[MAIN_FILE]
    _, nfio, rules = text.partition("http_access deny nfio_purge\n")
    assert nfio
    assert [line for line in rules.splitlines() if line.startswith(("acl", "http_access", "include"))] == [
        "acl nfio_1_1 dstdomain -n .a.test b.test",
        "acl nfio_1_2 method CONNECT",
        "http_access deny nfio_1_1 nfio_1_2",
        "acl nfio_2_1 src 10.0.0.0/8 fd00::/8",
        "acl nfio_2_2 port 1-99",
        "http_access allow nfio_2_1 nfio_2_2",
        "http_access allow all",
        "include /etc/nfio/nf_conf",
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "permit all",
        "deny",
        "deny src",
        "deny all src 10.0.0.1",
        "deny src a.test",
        "deny src 10.0.0",
        "deny src 10.0.0.1/a",
        "deny domain a..test",
        'deny domain "/etc/passwd"',
        "deny domain --",
        "deny domain ä.test",
        "deny port 80 all",
        "deny port x",
        "deny method get",
        "deny path /x",
    ],
)
def test_what_is_no_rule_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match=bad.split()[0]):
        check_acl(f"allow all\n{bad}\n")


def test_no_line_is_so_long_that_squid_breaks_it() -> None:
    names = [f"{number:04}.{'x' * 63}.test" for number in range(500)]
    text = render(Settings({"acl": f"deny domain {','.join(names)}"}))[MAIN_FILE]
    lines = [line.split() for line in text.splitlines() if line.startswith("acl nfio_1_1 ")]
    assert [name for line in lines for name in line[4:]] == names
    assert max(map(len, text.splitlines())) < 4096


def test_the_hit_ratio_is_one_of_requests() -> None:
    page = "sample_time = 1.5\nclient_http.requests = {}\nclient_http.hits = {}\nclient_http.errors = 0\n"
    assert parse_hit_ratio(page.format(3, 1)) == "0.3333\n"
    assert parse_hit_ratio(page.format(0, 0)) == "0.0000\n"
    with pytest.raises(HypervisorError):
        parse_hit_ratio("<html>denied</html>")
