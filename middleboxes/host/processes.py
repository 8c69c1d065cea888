"""The end of guests' first processes, told by the kernel: no engine has to be asked for it."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable


class ProcessWatch:
    """Says when a process has ended, also one that is not a child of this one.

    Its network namespace, and with it the host's end of its link, may be kept by an engine that
    is hung or stopped; its process descriptor (pidfd_open(2)) is readable as soon as it has ended.

    Args:
        on_end: called with the pid of each watched process that has ended.
    """

    def __init__(self, on_end: Callable[[int], None]) -> None:
        self._on_end = on_end
        self._watched: dict[int, int] = {}  # pidfd: pid
        self._lock = threading.Lock()
        self._poll: select.epoll | None = None

    def watch(self, pid: int) -> bool:
        """Watch a process; False if it has ended. Watching it twice is the same as once."""
        with self._lock:
            if self._poll is None:
                self._poll = select.epoll()
                threading.Thread(
                    target=self._follow, args=(self._poll,), name="processes", daemon=True
                ).start()
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                return False
            # A pid that is watched already is the same process: its number is not given away
            # before its end was seen, or the ended one is told of beside the new one.
            self._watched[fd] = pid
            self._poll.register(fd, select.EPOLLIN)
            return True

    def _follow(self, poll: select.epoll) -> None:
        while True:
            for fd, _ in poll.poll():
                with self._lock:
                    poll.unregister(fd)
                    os.close(fd)
                    pid = self._watched.pop(fd)
                self._on_end(pid)
