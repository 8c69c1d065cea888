"""A file of the kernel's that stays open: opening one costs ten times what reading it does."""

from __future__ import annotations

import os

_PAGE_BYTES = 4096


class OpenFile:
    """Reading it again gives its content of that moment.

    Whoever reads it holds a reference: it is never closed, and its number never given to another
    file, while it is read.
    """

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """Its first 4 KiB: all of a file that holds a value."""
        return os.pread(self._fd, _PAGE_BYTES, 0)

    def read_all(self) -> bytes:
        """All of a file that holds short lines, of which the kernel gives as many as a page holds."""
        content = piece = os.pread(self._fd, _PAGE_BYTES, 0)
        while len(piece) > _PAGE_BYTES // 2:  # else there was room for more
            piece = os.pread(self._fd, _PAGE_BYTES, len(content))
            content += piece
        return content

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
