"""A file of the kernel's that stays open: opening one costs ten times what reading it does."""

from __future__ import annotations

import os


class OpenFile:
    """Reading it again gives its content of that moment, up to 4 KiB.

    Whoever reads it holds a reference: it is never closed, and its number never given to another
    file, while it is read.
    """

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        return os.pread(self._fd, 4096, 0)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
