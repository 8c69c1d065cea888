"""VNFs on other hosts: engines that are reached by TLS and by ssh."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import need
from engine import PrivateEngine, wait_until
from mount import Mount, Vnf, errno_of, is_gone, seconds

pytestmark = pytest.mark.docker

TLS_HOST = "127.0.0.2"
TLS_PORT = 2376
SSH_HOST = "127.0.0.3"
SSH_PORT = 2222
SILENT_LINK = "nfiotestsilent"
SILENT_NETWORK = "10.213.255"
#: longer than connecting to a silent host may take; far shorter than the kernel's own two minutes
IN_TIME_S = 15

DROP_PING = """\
table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		icmp type echo-request drop
	}
}
"""


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def make_certificates(directory: Path) -> None:
    """An authority, and certificates of a server and a client that it signed, as dockerd wants them."""
    directory.mkdir()
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority = ("-keyout", str(directory / "ca-key.pem"), "-out", str(directory / "ca.pem"))
    uses = ("-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *key, *authority, "-days", "2", "-subj", "/CN=nfio test authority", *uses)
    for name, extensions in (
        ("server", f"subjectAltName=IP:{TLS_HOST}\nextendedKeyUsage=serverAuth\n"),
        ("client", "extendedKeyUsage=clientAuth\n"),
    ):
        secret, request, made = (directory / f"{name}{end}" for end in ("-key.pem", ".csr", ".pem"))
        openssl("req", *key, "-keyout", str(secret), "-out", str(request), "-subj", f"/CN=nfio test {name}")
        (directory / f"{name}.ext").write_text(extensions)
        openssl(
            *("x509", "-req", "-in", str(request), "-out", str(made), "-days", "2", "-CAcreateserial"),
            *("-CA", str(directory / "ca.pem"), "-CAkey", str(directory / "ca-key.pem")),
            *("-extfile", str(directory / f"{name}.ext")),
        )
    # Where the docker command looks for a client's.
    shutil.copy(directory / "client.pem", directory / "cert.pem")
    shutil.copy(directory / "client-key.pem", directory / "key.pem")


@pytest.fixture(scope="module")
def remote(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """The engine of another host, behind TLS; ssh leads to it too."""
    need("docker", shutil.which("containerd") is not None, "containerd is not installed")
    need("docker", shutil.which("openssl") is not None, "openssl is not installed")
    base = tmp_path_factory.mktemp("r")
    certificates = base / "certs"
    make_certificates(certificates)
    engine = PrivateEngine(
        base / "engine",
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


class Sshd:
    """An ssh server that lets the tests' key in, and its users find the remote engine."""

    def __init__(self, directory: Path, engine: PrivateEngine) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700)
        for name in ("host", "user", "stranger"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
            )
        shutil.copy(directory / "user.pub", directory / "authorized_keys")
        host_key = (directory / "host.pub").read_text()
        (directory / "known_hosts").write_text(f"[{SSH_HOST}]:{SSH_PORT} {host_key}")
        (directory / "sshd_config").write_text(
            f"ListenAddress {SSH_HOST}:{SSH_PORT}\nHostKey {directory}/host\nPidFile none\n"
            f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
            f"SetEnv DOCKER_HOST={engine.url} PATH={os.environ['PATH']}\n"
        )
        self.use_key("user")
        # The user's ssh configuration, without touching the real one.
        (directory / "bin").mkdir()
        wrapper = directory / "bin" / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {directory}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def use_key(self, name: str) -> None:
        (self.directory / "ssh_config").write_text(
            f"IdentityFile {self.directory}/{name}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {self.directory}/known_hosts\n"
        )

    @property
    def variables(self) -> dict[str, str]:
        return {
            "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
            "NFIO_DOCKER_URL": f"ssh://root@{{host}}:{SSH_PORT}",
        }

    def start(self) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, for privilege separation
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [shutil.which("sshd") or "", "-D", "-e", "-f", str(self.directory / "sshd_config")],
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: b"Server listening" in (self.directory / "log").read_bytes(), 10, "sshd listens")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


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
        super().__init__(directory, variables=variables)
        self.host = host
        self.remote = remote

    def guests(self) -> list[str]:
        """Ids of all containers of this root on the other host."""
        label = f"label=io.nfio.root={self.root_id}"
        return self.remote.docker("ps", "-aq", "--no-trunc", "--filter", label).split()

    def close(self) -> None:
        left = self.guests()
        if left:
            self.remote.docker("rm", "-f", *left)
        super().close()

    def place(self, kind: str, name: str, host: str = "") -> Vnf:
        """Define a VNF on another host."""
        vnf = self.make(kind, name)
        vnf.write("machine/ip", f"{host or self.host}\n")
        return vnf


@contextmanager
def by_tls(directory: Path, remote: PrivateEngine, certificates: Path) -> Iterator[RemoteMount]:
    variables = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
    mount = RemoteMount(directory, TLS_HOST, remote, variables)
    mount.mount()
    try:
        yield mount
    finally:
        mount.close()


@contextmanager
def by_ssh(directory: Path, remote: PrivateEngine, sshd: Sshd) -> Iterator[RemoteMount]:
    mount = RemoteMount(directory, SSH_HOST, remote, sshd.variables)
    mount.mount()
    try:
        yield mount
    finally:
        mount.close()


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
    """An address whose packets get lost, as behind a cut cable."""
    subprocess.run(["ip", "link", "add", SILENT_LINK, "type", "dummy"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", f"{SILENT_NETWORK}.1/24", "dev", SILENT_LINK], check=True)
        subprocess.run(["ip", "link", "set", SILENT_LINK, "up"], check=True)
        yield f"{SILENT_NETWORK}.2"
    finally:
        subprocess.run(["ip", "link", "del", SILENT_LINK], check=True)


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
    (container,) = nfio.guests()
    assert nfio.containers() == []
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
    assert firewall.number("stats/rx_packets") >= packets + 100
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
    assert firewall.state == "DEFINED" and nfio.guests() == []
    firewall.write("machine/ip", "\n")
    firewall.act("activate")
    assert len(nfio.containers()) == 1


def test_what_happens_on_another_host_is_seen(remote: PrivateEngine, nfio: RemoteMount) -> None:
    web = nfio.place("web", "www")
    web.act("activate")
    (container,) = nfio.guests()
    for command, state in (("pause", "PAUSED"), ("unpause", "RUNNING"), ("kill", "ERROR")):
        remote.docker(command, container)
        wait_until(lambda state=state: web.state == state, 0.5, f"{command} is seen")
    assert "signal 9" in web.error
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    web.write("state", "RUNNING\n")
    assert web.state == "RUNNING"


def test_a_remount_adopts_vnfs_of_other_hosts_and_an_rmdir_removes_them(
    remote: PrivateEngine, nfio: RemoteMount
) -> None:
    web = nfio.place("web", "www")
    web.act("activate")
    before = nfio.guests()
    for leave in (nfio.umount, nfio.kill):
        leave()
        nfio.mount()
        assert web.state == "RUNNING"
        assert nfio.guests() == before
        assert web.number("stats/rx_bytes") > 0
    web.act("stop")
    web.path.rmdir()
    assert nfio.guests() == []


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
