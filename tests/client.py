"""A client of a mount that does random things and keeps a log of what was acknowledged.

Run as a program: ``client.py MOUNTPOINT LOG SEED NAME…``. It ends with the mount. Each operation
is a line of JSON before it is begun, and another once it has returned.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from pathlib import Path

KIND = "firewall"
#: what a system call on a mount says whose process is gone
DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
FILES = ("config/nf_conf", "config/notes", "machine/vm.memory")


def content_of(file: str, number: int) -> str:
    """Something that the file accepts and that is unlike what any other number gives."""
    if file == "machine/vm.memory":
        return f"{64 + number % 64}M\n"
    return f"# {number}\n"


def write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class Client:
    def __init__(self, mountpoint: Path, log: Path, seed: str, names: list[str]) -> None:
        self.types = mountpoint / "nf-types" / KIND
        self.names = names
        self.random = random.Random(seed)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, **fields: str) -> None:
        os.write(self.log, json.dumps(fields).encode() + b"\n")

    def run(self) -> None:
        while True:
            name = self.random.choice(self.names)
            operation, argument = self.choose(name)
            self.note(name=name, operation=operation, argument=argument, result="begun")
            self.perform(name, operation, argument)
            seen = {} if operation != "mkdir" else {"uuid": (self.types / name / "uuid").read_text().strip()}
            self.note(name=name, operation=operation, argument=argument, result="done", **seen)

    def choose(self, name: str) -> tuple[str, str]:
        if not (self.types / name).is_dir():
            os.stat(self.types)  # not there, and the mount still is
            return "mkdir", ""
        if self.random.random() < 0.4:
            return "write", f"{self.random.choice(FILES)} {self.random.randrange(10**9)}"
        state = (self.types / name / "state").read_text().strip()
        words = {
            "DEFINED": ["activate", "activate", "activate", "deploy", "rmdir"],
            "CONFIGURED": ["start", "start", "destroy", "rmdir"],
            "RUNNING": ["stop", "stop", "restart", "pause", "destroy"],
            "PAUSED": ["resume", "stop", "destroy"],
        }
        return self.random.choice(words[state]), ""

    def perform(self, name: str, operation: str, argument: str) -> None:
        path = self.types / name
        if operation == "mkdir":
            path.mkdir()
        elif operation == "rmdir":
            path.rmdir()
        elif operation == "write":
            file, number = argument.split()
            write(path / file, content_of(file, int(number)))
        else:
            write(path / "action", f"{operation}\n")


def main() -> None:
    mountpoint, log, seed, *names = sys.argv[1:]
    try:
        Client(Path(mountpoint), Path(log), seed, names).run()
    except OSError as error:
        if error.errno not in DEAD:
            raise


if __name__ == "__main__":
    main()
