"""A guest's console log, as conmon writes it, and what is to be learned from it.

conmon's format, which it calls k8s-file: ``<time> stdout|stderr F|P <text>`` a line; P is a part
of a line that goes on in the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hypervisor.hypervisor_base import READY_LINE, REJECTED_LINE
from hypervisor.native_runtime import ended
from nfio.errors import ConfigurationRejected, HypervisorError, HypervisorTimeout

#: a program that does not announce itself and ends within this time was not started
EARLY_DEATH_S = 0.2
_POLL_S = 0.002


class Console:
    """The log of a guest, from the moment this object is made for ``text_since``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = self._size()

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def text(self) -> bytes:
        """All that is kept, without what conmon adds."""
        return _plain(self._read(0))

    def text_since(self) -> str:
        """What was written since this object was made."""
        begin = self._begin if self._size() >= self._begin else 0  # it was begun anew
        return _plain(self._read(begin)).decode(errors="replace")

    def _read(self, begin: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(begin)
                return file.read()
        except FileNotFoundError:
            return b""

    def last_line(self) -> str:
        lines = self.text_since().strip().splitlines()
        return lines[-1] if lines else "it wrote nothing on its console"

    def await_start(
        self, pid: int, announces: bool, timeout_s: float, exit_code: Callable[[], int | None]
    ) -> None:
        """Return once the guest serves.

        Args:
            pid: its first process.
            announces: it says so; one that does not is watched for a moment.
            exit_code: how it ended, once it did.

        Raises:
            ConfigurationRejected: it refuses its configuration; the message is the checker's.
            HypervisorError: it ended.
            HypervisorTimeout: it goes on without a word.
        """
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            raise self._death(exit_code()) from None
        try:
            waited = 0.0
            while waited < (timeout_s if announces else EARLY_DEATH_S):
                if announces and READY_LINE in self.text_since().splitlines():
                    return
                if ended(process, _POLL_S):
                    raise self._death(exit_code())
                waited += _POLL_S
        finally:
            os.close(process)
        if announces:
            raise HypervisorTimeout(f"it started and did not report within {timeout_s:g} s")

    def _death(self, exit_code: int | None) -> Exception:
        # Its exit code is there: conmon has written all that it said before.
        _, rejected, reason = self.text_since().partition(f"{REJECTED_LINE}\n")
        if rejected:
            return ConfigurationRejected(reason.strip())
        how = "" if exit_code is None else f" with exit code {exit_code}"
        return HypervisorError(f"its program ended at once{how}: {self.last_line()}")


def _plain(data: bytes) -> bytes:
    output = bytearray()
    for line in data.splitlines():
        fields = line.split(b" ", 3)
        if len(fields) == 4:
            output += fields[3]
            if fields[2] == b"F":
                output += b"\n"
    return bytes(output)
