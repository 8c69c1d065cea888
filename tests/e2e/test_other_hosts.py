"""VNFs on other hosts: engines that are reached by TLS and by ssh."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from docker_view import DockerView
from engine import PrivateEngine, wait_until
from mount import Mount, Vnf, errno_of, is_gone, seconds
from probes import need
from remote import SSH_HOST, TLS_HOST, TLS_PORT, FarAway, Sshd, make_certificates

pytestmark = pytest.mark.docker

#: longer than connecting to a silent host may take; far shorter than the kernel's own two minutes
IN_TIME_S = 15
GONE = ("EHOSTUNREACH", "ETIMEDOUT")
#: half a second, and what the way there takes: it may have to be opened anew
SEEN_S = 3

DROP_PING = """\
table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		icmp type echo-request drop
	}
}
"""


@pytest.fixture(scope="module")
def remote(images: None) -> Iterator[PrivateEngine]:
    """The engine of another host, behind TLS; ssh leads to it too."""
    need("docker", shutil.which("containerd") is not None, "containerd is not installed")
    need("docker", shutil.which("openssl") is not None, "openssl is not installed")
    with tempfile.TemporaryDirectory(prefix="nfio-") as place:
        certificates = Path(place) / "certs"
        make_certificates(certificates)
        yield from engine_behind_tls(Path(place) / "engine", certificates)


def engine_behind_tls(directory: Path, certificates: Path) -> Iterator[PrivateEngine]:
    engine = PrivateEngine(
        directory,
        options=(
            "--tlsverify",
            f"--tlscacert={certificates}/ca.pem",
            f"--tlscert={certificates}/server.pem",
            f"--tlskey={certificates}/server-key.pem",
            f"--host=tcp://{TLS_HOST}:{TLS_PORT}",
        ),
    )
    try:
        engine.start()
        for image in ("nfio/firewall", "nfio/web"):
            engine.load(image)
        yield engine
    finally:
        engine.remove()


@pytest.fixture
def sshd(remote: PrivateEngine, directory: Path) -> Iterator[Sshd]:
    need("docker", shutil.which("sshd") is not None, "openssh-server is not installed")
    need("docker", shutil.which("ssh") is not None, "openssh-client is not installed")
    made = Sshd(directory / "ssh", remote)
    made.start()
    yield made
    made.stop()


class RemoteMount(Mount):
    """nfio on this machine's engine, which reaches another host too.

    Args:
        host: the address of the other host.
        remote: its engine.
    """

    def __init__(self, directory: Path, host: str, remote: PrivateEngine, variables: dict[str, str]) -> None:
        super().__init__(directory, DockerView(), variables=variables)
        self.host = host
        self.remote = remote

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def remote_guests(self) -> list[str]:
        """Ids of all containers of this root on the other host."""
        label = f"label=io.nfio.root={self.root_id}"
        return self.remote.docker("ps", "-aq", "--no-trunc", "--filter", label).split()

    def close(self) -> None:
        left = self.remote_guests()
        if left:
            self.remote.docker("rm", "-f", *left)
        super().close()

    def place(self, kind: str, name: str, host: str = "") -> Vnf:
        """Define a VNF on another host."""
        vnf = self.make(kind, name)
        vnf.write("machine/ip", f"{host or self.host}\n")
        return vnf


def by_tls(directory: Path, remote: PrivateEngine, certificates: Path) -> RemoteMount:
    variables = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
    return RemoteMount(directory, TLS_HOST, remote, variables)


def by_ssh(directory: Path, remote: PrivateEngine, sshd: Sshd) -> RemoteMount:
    return RemoteMount(directory, SSH_HOST, remote, sshd.variables)


@pytest.fixture(params=["tls", "ssh"])
def nfio(request: pytest.FixtureRequest, remote: PrivateEngine, directory: Path) -> Iterator[RemoteMount]:
    if request.param == "tls":
        with by_tls(directory, remote, remote.directory.parent / "certs") as mount:
            yield mount
    else:
        with by_ssh(directory, remote, request.getfixturevalue("sshd")) as mount:
            yield mount


@pytest.fixture
def silent_host() -> Iterator[str]:
    """An address whose packets get lost."""
    with FarAway() as place:
        place.cut()
        yield place.address


@pytest.fixture
def far_away(remote: PrivateEngine) -> Iterator[FarAway]:
    with FarAway() as place:
        place.relay(remote)
        yield place


def ping(address: str, count: int = 10) -> str:
    """Ping a VNF; the bridges of all engines of these tests are this machine's."""
    return subprocess.run(
        ["ping", "-q", "-c", str(count), "-i", "0.01", "-W", "1", address],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_the_life_of_a_vnf_on_another_host(remote: PrivateEngine, nfio: RemoteMount) -> None:
    firewall = nfio.place("firewall", "fw0")
    firewall.write("config/nf_conf", DROP_PING)
    firewall.act("deploy")
    assert (firewall.state, firewall.status) == ("CONFIGURED", "created")
    (container,) = nfio.remote_guests()
    assert nfio.guests() == []
    for elsewhere in ("\n", "localhost\n", "192.0.2.1\n"):
        assert errno_of(lambda where=elsewhere: firewall.write("machine/ip", where)) == "EBUSY"
    assert firewall.value("machine/ip") == nfio.host

    firewall.act("start")
    assert (firewall.state, firewall.status, firewall.error) == ("RUNNING", "running", "")
    address = firewall.address
    assert address.startswith("10.213.")
    # The configuration has reached it, and what is changed reaches it on reload.
    assert "100% packet loss" in ping(address, 3)
    assert "icmp type echo-request drop" in firewall.read("rules")
    firewall.write("config/nf_conf", DROP_PING.replace("drop", "accept"))
    firewall.act("reload")
    assert ", 0% packet loss" in ping(address)
    firewall.write("config/nf_conf", "nonsense\n")
    assert errno_of(lambda: firewall.act("reload")) == "EINVAL"
    assert "syntax error" in firewall.error
    assert ", 0% packet loss" in ping(address)

    packets = firewall.number("stats/rx_packets")
    bytes_before = firewall.number("stats/rx_bytes")
    ping(address, 100)
    wait_until(lambda: firewall.number("stats/rx_packets") >= packets + 100, 5, "all packets are counted")
    assert firewall.number("stats/rx_bytes") >= bytes_before + 100 * 98
    assert firewall.number("stats/tx_packets") >= 100
    assert firewall.number("stats/pkt_drops") >= 0
    assert firewall.number("stats/memory_bytes") > 0
    assert firewall.number("stats/cpu_seconds") >= 0
    metrics = (nfio.path / "metrics" / "nfio.prom").read_text()
    assert 'nfio_vnf_up{type="firewall",instance="fw0"} 1' in metrics
    assert "nfio_scrape_errors 0" in metrics

    for _ in range(5):
        with (firewall.path / "command").open("r+b", buffering=0) as file:
            file.write(b"cat /proc/sys/kernel/hostname; echo done\n")
            assert file.read(100) == f"{container[:12]}\ndone\n".encode()
    assert errno_of(lambda: firewall.write("command", "exit 7\n")) == "EIO"
    assert "exit status 7" in firewall.error
    assert "nfio: ready" in firewall.read("log")
    firewall.write("machine/vm.memory", "64M\n")
    assert remote.docker("inspect", "-f", "{{.HostConfig.Memory}}", container) == str(64 << 20)

    firewall.act("pause")
    assert (firewall.state, firewall.status) == ("PAUSED", "paused")
    firewall.act("resume")
    assert ", 0% packet loss" in ping(address)
    firewall.write("config/nf_conf", DROP_PING)
    firewall.act("restart")
    assert "100% packet loss" in ping(firewall.address, 3)
    firewall.act("stop")
    assert (firewall.state, firewall.status) == ("CONFIGURED", "exited")
    assert errno_of(lambda: firewall.read("stats/rx_bytes")) == "ENETDOWN"
    firewall.act("start")
    firewall.act("destroy")
    assert firewall.state == "DEFINED" and nfio.remote_guests() == []
    firewall.write("machine/ip", "\n")
    firewall.act("activate")
    assert len(nfio.guests()) == 1


def test_what_happens_on_another_host_is_seen(remote: PrivateEngine, nfio: RemoteMount) -> None:
    web = nfio.place("web", "www")
    web.act("activate")
    (container,) = nfio.remote_guests()
    for command, state in (("pause", "PAUSED"), ("unpause", "RUNNING"), ("kill", "ERROR")):
        remote.docker(command, container)
        wait_until(lambda state=state: web.state == state, SEEN_S, f"{command} is seen")
    assert "signal 9" in web.error
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    web.write("state", "RUNNING\n")
    assert web.state == "RUNNING"


def test_a_remount_adopts_vnfs_of_other_hosts_and_an_rmdir_removes_them(
    remote: PrivateEngine, nfio: RemoteMount
) -> None:
    web = nfio.place("web", "www")
    web.act("activate")
    before = nfio.remote_guests()
    for leave in (nfio.umount, nfio.kill):
        leave()
        nfio.mount()
        assert web.state == "RUNNING"
        assert nfio.remote_guests() == before
        assert web.number("stats/rx_bytes") > 0
    web.act("stop")
    web.path.rmdir()
    assert nfio.remote_guests() == []


def test_the_engine_of_another_host_goes_and_comes_back(remote: PrivateEngine, nfio: RemoteMount) -> None:
    away, here = nfio.place("firewall", "away"), nfio.make("firewall", "here")
    for vnf in (away, here):
        vnf.act("activate")
    remote.stop()
    try:
        wait_until(lambda: errno_of(lambda: away.read("state")) == "EHOSTUNREACH", 15, "it is noticed")
        assert errno_of(lambda: away.read("stats/rx_bytes")) == "EHOSTUNREACH"
        assert errno_of(lambda: away.act("stop")) == "EHOSTUNREACH"
        assert here.state == "RUNNING" and here.number("stats/rx_bytes") >= 0
        here.act("stop")
    finally:
        remote.start()
    wait_until(lambda: errno_of(lambda: away.read("state")) == "", 15, "it is back")
    assert away.state == "RUNNING" and away.number("stats/rx_bytes") >= 0
    away.act("stop")


def test_a_silent_host_is_unreachable_in_time_and_can_be_corrected(
    nfio: RemoteMount, silent_host: str
) -> None:
    firewall = nfio.place("firewall", "fw0", silent_host)
    number: list[str] = []
    took = seconds(lambda: number.append(errno_of(lambda: firewall.act("activate"))))
    assert number == ["EHOSTUNREACH"]
    assert took < IN_TIME_S
    assert silent_host in firewall.error
    # Nothing of it can be there, so nothing waits for that host.
    assert firewall.state == "DEFINED"
    assert seconds(lambda: firewall.write("machine/ip", f"{nfio.host}\n")) < 1
    firewall.act("activate")
    assert (firewall.state, firewall.error) == ("RUNNING", "")


def test_ssh_tells_in_its_own_words_why_it_does_not_let_one_in(
    sshd: Sshd, remote: PrivateEngine, directory: Path
) -> None:
    known_hosts = sshd.directory / "known_hosts"
    right = known_hosts.read_text()
    other_key = (sshd.directory / "user.pub").read_text().split()[1]
    with by_ssh(directory, remote, sshd) as nfio:
        firewall = nfio.place("firewall", "fw0")

        def refusal() -> str:
            assert errno_of(lambda: firewall.act("activate")) == "EHOSTUNREACH"
            return firewall.error

        sshd.use_key("stranger")
        assert "Permission denied" in refusal()
        sshd.use_key("user")
        known_hosts.write_text(right.replace(right.split()[2], other_key))
        assert "Host key verification failed" in refusal()
        known_hosts.write_text(right)
        sshd.stop()
        assert "Connection refused" in refusal()
        sshd.start()
        firewall.act("activate")
        assert (firewall.state, firewall.error) == ("RUNNING", "")


def ssh_clients(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid), "ssh"], capture_output=True, text=True, check=False)
    return [int(child) for child in found.stdout.split()]


def test_an_unmount_leaves_no_ssh_behind(sshd: Sshd, remote: PrivateEngine, directory: Path) -> None:
    with by_ssh(directory, remote, sshd) as nfio:
        firewall = nfio.place("firewall", "fw0")
        firewall.act("deploy")
        children = ssh_clients(nfio.pid)
        assert children
    wait_until(lambda: all(is_gone(child) for child in children), 10, "the ssh clients end")


def test_a_certificate_of_another_authority_is_refused(remote: PrivateEngine, directory: Path) -> None:
    make_certificates(directory / "others")
    with by_tls(directory, remote, directory / "others") as nfio:
        firewall = nfio.place("firewall", "fw0")
        assert errno_of(lambda: firewall.act("activate")) == "EHOSTUNREACH"
        assert "certificate" in firewall.error.lower()


@pytest.mark.parametrize("outage", ["short", "long"])
def test_a_cut_cable_is_noticed_and_its_end_too(
    remote: PrivateEngine, directory: Path, far_away: FarAway, outage: str
) -> None:
    with RemoteMount(directory, far_away.address, remote, far_away.variables) as nfio:
        web = nfio.place("web", "www")
        web.act("activate")
        (container,) = nfio.remote_guests()
        far_away.cut()
        wait_until(lambda: errno_of(lambda: web.read("state")) in GONE, IN_TIME_S, "it is noticed")
        assert errno_of(lambda: web.act("stop")) in GONE
        if outage == "long":
            # Until the connections are given up, and nothing but the cable can bring them back.
            wait_until(lambda: not far_away.connections(), 30, "connections are given up")
        far_away.mend()
        wait_until(lambda: errno_of(lambda: web.read("state")) == "", 20, "it is seen again")
        assert web.state == "RUNNING"
        remote.docker("kill", container)
        wait_until(lambda: web.state == "ERROR", 20, "events are followed")
