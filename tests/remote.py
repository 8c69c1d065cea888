"""Ways to an engine of another host: TLS certificates, an ssh server, and a cable that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

from engine import PrivateEngine, wait_until

TLS_HOST = "127.0.0.2"
TLS_PORT = 2376
SSH_HOST = "127.0.0.3"
SSH_PORT = 2222


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


class Sshd:
    """An ssh server that lets the tests' key in, and its users find the remote engine.

    Args:
        directory: where it keeps everything.
        engine: the Docker engine that its users find, if any.
        address, port: where it listens.
        inside: command that runs another one on the server's host; none is this one.
    """

    def __init__(
        self,
        directory: Path,
        engine: PrivateEngine | None = None,
        address: str = SSH_HOST,
        port: int = SSH_PORT,
        inside: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.inside = inside
        directory.mkdir(mode=0o700)
        for name in ("host", "user", "stranger"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
            )
        shutil.copy(directory / "user.pub", directory / "authorized_keys")
        host_key = (directory / "host.pub").read_text()
        (directory / "known_hosts").write_text(
            f"[{address}]:{port} {host_key}" if port != 22 else f"{address} {host_key}"
        )
        (directory / "sshd_config").write_text(
            f"ListenAddress {address}:{port}\nHostKey {directory}/host\nPidFile none\n"
            f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
            f"SetEnv PATH={os.environ['PATH']}" + (f" DOCKER_HOST={engine.url}\n" if engine else "\n")
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
                [
                    *self.inside,
                    shutil.which("sshd") or "",
                    "-D",
                    "-e",
                    "-f",
                    str(self.directory / "sshd_config"),
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: b"Server listening" in (self.directory / "log").read_bytes(), 10, "sshd listens")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


class FarAway:
    """A host at the other end of a cable: a network namespace, and a veth link that leads there."""

    link = "nfiotestfar"
    namespace = "nfiotestfar"
    network = "10.213.255"
    port = 2375

    def __init__(self) -> None:
        self.address = f"{self.network}.2"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        inside = f"ip -n {self.namespace}"
        for command in (
            f"ip netns add {self.namespace}",
            f"ip link add {self.link} type veth peer name eth0 netns {self.namespace}",
            f"ip addr add {self.network}.1/24 dev {self.link}",
            f"{inside} addr add {self.address}/24 dev eth0",
            f"{inside} link set eth0 up",
        ):
            subprocess.run(command.split(), check=True)
        self.mend()
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
        subprocess.run(["ip", "link", "del", self.link], check=True)
        subprocess.run(["ip", "netns", "del", self.namespace], check=True)

    def _set_neighbour(self, mac: str) -> None:
        place = ("to", self.address, "dev", self.link)
        subprocess.run(["ip", "neigh", "replace", *place, "lladdr", mac, "nud", "permanent"], check=True)

    def cut(self) -> None:
        """Packets get lost from now on, and nobody is told."""
        self._set_neighbour("02:00:00:00:00:01")

    def mend(self) -> None:
        subprocess.run(["ip", "link", "set", self.link, "up"], check=True)
        shown = subprocess.run(
            ["ip", "-n", self.namespace, "-br", "link", "show", "eth0"],
            check=True,
            capture_output=True,
            text=True,
        )
        self._set_neighbour(shown.stdout.split()[2])

    def relay(self, engine: PrivateEngine) -> None:
        """Let an engine be reached there, by TCP."""
        self.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.namespace, sys.executable, __file__),
                *(self.address, str(self.port), engine.url.removeprefix("unix://")),
            ],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        with self.process.stdout as ready:
            assert ready.readline() == b"ready\n"

    @property
    def variables(self) -> dict[str, str]:
        return {"NFIO_DOCKER_URL": f"tcp://{{host}}:{self.port}"}

    def connections(self) -> list[str]:
        """Connections of this host's that lead there."""
        shown = subprocess.run(
            ["ss", "-Htn", "state", "established", "dst", self.address],
            check=True,
            capture_output=True,
            text=True,
        )
        return shown.stdout.splitlines()


async def _relay(address: str, port: int, path: str) -> None:
    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(path)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(serve, address, port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
