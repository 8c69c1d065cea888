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


def stop_still(pid: int) -> None:
    """SIGSTOP, until no thread runs: on a busy machine one may go on answering for a while."""
    os.kill(pid, signal.SIGSTOP)

    def is_still() -> bool:
        try:
            states = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status")]
        except FileNotFoundError:  # a thread that has just ended
            return False
        return all("\nState:\tT" in state for state in states)

    wait_until(is_still, what=f"process {pid} stands still")


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
    """A dockerd of the test's own: its data, socket, bridge and containers are nobody else's.

    Its containerd is a process beside it, as on an installed system, so that a dockerd that is
    killed or hung takes nothing along.

    Args:
        directory: where it keeps everything; ``remove`` takes it away.
        number: names its bridge and network, nfiotest<number>; None takes a free one.
        options: further arguments of dockerd.
        disk_mb: size of the disk that it keeps images and containers on; None is this machine's.
    """

    def __init__(
        self,
        directory: Path,
        number: int | None = None,
        options: tuple[str, ...] = (),
        disk_mb: int | None = None,
    ) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"
        self.number = number
        self.options = options
        self.disk_mb = disk_mb
        self.process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None

    @property
    def bridge(self) -> str:
        return f"nfiotest{self.number}"

    @property
    def subnet(self) -> str:
        return f"10.213.{self.number}.1/24"

    def start(self, wait: bool = True) -> None:
        """Start it; again after ``stop``, it finds what it had."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_bridge()
        self._start_containerd()
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={self.directory}/data",
                    f"--exec-root={self.directory}/exec",
                    f"--pidfile={self.directory}/pid",
                    f"--containerd={self.directory}/containerd.sock",
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
        if wait:
            wait_until(lambda: answers(self.url), 30, "private dockerd answers")

    def _make_bridge(self) -> None:
        numbers = range(1, 250) if self.number is None else (self.number,)
        for number in numbers:
            self.number = number
            if Path(f"/sys/class/net/{self.bridge}").exists() and len(numbers) == 1:
                return
            # Of two tests that take the same number at once, one fails here and takes the next.
            made = subprocess.run(
                ["ip", "link", "add", self.bridge, "type", "bridge"], capture_output=True, check=False
            )
            if made.returncode == 0:
                subprocess.run(["ip", "addr", "add", self.subnet, "dev", self.bridge], check=True)
                subprocess.run(["ip", "link", "set", self.bridge, "up"], check=True)
                return
        raise AssertionError("no bridge could be made")

    def _start_containerd(self) -> None:
        if self._containerd is not None:
            return
        if self.disk_mb is not None:
            (self.directory / "data").mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={self.disk_mb}m", "tmpfs", self.directory / "data"],
                check=True,
            )
        config = self.directory / "containerd.toml"
        config.write_text(
            'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'root = "{self.directory}/containerd"\nstate = "{self.directory}/containerd-run"\n'
            f'[grpc]\naddress = "{self.directory}/containerd.sock"\n'
        )
        with (self.directory / "containerd.log").open("ab") as log:
            self._containerd = subprocess.Popen(
                ["containerd", "--config", str(config)], stdout=log, stderr=log, start_new_session=True
            )
        wait_until((self.directory / "containerd.sock").exists, 30, "private containerd listens")

    def send(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def hang(self) -> None:
        assert self.process is not None
        stop_still(self.process.pid)

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

    def pid_of(self, container: str) -> int:
        """First process of a container."""
        return int(self.docker("inspect", "-f", "{{.State.Pid}}", container))

    def remove(self) -> None:
        """Everything it made."""
        if self._containerd is not None:
            self._remove_containers()
            self._containerd.terminate()
            self._containerd.wait(30)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)
        for place in sorted(mounts_below(self.directory), reverse=True):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _remove_containers(self) -> None:
        if self.process is None:
            self.start()
        self.go_on()
        ids = self.docker("ps", "-aq").split()
        if ids:
            self.docker("rm", "-f", *ids)
        self.stop()


def mounts_below(directory: Path) -> list[str]:
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{directory}/")]
