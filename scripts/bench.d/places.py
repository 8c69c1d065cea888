"""What is measured: mounts of nfio, the C peer, and the program that reads both."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = PROJECT / "scripts" / "bench_peer"
TYPES = ("firewall", "web")


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()} {done.stdout.strip()}")
    return str(done.stdout)


def seconds(call) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


class Mounted:
    """nfio on a root of its own, with so many instances defined, the first of them running."""

    def __init__(self, directory: Path, stack: ExitStack, hypervisor: str = "Docker") -> None:
        self.hypervisor = hypervisor
        self.nfio("image", "build", *TYPES, "--for", hypervisor.lower())
        self.root = directory / "root"
        self.path = directory / "mnt"
        self.path.mkdir(parents=True)
        self.mount()
        stack.callback(self.remove)

    def nfio(self, *arguments: str) -> None:
        run(sys.executable, "-m", "nfio", *arguments, cwd=PROJECT)

    def mount(self) -> None:
        self.nfio("mount", str(self.root), str(self.path), "--hypervisor", self.hypervisor)

    def umount(self) -> None:
        self.nfio("umount", str(self.path))

    def remove(self) -> None:
        if os.path.ismount(self.path):
            for state in self.path.glob("nf-types/*/*/state"):
                state.write_text("DEFINED\n")
            self.umount()

    @property
    def root_id(self) -> str:
        return (self.root / ".nfio" / "root-id").read_text().strip()

    @property
    def pid(self) -> int:
        return int((self.root / ".nfio" / "lock").read_text().split()[-1])

    def instance(self, number: int) -> Path:
        return self.path / "nf-types" / TYPES[number % 2] / f"vnf{number:04}"

    def make(self, kind: str, name: str) -> Path:
        """Define an instance."""
        path = self.path / "nf-types" / kind / name
        path.mkdir()
        return path

    def define(self, count: int) -> None:
        for number in range(count):
            if not self.instance(number).exists():
                self.instance(number).mkdir()

    def start(self, count: int) -> None:
        for number in range(count):
            (self.instance(number) / "state").write_text("RUNNING\n")

    def container(self, number: int) -> dict:
        """What Docker says of an instance's container."""
        name = self.instance(number).name
        filters = (f"label=io.nfio.root={self.root_id}", f"label=io.nfio.instance={name}")
        found = run("docker", "ps", "-aq", *(word for text in filters for word in ("--filter", text))).split()
        return json.loads(run("docker", "inspect", *found))[0]

    def memory_mb(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024 / 1e6


class Peer:
    """The C programs, built here: the file system that serves a constant, and the reader of both."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        directory.mkdir(parents=True)
        flags = run("pkg-config", "--cflags", "--libs", "fuse").split()
        for name, extra in (("constant", flags), ("reader", [])):
            run(
                "cc",
                "-O2",
                "-Wall",
                "-Wextra",
                "-o",
                str(directory / name),
                str(SOURCES / f"{name}.c"),
                *extra,
            )
        self.reader = directory / "reader"
        self.path = directory / "mnt"
        self.path.mkdir()
        command = [str(directory / "constant"), str(self.path), "-f", "-o", "default_permissions"]
        self._process = subprocess.Popen(command)
        stack.callback(self._end)
        deadline = time.monotonic() + 10
        while not os.path.ismount(self.path):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit("the C peer does not mount")
            time.sleep(0.01)
        #: as deep as nfio's own counters, and at the top
        self.deep = self.path / "nf-types" / "web" / "www" / "stats" / "rx_bytes"
        self.flat = self.path / "constant"

    @property
    def pid(self) -> int:
        return self._process.pid

    def _end(self) -> None:
        run("fusermount", "-u", str(self.path))
        self._process.wait(60)

    def read(self, path: Path, count: int, cpu: int | None = None) -> Reads:
        """Open, read and close a file so many times."""
        command = ["taskset", "-c", str(cpu)] if cpu is not None else []
        text = run(*command, str(self.reader), str(path), str(count))
        return Reads([tuple(map(int, line.split())) for line in text.splitlines()])


class Reads:
    """How long opens, reads and closes took, in nanoseconds."""

    def __init__(self, rows: list[tuple[int, ...]] | None = None) -> None:
        self.rows = rows or []

    def add(self, other: Reads) -> None:
        self.rows += other.rows

    @property
    def p50_us(self) -> float:
        return statistics.median(sum(row) for row in self.rows) / 1e3

    @property
    def split(self) -> str:
        parts = [statistics.median(row[i] for row in self.rows) / 1e3 for i in range(3)]
        return "open {:.0f}, read {:.0f}, close {:.0f} µs".format(*parts)


def act(instance: Path, word: str) -> None:
    """An order as a user's shell gives it."""
    script = f'echo {word} > "$1/action" || {{ cat "$1/error"; exit 1; }}'
    run("sh", "-c", script, "sh", str(instance))


@contextmanager
def on_one_cpu(*pids: int) -> Iterator[int]:
    """Keep all threads of some processes on one CPU; its number."""
    cpu = min(os.sched_getaffinity(0))
    before = [
        (int(task.name), os.sched_getaffinity(int(task.name)))
        for pid in pids
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    for task, _ in before:
        os.sched_setaffinity(task, {cpu})
    try:
        yield cpu
    finally:
        cpus = before[0][1]
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cpus)
