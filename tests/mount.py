"""A mounted nfio for tests: mounted for real by its own command line, checked when it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import engine as engines
from engine_view import EngineView

NFIO = [sys.executable, "-m", "nfio"]

#: what a healthy process never logs
_TROUBLE = re.compile(r"Traceback|^\S+ \S+ (ERROR|CRITICAL) .*", re.MULTILINE)


class Mount:
    """nfio mounted on an empty directory.

    Args:
        directory: where root and mount point are made.
        engine: what runs its VNFs.
        options: further arguments of ``nfio mount``.
        variables: further environment variables of nfio.
    """

    def __init__(
        self,
        directory: Path,
        engine: EngineView,
        options: tuple[str, ...] = (),
        variables: dict[str, str] | None = None,
    ) -> None:
        self.root = directory / "root"
        self.path = directory / "mnt"
        self.path.mkdir(parents=True, exist_ok=True)
        self.engine = engine
        self.options = options
        self.variables = variables or {}
        self.expected_trouble: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.engine.variables, **self.variables}

    def nfio(
        self, *arguments: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*NFIO, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"nfio {' '.join(arguments)}: {done.stderr}{self.log()}")
        return done

    def mount(self) -> None:
        hypervisor = ("--hypervisor", self.engine.name)
        self.nfio("mount", str(self.root), str(self.path), *hypervisor, *self.options)

    def umount(self) -> None:
        self.nfio("umount", str(self.path))

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        return int((self.root / ".nfio" / "lock").read_text().split()[-1])

    def kill(self) -> None:
        """SIGKILL, as a crash would; the mount stays behind, dead."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        engines.wait_until(lambda: is_gone(pid), what="the killed process is gone")

    @property
    def is_mounted(self) -> bool:
        return f" {self.path} " in Path("/proc/self/mountinfo").read_text()

    def log(self) -> str:
        path = self.root / ".nfio" / "nfio.log"
        return path.read_text() if path.exists() else ""

    @property
    def root_id(self) -> str:
        return (self.root / ".nfio" / "root-id").read_text().strip()

    def guests(self) -> list[str]:
        """The engine's ids of all VNFs of this root."""
        return self.engine.guests(self.root_id)

    def guest_of(self, vnf: Vnf) -> str:
        """The engine's id of a VNF."""
        uuid = vnf.value("uuid")
        (guest,) = (seen.guest for seen in self.engine.seen(self.root_id) if seen.uuid == uuid)
        return guest

    # -- the tree ---------------------------------------------------------------------------

    def vnf(self, kind: str, name: str) -> Vnf:
        return Vnf(self.path / "nf-types" / kind / name)

    def make(self, kind: str, name: str) -> Vnf:
        vnf = self.vnf(kind, name)
        vnf.path.mkdir()
        return vnf

    def events(self, vnf: Vnf) -> list[dict[str, str]]:
        """What happened to a VNF so far."""
        uuid = vnf.value("uuid")
        lines = [json.loads(line) for line in (self.path / "events").read_text().splitlines()]
        return [line for line in lines if line["uuid"] == uuid]

    # -- the end ----------------------------------------------------------------------------

    def trouble(self) -> list[str]:
        """Lines of the log that should not be there."""
        found = [match.group(0) for match in _TROUBLE.finditer(self.log())]
        return [line for line in found if not any(part in line for part in self.expected_trouble)]

    def clear(self) -> None:
        """Remove every VNF, and fail if the log shows trouble: what comes next begins with an empty tree."""
        for place in (self.path / "nf-types").glob("*/*"):
            vnf = Vnf(place)
            vnf.write("state", "DEFINED\n")
            shutil.rmtree(place)
        assert self.guests() == []
        assert not self.trouble(), self.log()

    def close(self) -> None:
        """Unmount, remove every guest, and fail if the log shows trouble."""
        if self.is_mounted:
            try:
                self.umount()
            except BaseException:
                # Whoever removes the directory now must not walk into the mount.
                subprocess.run(["umount", "-l", str(self.path)], check=False)
                raise
        if (self.root / ".nfio" / "root-id").exists():
            self.engine.remove_all(self.root_id)
        assert not self.is_mounted
        assert not self.trouble(), self.log()


@contextmanager
def mounted(engine: EngineView, *options: str) -> Iterator[Mount]:
    """nfio, mounted on a directory of its own for the time of the block.

    Args:
        options: further arguments of ``nfio mount``.
    """
    with tempfile.TemporaryDirectory(prefix="nfio-", ignore_cleanup_errors=True) as path:
        made = Mount(Path(path), engine, options=options)
        made.mount()
        try:
            yield made
        finally:
            made.close()


class Vnf:
    """An instance's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, file: str) -> str:
        return (self.path / file).read_text()

    def value(self, file: str) -> str:
        """A file of one value, without its newline."""
        text = self.read(file)
        assert text == "" or text.endswith("\n"), repr(text)
        return text[:-1]

    def number(self, file: str) -> int:
        return int(self.value(file))

    def write(self, file: str, text: str | bytes) -> None:
        """One open for writing with O_TRUNC and one write, as `echo >` does. OSError as it comes."""
        data = text.encode() if isinstance(text, str) else text
        fd = os.open(self.path / file, os.O_WRONLY | os.O_TRUNC)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)

    def act(self, word: str) -> None:
        self.write("action", f"{word}\n")

    @property
    def state(self) -> str:
        return self.value("state")

    @property
    def status(self) -> str:
        return self.value("status")

    @property
    def error(self) -> str:
        return self.value("error")

    @property
    def address(self) -> str:
        return self.value("machine/vm.ip")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, even if its parent has not asked for its exit status yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def errno_of(call) -> str:
    """Name of the errno that a call fails with; '' if it succeeds."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def seconds(call) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def opened_by(pid: int) -> list[str]:
    """Paths of a process's open files. The kernel may have looked the name up anew meanwhile."""
    paths = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            paths.append(os.readlink(entry).removesuffix(" (deleted)"))
    return paths
