"""Docker engines for tests: the machine's own, and private ones that may be stopped and hung."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

SOCKET = "unix:///var/run/docker.sock"


def docker(*arguments: str, url: str = SOCKET, check: bool = True, timeout: float = 60) -> str:
    """Output of the docker command against one engine."""
    done = subprocess.run(
        ["docker", "-H", url, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def answers(url: str = SOCKET) -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "-H", url, "version"], capture_output=True, check=False, timeout=20)
    return done.returncode == 0


def wait_until(condition, timeout: float = 10.0, what: str = "condition"):
    """Poll until ``condition()`` is true; its value. AssertionError at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


class PrivateEngine:
    """A dockerd of the test's own: its data, socket, bridge and containers are nobody else's."""

    def __init__(self, directory: Path, number: int = 0, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"
        self.bridge = f"nfiotest{number}"
        self.subnet = f"10.213.{number}.1/24"
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not Path(f"/sys/class/net/{self.bridge}").exists():
            subprocess.run(["ip", "link", "add", self.bridge, "type", "bridge"], check=True)
            subprocess.run(["ip", "addr", "add", self.subnet, "dev", self.bridge], check=True)
            subprocess.run(["ip", "link", "set", self.bridge, "up"], check=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={self.directory}/data",
                    f"--exec-root={self.directory}/exec",
                    f"--pidfile={self.directory}/pid",
                    f"--host={self.url}",
                    f"--bridge={self.bridge}",
                    "--iptables=false",
                    "--ip-masq=false",
                    "--live-restore",
                    *self.options,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: answers(self.url), 30, "private dockerd answers")

    def send(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def hang(self) -> None:
        self.send(signal.SIGSTOP)

    def go_on(self) -> None:
        self.send(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon; its containers go on, as with live-restore."""
        if self.process is not None:
            self.send(signal.SIGCONT)
            self.send(number)
            self.process.wait(30)
            self.process = None

    def load(self, image: str) -> None:
        """Copy an image from the machine's engine."""
        save = subprocess.Popen(["docker", "-H", SOCKET, "save", image], stdout=subprocess.PIPE)
        subprocess.run(["docker", "-H", self.url, "load"], stdin=save.stdout, check=True, capture_output=True)
        assert save.stdout is not None
        save.stdout.close()
        assert save.wait(60) == 0

    def docker(self, *arguments: str, check: bool = True) -> str:
        return docker(*arguments, url=self.url, check=check)

    def remove(self) -> None:
        """Everything it made."""
        if self.process is None:
            self.start()
        ids = self.docker("ps", "-aq").split()
        if ids:
            self.docker("rm", "-f", *ids)
        containerd = self.directory / "exec" / "containerd" / "containerd.pid"
        pid = int(containerd.read_text()) if containerd.exists() else None
        self.stop()
        if pid is not None and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "private containerd ends")
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)
        for place in sorted(mounts_below(self.directory), reverse=True):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def mounts_below(directory: Path) -> list[str]:
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{directory}/")]
