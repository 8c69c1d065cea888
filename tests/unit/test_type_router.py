"""The pure parts of the router: what it writes for FRR, what it reads of FRR's answers."""

from __future__ import annotations

import pytest

from middleboxes import Guest, Settings, router
from nfio.errors import HypervisorError


def test_static_routes_become_staticds_commands() -> None:
    text = "# two\n192.0.2.0/24 via 10.0.0.9\n\n0.0.0.0/0  via 10.0.0.1"
    assert router.render(Settings({"static_routes": text})) == {
        router.STATIC_FILE: "ip route 192.0.2.0/24 10.0.0.9\nip route 0.0.0.0/0 10.0.0.1\n"
    }
    assert router.render(Settings({"static_routes": ""})) == {router.STATIC_FILE: ""}


@pytest.mark.parametrize(
    "line",
    [
        "192.0.2.0/24",
        "192.0.2.0/24 10.0.0.1",
        "192.0.2.1/24 via 10.0.0.1",
        "192.0.2.0/24 via x",
        "::/0 via ::1",
    ],
)
def test_what_is_no_route_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        router.check_routes(f"10.0.0.0/8 via 10.0.0.1\n{line}")


def test_neighbors_are_lines() -> None:
    ospf = {"neighbors": {"1.1.1.1": [{"address": "10.0.0.2", "state": "Full/DR", "upTimeInMsec": 61999}]}}
    assert list(router.ospf_neighbors(ospf)) == ["ospf 10.0.0.2 1.1.1.1 Full 61"]
    assert list(router.ospf_neighbors({})) == list(router.bgp_neighbors({})) == []
    peer = {"remoteAs": 65002, "state": "Established", "peerUptimeMsec": 5000}
    down = {"remoteAs": 65003, "state": "Active", "peerUptimeMsec": 5000}
    summary = {
        "ipv4Unicast": {"peers": {"10.0.0.2": peer, "10.0.0.3": down}},
        "l2VpnEvpn": {"peers": {"10.0.0.2": peer}},
    }
    assert list(router.bgp_neighbors(summary)) == [
        "bgp 10.0.0.2 65002 Established 5",
        "bgp 10.0.0.3 65003 Active 0",
    ]


class _Daemon(Guest):
    def exchange(self, where: int | str, request: bytes, end: bytes = b"") -> bytes:
        assert (where, request) == ("/var/run/frr/ospfd.vty", b"show x json\0exit\0")
        return self.address.encode()


@pytest.mark.parametrize(("answer", "meant"), [('{"a": 1}\n\0\0\0\0\0\0\0\0', {"a": 1}), ("\0\0\0\1", {})])
def test_an_answer_ends_with_nul(answer: str, meant: dict[str, int]) -> None:
    assert router.ask(_Daemon("router/a", answer, None, (), lambda _: None), "ospfd", "show x json") == meant


def test_words_that_are_no_answer_are_shown() -> None:
    with pytest.raises(HypervisorError, match="ospfd: % Unknown command"):
        router.ask(
            _Daemon("router/a", "% Unknown command\n\0\0\0\2", None, (), lambda _: None),
            "ospfd",
            "show x json",
        )
