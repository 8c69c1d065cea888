"""One client of the load test, run as a process: uses a mount at random and judges what it is told.

Usage: load_client.py MOUNTPOINT SEED SECONDS
Prints one JSON object: how often each operation ended how, the slowest read, and what was wrong.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

#: instances that lie about, ones that run and are moved about, and names that come and go
DEFINED = [("firewall" if i % 2 else "web", f"idle{i:02}") for i in range(90)]
DRIVEN = [("firewall" if i % 2 else "web", f"run{i}") for i in range(10)]
PASSING = [("firewall" if i % 2 else "web", f"passing{i:02}") for i in range(16)]

COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "pkt_drops", "cpu_seconds", "memory_bytes")
LIVE = ("status", "state", "error", "uuid", "action")
STORED = ("config/nf_conf", "config/boot.conf", "machine/vm.image", "machine/vm.memory", "machine/vm.vcpu")
TOP = ("metrics/nfio.prom", "events", "version")
WORDS = ("activate", "start", "pause", "resume", "stop", "restart", "reload", "destroy", "deploy")
STATES = ("RUNNING", "RUNNING", "RUNNING", "PAUSED", "CONFIGURED", "DEFINED")

#: how long a file may be out of sight while another is moved over it
REPLACED_S = 2.0


class Client:
    def __init__(self, mountpoint: Path, seed: int) -> None:
        self.types = mountpoint / "nf-types"
        self.mountpoint = mountpoint
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest_read_s = 0.0
        self.menu: list[tuple[int, Callable[[], None]]] = [
            (30, self.read_counter),
            (20, self.read_live),
            (10, self.read_stored),
            (4, self.read_type_file),
            (3, self.read_top),
            (3, self.list_and_stat),
            (6, self.write_value),
            (3, self.write_nonsense),
            (3, self.write_and_rename),
            (5, self.make_and_remove),
            (2, self.move),
            (1, self.move_idle),
            (1, self.run_command),
        ]

    def attempt(self, what: str, call: Callable[[], object], *allowed: str, again: bool = False) -> None:
        """Carry out one operation; an errno that is not allowed for it is written down.

        libfuse 2 finds a file by its name once more when it is opened, and does not if it was
        renamed over since the kernel looked: until whoever renamed it runs again, which takes a
        while on a busy machine. ``again`` tries for that long.
        """
        deadline = time.monotonic() + REPLACED_S
        try:
            while True:
                try:
                    call()
                    break
                except FileNotFoundError:
                    if not again or time.monotonic() > deadline:
                        raise
                    self.counts[f"{what} while it was replaced"] += 1
                    time.sleep(0.01)
            name = "ok"
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            if name not in allowed and len(self.wrong) < 20:
                self.wrong.append(f"{what}: {error}")
        self.counts[f"{what} {name}"] += 1

    def any_path(self) -> Path:
        kind, name = self.random.choice(self.random.choice((DEFINED, DRIVEN)))
        return self.types / kind / name

    def driven(self) -> Path:
        kind, name = self.random.choice(DRIVEN)
        return self.types / kind / name

    def read(self, what: str, path: Path, *allowed: str, number: bool = False, again: bool = False) -> None:
        def read() -> None:
            text = path.read_text()
            if number and not (text.endswith("\n") and text[:-1].isdecimal()):
                self.wrong.append(f"{path}: {text!r} is no counter")

        begun = time.monotonic()
        self.attempt(what, read, *allowed, again=again)
        self.slowest_read_s = max(self.slowest_read_s, time.monotonic() - begun)

    def write(self, what: str, path: Path, text: str, *allowed: str, again: bool = False) -> None:
        def write() -> None:
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(fd, text.encode())
            except OSError as error:
                # Another write may have taken its place by now.
                raise OSError(error.errno, f"{error.strerror}: {self.reason(path)}") from None
            finally:
                os.close(fd)

        self.attempt(what, write, *allowed, again=again)

    # -- operations -------------------------------------------------------------------------

    def reason(self, path: Path) -> str:
        """What a VNF's ``error`` says, for a write to its ``action`` or ``state``."""
        return (path.parent / "error").read_text().strip() if path.name in ("action", "state") else ""

    def read_counter(self) -> None:
        path = self.driven() / "stats" / self.random.choice(COUNTERS)
        self.read("read counter", path, "ENETDOWN", number=True)

    def read_live(self) -> None:
        self.read("read live", self.any_path() / self.random.choice(LIVE))

    def read_stored(self) -> None:
        self.read("read stored", self.any_path() / self.random.choice(STORED), again=True)

    def read_type_file(self) -> None:
        kind, name = self.random.choice(DRIVEN)
        file = "rules" if kind == "firewall" else self.random.choice(("requests", "active_connections"))
        # A paused nginx does not answer; one that is being stopped or started refuses.
        allowed = ("ENETDOWN", "ETIMEDOUT", "EIO") if kind == "web" else ("ENETDOWN",)
        self.read(f"read {kind} file", self.types / kind / name / file, *allowed)

    def read_top(self) -> None:
        self.read("read top", self.mountpoint / self.random.choice(TOP))

    def list_and_stat(self) -> None:
        def look() -> None:
            for entry in os.scandir(self.any_path()):
                entry.stat()

        self.attempt("list", look)
        self.attempt("list type", lambda: os.listdir(self.types / "web"))

    def write_value(self) -> None:
        kind, name = self.random.choice(DEFINED)
        file, text = self.random.choice(
            (
                ("machine/vm.memory", f"{self.random.randint(64, 512)}M\n"),
                ("machine/vm.vcpu", f"{self.random.randint(1, 20) / 10}\n"),
                ("config/boot.conf", "autostart=no\n"),
                ("config/nf_conf", f"# {'x' * self.random.randint(0, 9000)}\n"),
            )
        )
        self.write("write value", self.types / kind / name / file, text, again=True)
        if self.random.random() < 0.1:
            self.write("scale", self.driven() / "machine/vm.vcpu", text if "vcpu" in file else "1\n")

    def write_nonsense(self) -> None:
        path = self.any_path()
        for file, text in (("machine/vm.memory", "-1\n"), ("action", "fly\n"), ("state", "ASLEEP\n")):
            self.write("write nonsense", path / file, text, "EINVAL")

    def write_and_rename(self) -> None:
        kind, name = self.random.choice(DEFINED)
        config = self.types / kind / name / "config"
        draft = config / f".nf_conf.{self.random.randrange(10**6):06}"

        def save() -> None:
            draft.write_text("# saved\n")
            draft.rename(config / "nf_conf")

        self.attempt("save", save)

    def make_and_remove(self) -> None:
        kind, name = self.random.choice(PASSING)
        path = self.types / kind / name
        self.attempt("mkdir", path.mkdir, "EEXIST")
        self.read("read passing", path / "state", "ENOENT")
        self.attempt("rmdir", path.rmdir, "ENOENT")

    def move(self) -> None:
        path = self.driven()
        # What the lifecycle does not allow now is EBUSY; the engine may be late with so many at once.
        if self.random.random() < 0.5:
            word = self.random.choice(WORDS)
            self.write(f"action {word}", path / "action", f"{word}\n", "EBUSY", "ETIMEDOUT")
        else:
            state = self.random.choice(STATES)
            self.write(f"state {state}", path / "state", f"{state}\n", "EBUSY", "ETIMEDOUT")

    def move_idle(self) -> None:
        kind, name = self.random.choice(DEFINED)
        self.write("action on idle", self.types / kind / name / "action", "pause\n", "EBUSY")

    def run_command(self) -> None:
        path = self.driven() / "command"

        def run() -> None:
            fd = os.open(path, os.O_RDWR)
            try:
                os.write(fd, b"echo $((6 * 7))\n")
                if (answer := os.read(fd, 100)) != b"42\n":
                    self.wrong.append(f"{path}: {answer!r}")
            finally:
                os.close(fd)

        self.attempt("command", run, "EBUSY", "ETIMEDOUT")

    # -- the run ----------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        weights = [weight for weight, _ in self.menu]
        operations = [operation for _, operation in self.menu]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.random.choices(operations, weights)[0]()


def main() -> None:
    client = Client(Path(sys.argv[1]), int(sys.argv[2]))
    client.run(float(sys.argv[3]))
    print(
        json.dumps({"counts": client.counts, "wrong": client.wrong, "slowest_read_s": client.slowest_read_s})
    )


if __name__ == "__main__":
    main()
