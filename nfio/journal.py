"""The journal of lifecycle events: a bounded file of JSON lines, and streams of new ones."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

#: When the journal grows beyond this many bytes its older half is dropped.
LIMIT_BYTES = 4 << 20
_RECENT = 10_000
_WAIT_S = 0.1


class Journal:
    """Events so far, as JSON lines, oldest first.

    Each line has ``time`` (RFC 3339, UTC), ``type``, ``instance``, ``uuid``, ``from``, ``to``
    (states), ``cause`` (the word written to ``action``; ``engine`` for what nfio did not do;
    ``mount`` for what it found) and ``reason``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=_RECENT)
        self._last = 0

    def append(self, **fields: str) -> None:
        event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        line = json.dumps(event, ensure_ascii=True).encode() + b"\n"
        with self._changed:
            # One write per line: a process killed here leaves a whole line or none.
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line)
                if os.fstat(fd).st_size > LIMIT_BYTES:
                    self._drop_older_half()
            finally:
                os.close(fd)
            self._last += 1
            self._recent.append((self._last, line))
            self._changed.notify_all()

    def _drop_older_half(self) -> None:
        content = self._path.read_bytes()
        kept = content[content.index(b"\n", len(content) // 2) + 1 :]
        draft = self._path.with_suffix(".new")
        draft.write_bytes(kept)
        os.rename(draft, self._path)

    def open(self) -> tuple[int, int]:
        """A file descriptor of all events, and how many bytes of it there are so far.

        The file is only ever appended to, or replaced: those bytes stay what they are.
        """
        with self._changed:
            fd = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            return fd, os.fstat(fd).st_size

    def read(self) -> bytes:
        """All events so far."""
        fd, size = self.open()
        with os.fdopen(fd, "rb") as file:
            return file.read(size)

    @property
    def position(self) -> int:
        """Where a stream that begins now begins."""
        with self._changed:
            return self._last

    def wait(self, position: int, cancelled: Callable[[], bool]) -> tuple[int, bytes]:
        """Block until there are events after ``position``; return the new position and the lines.

        ``cancelled`` is asked every 0.1 s; once it says yes, no lines are returned.
        """
        with self._changed:
            while self._last <= position:
                self._changed.wait(_WAIT_S)
                if cancelled():
                    return position, b""
            lines = [line for number, line in self._recent if number > position]
            return self._last, b"".join(lines)
