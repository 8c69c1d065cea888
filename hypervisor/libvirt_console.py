"""What a machine says: its function's console, its serial line, and what they mean.

Of a machine from nfio's image the function's output comes through a port of its own, and the
kernel and the init write on the serial line. Of any other the serial line is all there is.
virtlogd writes both and turns them over when they grow large (console.log, console.log.0 …).
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from hypervisor.hypervisor_base import READY_LINE, REJECTED_LINE
from hypervisor.libvirt_guest import EXIT_WORD, STARTED_WORD
from hypervisor.libvirt_machine import CONSOLE_LOG, SERIAL_LOG
from nfio.errors import ConfigurationRejected, HypervisorError

_EXIT = re.compile(rf"^{EXIT_WORD} (\d+)( oom)?\s*$", re.MULTILINE)
#: files that virtlogd keeps of a log beside the present one, at most
_BACKUPS = 9
#: the kernel's last words are among the last of a serial line
_TAIL_BYTES = 64 << 10


@dataclass(frozen=True)
class Exit:
    """How a function ended, as the machine's init said it."""

    code: int
    out_of_memory: bool


def log_tail(path: Path, limit_bytes: int) -> bytes:
    """The last part of a log and of those that it was turned over to."""
    parts: list[bytes] = []
    missing = limit_bytes
    for number in range(-1, _BACKUPS):
        file = path if number < 0 else path.with_name(f"{path.name}.{number}")
        try:
            with file.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - missing))
                parts.insert(0, log.read(missing))
        except FileNotFoundError:
            break
        missing -= len(parts[0])
        if missing <= 0:
            break
    return b"".join(parts)


def clear_serial(directory: Path) -> None:
    """Forget what the machine's last run said on its serial line."""
    for path in directory.glob(f"{SERIAL_LOG}*"):
        path.unlink(missing_ok=True)


def console_text(directory: Path, *, ours: bool, limit_bytes: int) -> bytes:
    """What ``log`` shows of a machine.

    Of one from nfio's image the serial line too, where it ended without a word of its init: a
    kernel that did not come up says there why.
    """
    if not ours:
        return log_tail(directory / SERIAL_LOG, limit_bytes)
    text = log_tail(directory / CONSOLE_LOG, limit_bytes)
    return text or (b"" if has_started(directory) else log_tail(directory / SERIAL_LOG, limit_bytes))


def has_started(directory: Path) -> bool:
    """Whether the init has started the function."""
    return STARTED_WORD.encode() in log_tail(directory / SERIAL_LOG, _TAIL_BYTES)


def exit_of(directory: Path) -> Exit | None:
    """How the last run ended; None if the init did not come to say it."""
    found = _EXIT.findall(log_tail(directory / SERIAL_LOG, _TAIL_BYTES).decode(errors="replace"))
    return Exit(int(found[-1][0]), bool(found[-1][1])) if found else None


def await_exit(directory: Path, timeout_s: float) -> Exit | None:
    """The same, waiting for virtlogd to have written down what the machine said last."""
    deadline = time.monotonic() + timeout_s
    while (found := exit_of(directory)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


class Run:
    """What a function says from one start on; made before the start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / CONSOLE_LOG
        self._before = self._state()
        self._begun: float | None = None

    def _state(self) -> tuple[int, int]:
        try:
            found = self._log.stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_ino, found.st_size)

    def text(self) -> str:
        """Its output so far."""
        inode, size = self._before
        now_inode, now_size = self._state()
        # Another file: it was turned over, and all that is in it is new.
        fresh = now_size - size if inode == now_inode else now_size
        return log_tail(self._log, fresh).decode(errors="replace") if fresh > 0 else ""

    def is_ready(self) -> bool:
        """Whether it said that it serves."""
        return READY_LINE in self.text().splitlines()

    def has_begun(self, since_s: float) -> bool:
        """Whether the init started its function, and it has lived for a moment since."""
        if self._begun is None and has_started(self._directory):
            self._begun = time.monotonic()
        return self._begun is not None and time.monotonic() - self._begun > since_s

    def failure(self) -> HypervisorError | ConfigurationRejected:
        """Why it ended while it started."""
        exited = await_exit(self._directory, 1.0)
        text = self.text()
        _, rejected, reason = text.partition(f"{REJECTED_LINE}\n")
        if rejected:
            return ConfigurationRejected(reason.strip())
        if exited is None:
            words = log_tail(self._directory / SERIAL_LOG, _TAIL_BYTES).decode(errors="replace")
            return HypervisorError(f"its machine ended while it came up: {_last_line(words)}")
        return HypervisorError(f"its program ended at once with exit code {exited.code}: {_last_line(text)}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it wrote nothing on its console"
