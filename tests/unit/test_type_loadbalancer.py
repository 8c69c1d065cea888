"""What is an address, a weight and a state of a load balancer's server, and what haproxy is told of them."""

from __future__ import annotations

import pytest

from middleboxes import Guest, Settings, loadbalancer

STAT = """\
# pxname,svname,scur,stot,bin,bout,status,weight,req_tot,
www,FRONTEND,1,20,300,4000,OPEN,,20,
tcp,FRONTEND,0,2,30,40,OPEN,,,
nfio,a,1,10,150,2000,UP 1/3,100,,
nfio,b,0,10,150,2000,UP,0,,
"""


class Haproxy(Guest):
    """A guest whose haproxy knows STAT."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def exchange(self, where: int | str, request: bytes, end: bytes = b"") -> bytes:
        self.asked.append(request.decode())
        kind = {"1": "FRONTEND", "4": "nfio"}[request.split()[3].decode()]
        head, *lines = STAT.splitlines()
        return "\n".join([head, *(line for line in lines if kind in line), "", ""]).encode()


def settings(**servers: tuple[str, str, str]) -> Settings:
    values = {}
    for name, parts in servers.items():
        for file, value in zip(("address", "weight", "state"), parts, strict=True):
            values[f"backends/{name}/{file}"] = value
    return Settings(values, {"backends": tuple(servers)})


@pytest.mark.parametrize(
    ("text", "parts"),
    [("192.0.2.1:80", ("192.0.2.1", 80)), ("[2001:DB8::1]:65535", ("2001:db8::1", 65535))],
)
def test_an_endpoint_is_an_address_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert loadbalancer.endpoint(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:+1",
        "2001:db8::1:80",
        "[192.0.2.1]:80",
        "www:80",
        "192.0.2.1:80 check",
        "[::1%;shutdown frontend www;]:80",
        "192.0.2.1:٣",
        ":80",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address and a port"):
        loadbalancer.check_address(text)


def test_a_server_that_has_no_address_yet_is_not_configured() -> None:
    loadbalancer.check_address("")
    (text,) = loadbalancer.render(settings(a=("", "100", "ready"))).values()
    assert "server" not in text


def test_a_server_begins_in_the_state_that_its_files_say() -> None:
    (text,) = loadbalancer.render(
        settings(
            a=("192.0.2.1:80", "7", "ready"),
            b=("[2001:db8::1]:80", "7", "drain"),
            c=("192.0.2.3:80", "7", "maint"),
        )
    ).values()
    assert [line.strip() for line in text.splitlines() if "server " in line] == [
        "server a 192.0.2.1:80 weight 7 check",
        "server b [2001:db8::1]:80 weight 0 check",
        "server c 192.0.2.3:80 weight 7 check disabled",
    ]


@pytest.mark.parametrize("text", ["", "-1", "257", "1.5", "٣", "ten"])
def test_a_weight_is_a_number_up_to_256(text: str) -> None:
    loadbalancer.check_weight("256")
    with pytest.raises(ValueError, match="weight"):
        loadbalancer.check_weight(text)


def test_what_haproxy_says_is_said_in_the_files() -> None:
    guest = Haproxy()
    files = {path: file for path, file in loadbalancer.MIDDLEBOX.all_files() if hasattr(file, "read")}
    assert files["frontends"].read(guest) == (
        "name status active_sessions sessions requests rx_bytes tx_bytes\n"
        "www OPEN 1 20 20 300 4000\n"
        "tcp OPEN 0 2 0 30 40\n"
    )
    said = {path: [file.read(guest, name) for name in "abc"] for path, file in files.items() if "*" in path}
    assert said == {
        "backends/*/status": ["UP\n", "DRAIN\n", "unset\n"],
        "backends/*/active_sessions": [1, 0, 0],
        "backends/*/sessions": [10, 10, 0],
        "backends/*/rx_bytes": [150, 150, 0],
        "backends/*/tx_bytes": [2000, 2000, 0],
    }
