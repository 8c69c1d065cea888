"""The DHCP server's pool and hosts as dnsmasq reads them, and its leases while they are written."""

from __future__ import annotations

import pytest

from middleboxes import Guest, Settings
from middleboxes.dhcp import HOSTS_FILE, MAIN_FILE, check_hosts, check_pool, leases, render


def test_pool_and_hosts_as_dnsmasq_reads_them() -> None:
    files = render(
        Settings(
            {
                "pool": "10.0.0.10 10.0.0.19\n# more\n10.0.0.30 10.0.0.39 2h\n10.0.1.1 10.0.1.1 infinite",
                "hosts": "52:54:00:AB:00:01 10.0.0.7 printer\n52:54:00:ab:00:02  10.0.0.8",
            }
        )
    )
    ranges = [line for line in files[MAIN_FILE].splitlines() if line.startswith("dhcp-range")]
    assert ranges == [
        "dhcp-range=10.0.0.10,10.0.0.19",
        "dhcp-range=10.0.0.30,10.0.0.39,2h",
        "dhcp-range=10.0.1.1,10.0.1.1,infinite",
    ]
    assert files[MAIN_FILE].endswith("\nconf-file=/etc/nfio/nf_conf\n")
    assert files[HOSTS_FILE] == "52:54:00:ab:00:01,10.0.0.7,printer\n52:54:00:ab:00:02,10.0.0.8\n"
    assert render(Settings({"pool": "", "hosts": ""}))[HOSTS_FILE] == ""


@pytest.mark.parametrize(
    "bad",
    [
        "10.0.0.1",
        "10.0.0.9 10.0.0.1",
        "10.0.0.1 10.0.0.300",
        "::1 ::9",
        "10.0.0.1 10.0.0.9 119",
        "10.0.0.1 10.0.0.9 1m",
        "10.0.0.1 10.0.0.9 2y",
        "10.0.0.1 10.0.0.9 1h set:x",
        "10.0.0.1,static 10.0.0.9",
    ],
)
def test_what_is_no_range_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match=bad.split()[0]):
        check_pool(f"10.0.0.1 10.0.0.9 120\n{bad}\n")


@pytest.mark.parametrize(
    "bad",
    [
        "52:54:00:00:00:02",
        "52:54:00:00:00 10.0.0.2",
        "52:54:00:00:00:02 10.0.0",
        "52:54:00:00:00:02 10.0.0.2 a_b",
        "52:54:00:00:00:02 10.0.0.2 a,set:x",
        "52:54:00:00:00:02 10.0.0.2 ignore",
        "52:54:00:00:00:02 10.0.0.2 Infinite",
        "52:54:00:00:00:02 10.0.0.2 7d",
        "52:54:00:00:00:02 10.0.0.2 600",
        "52:54:00:00:00:0A 10.0.0.2",
        "52:54:00:00:00:02 10.0.0.1",
    ],
)
def test_what_is_no_host_or_there_already_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match=bad.split()[0]):
        check_hosts(f"52:54:00:00:00:0a 10.0.0.1\n{bad}\n")


def test_leases_that_are_just_written_are_not_shown_in_part() -> None:
    whole = "1 52:54:00:00:00:01 10.0.0.1 * *\n2 52:54:00:00:00:02 10.0.0.2 * *\n"
    seen = iter(["", whole[:20], whole, whole])

    class Writing(Guest):
        def read_file(self, path: str, limit: int = 0) -> str:
            return next(seen)

    assert leases(Writing("dhcp/d", "", None, (), lambda command: None)) == whole  # type: ignore[arg-type, return-value]
