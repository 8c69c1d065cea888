"""What a machine says: its function's console, its serial line, and what they mean.

Of a machine from nfio's image the function's output comes through a port of its own, and the
kernel and the init write on the serial line. Of any other the serial line is all there is.
virtlogd writes both and turns them over when they grow large (console.log, console.log.0 …).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from hypervisor.hypervisor_base import READY_LINE, REJECTED_LINE
from hypervisor.libvirt_guest import EXIT_WORD, STARTED_WORD
from hypervisor.libvirt_machine import CONSOLE_LOG, SERIAL_LOG, Machine
from nfio.errors import ConfigurationRejected, HypervisorError

_EXIT = re.compile(rf"^{EXIT_WORD} (\d+)( oom)?\s*$", re.MULTILINE)
#: the kernel's last words are among the last of a serial line
_TAIL_BYTES = 64 << 10


@dataclass(frozen=True)
class Exit:
    """How a function ended, as the machine's init said it."""

    code: int
    out_of_memory: bool


def console_text(machine: Machine, *, ours: bool, limit_bytes: int) -> bytes:
    """What ``log`` shows of a machine.

    Of one from nfio's image the serial line too, where it ended without a word of its init: a
    kernel that did not come up says there why.
    """
    if not ours:
        return machine.tail(SERIAL_LOG, limit_bytes)
    text = machine.tail(CONSOLE_LOG, limit_bytes)
    return text or (b"" if has_started(machine) else machine.tail(SERIAL_LOG, limit_bytes))


def has_started(machine: Machine) -> bool:
    """Whether the init has started the function."""
    return STARTED_WORD.encode() in machine.tail(SERIAL_LOG, _TAIL_BYTES)


def exit_of(machine: Machine) -> Exit | None:
    """How the last run ended; None if the init did not come to say it."""
    found = _EXIT.findall(machine.tail(SERIAL_LOG, _TAIL_BYTES).decode(errors="replace"))
    return Exit(int(found[-1][0]), bool(found[-1][1])) if found else None


def await_exit(machine: Machine, timeout_s: float) -> Exit | None:
    """The same, waiting for virtlogd to have written down what the machine said last."""
    deadline = time.monotonic() + timeout_s
    while (found := exit_of(machine)) is None and time.monotonic() < deadline:
        time.sleep(machine.poll_s)
    return found


class Run:
    """What a function says from one start on; made before the start."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before = machine.extent(CONSOLE_LOG)
        self._begun: float | None = None

    def text(self) -> str:
        """Its output so far."""
        file, size = self._before
        now_file, now_size = self._machine.extent(CONSOLE_LOG)
        # Another file: it was turned over, and all that is in it is new.
        fresh = now_size - size if file == now_file and now_size >= size else now_size
        return self._machine.tail(CONSOLE_LOG, fresh).decode(errors="replace") if fresh > 0 else ""

    def is_ready(self) -> bool:
        """Whether it said that it serves."""
        return READY_LINE in self.text().splitlines()

    def has_begun(self, since_s: float) -> bool:
        """Whether the init started its function, and it has lived for a moment since."""
        if self._begun is None and has_started(self._machine):
            self._begun = time.monotonic()
        return self._begun is not None and time.monotonic() - self._begun > since_s

    def failure(self) -> HypervisorError | ConfigurationRejected:
        """Why it ended while it started."""
        exited = await_exit(self._machine, 1.0)
        text = self.text()
        _, rejected, reason = text.partition(f"{REJECTED_LINE}\n")
        if rejected:
            return ConfigurationRejected(reason.strip())
        if exited is None:
            words = self._machine.tail(SERIAL_LOG, _TAIL_BYTES).decode(errors="replace")
            return HypervisorError(f"its machine ended while it came up: {_last_line(words)}")
        return HypervisorError(f"its program ended at once with exit code {exited.code}: {_last_line(text)}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it wrote nothing on its console"
