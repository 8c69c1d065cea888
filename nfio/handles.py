"""Open files. Each knows how it is read, written and closed; none knows FUSE."""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from nfio.errors import AccessDenied, NetworkDown, NfioError, NotFound
from nfio.instance_files import InstanceFiles
from nfio.journal import Journal
from nfio.tree import LIVE_SIZE
from nfio.type_files import Own
from nfio.values import MAX_BYTES
from nfio.vnf import Vnf

log = logging.getLogger(__name__)

#: sizes of the buffers from which programs write are multiples of this
BUFFER_BYTES = 512
#: how often it is looked whether a function has written more
STREAM_LOOK_S = 0.1


class Handle(ABC):
    """An open file."""

    #: whether reads go on to the real end whatever size getattr reports
    direct = True
    #: False where the content goes on beyond the size that getattr reports: tail(1) would look for
    #: the last lines before that size, but reads on to the end where it cannot seek
    seekable = True

    @abstractmethod
    def read(self, length: int, offset: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; b"" at the end."""

    def write(self, data: bytes, offset: int) -> None:
        raise AccessDenied("this file is read only")

    def truncate(self, length: int) -> None:
        raise AccessDenied("this file is read only")

    def sync(self) -> None:
        """Make what was written survive a loss of power. Only files that are stored need it."""
        return

    def close(self) -> None:
        """Called once, after the last read or write."""
        return


class SnapshotHandle(Handle):
    """A live file: the value it had when it was opened, however often it is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.seekable = len(content) <= LIVE_SIZE

    def read(self, length: int, offset: int) -> bytes:
        return self._content[offset : offset + length]


class OrderHandle(Handle):
    """``action``, ``state``, ``command``: each write is one order, wherever it is written to.

    A reader of the same open file gets the answer to its own last write.
    """

    def __init__(self, files: InstanceFiles, vnf: Vnf, file: str, own: Own | None = None) -> None:
        self._files = files
        self._vnf = vnf
        self._file = file
        self._own = own
        self._answer: bytes | None = None
        self._origin: int | None = None

    def read(self, length: int, offset: int) -> bytes:
        if self._own is not None:
            return b""
        if self._answer is None:
            self._answer = self._files.read(self._vnf, self._file)
            self._origin = 0
        if self._origin is None:
            self._origin = offset  # the position that the write left behind, or where it was moved
        start = max(0, offset - self._origin)
        return self._answer[start : start + length]

    def write(self, data: bytes, offset: int) -> None:
        self._origin = None
        self._answer = b"" if self._file == "command" else None
        self._files.order(self._vnf, self._file, data, self._keep, self._own)

    def _keep(self, answer: bytes) -> None:
        self._answer = answer

    def truncate(self, length: int) -> None:
        """`>` truncates before it writes: no order."""


class ValueHandle(Handle):
    """A stored file whose content is checked: a write that is refused changes nothing.

    Truncating it shows it empty at once, but what it held is only replaced by a write that is
    accepted, or by closing it without one. A write to its beginning replaces it whole, as in
    sysfs: a client that writes first and cuts off the rest later (rsync --inplace) would else
    be refused for what is left of the old content. Of lines, a full buffer that ends amid one waits
    for the write behind it, or for the file to be closed: half a line says something else.

    Args:
        append: what `>>` opens: lines are added to lines, one value takes another's place.
        settled: called with whether a change was accepted.
    """

    def __init__(
        self,
        files: InstanceFiles,
        vnf: Vnf,
        file: str,
        own: Own | None = None,
        *,
        append: bool,
        settled: Callable[[bool], None],
    ) -> None:
        self._files = files
        self._vnf = vnf
        self._file = file
        self._own = own
        self._append = append
        self._settled = settled
        self._lines = files.has_lines(file, own)
        self._content = b"" if append and not self._lines else files.value(vnf, file, own)
        self._truncated = False
        self._waits = False

    def read(self, length: int, offset: int) -> bytes:
        return self._content[offset : offset + length]

    def write(self, data: bytes, offset: int) -> None:
        if self._append:
            if self._lines and not self._waits:
                self._content = self._files.value(self._vnf, self._file, self._own)  # others add lines too
            offset = len(self._content)
        before = self._content if offset else b""
        content = before[:offset].ljust(offset, b"\0") + data + before[offset + len(data) :]
        is_part = not len(data) % BUFFER_BYTES and not content.endswith(b"\n")
        if self._lines and is_part and len(content) < MAX_BYTES:
            self._content = content
            self._waits = True
        else:
            self._set(content)

    def _set(self, content: bytes) -> None:
        waited, self._waits = self._waits, False
        try:
            self._files.set_value(self._vnf, self._file, content, self._own)
        except BaseException as error:
            self._vnf.emptied.discard(self._file)
            self._truncated = False
            if waited:
                self._content = b""
            if not isinstance(error, NotFound):  # else somebody else wanted it to go
                self._settled(False)
            raise
        self._content = content
        self._truncated = False
        self._settled(True)

    def sync(self) -> None:
        if self._waits:
            self._set(self._content)

    def truncate(self, length: int) -> None:
        if length == 0:
            self._waits = False
            self._vnf.emptied.add(self._file)
            self._content = b""
            self._truncated = True
        else:
            content = self._content[:length].ljust(length, b"\0")
            self._files.set_value(self._vnf, self._file, content, self._own)
            self._content = content

    def close(self) -> None:
        try:
            self.sync()
        except (NfioError, OSError) as error:
            log.warning("%s/%s: %s", self._vnf.label, self._file, error)
        if self._truncated:
            self._files.empty_value(self._vnf, self._file, self._own)
            self._settled(not self._vnf.value(self._file))


class StoredHandle(Handle):
    """A stored file that holds whatever was written to it."""

    direct = False

    def __init__(self, path: str, flags: int, mode: int = 0o644) -> None:
        # The kernel has resolved every link on the way and done O_EXCL: none is followed here.
        # O_APPEND would make pwrite ignore its offset, which the kernel has already chosen.
        flags = flags & ~(os.O_APPEND | os.O_EXCL | os.O_NOFOLLOW) | os.O_NOFOLLOW | os.O_CLOEXEC
        if flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
        self._fd = os.open(path, flags, mode)

    @property
    def fd(self) -> int:
        return self._fd

    def read(self, length: int, offset: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class JournalHandle(Handle):
    """``events``: what had happened when it was opened. It is not copied, however long it is."""

    def __init__(self, journal: Journal) -> None:
        self._fd, self._size = journal.open()
        self.seekable = self._size <= LIVE_SIZE

    def read(self, length: int, offset: int) -> bytes:
        return os.pread(self._fd, max(0, min(length, self._size - offset)), offset)

    def close(self) -> None:
        os.close(self._fd)


class StreamHandle(Handle):
    """``pipes/events``: reads block until something happens after the file was opened."""

    def __init__(self, journal: Journal, cancelled: Callable[[], bool]) -> None:
        self._journal = journal
        self._cancelled = cancelled
        self._position = journal.position
        self._pending = b""

    def read(self, length: int, offset: int) -> bytes:
        if not self._pending:
            self._position, self._pending = self._journal.wait(self._position, self._cancelled)
            if not self._pending:
                raise InterruptedError(4, "interrupted")
        chunk, self._pending = self._pending[:length], self._pending[length:]
        return chunk


class GuestStreamHandle(Handle):
    """A stream of a type's own: reads block until the function adds lines to its file.

    It begins where the file ends when it is opened, and goes on with one that takes its place.

    Raises:
        NetworkDown (ENETDOWN): the VNF has ended.
    """

    def __init__(self, vnf: Vnf, path: str, cancelled: Callable[[], bool]) -> None:
        self._vnf = vnf
        self._guest = vnf.running_guest()
        self._path = path
        self._cancelled = cancelled
        self._inode, self._position = self._look()
        self._pending = b""

    def _look(self) -> tuple[int, int]:
        """Inode and size of the file; 0, 0 if there is none."""
        try:
            fd = self._guest.open_file(self._path)
        except OSError:
            return 0, 0
        try:
            found = os.fstat(fd)
            return found.st_ino, found.st_size
        finally:
            os.close(fd)

    def _more(self) -> bytes:
        """Whole lines that were added."""
        inode, size = self._look()
        if inode != self._inode or size < self._position:
            self._inode, self._position = inode, 0
        if size <= self._position:
            return b""
        fd = self._guest.open_file(self._path)
        try:
            found = os.pread(fd, 1 << 20, self._position)
        finally:
            os.close(fd)
        found = found[: found.rfind(b"\n") + 1]
        self._position += len(found)
        return found

    def read(self, length: int, offset: int) -> bytes:
        while not self._pending:
            if self._vnf.running_guest() is not self._guest:
                raise NetworkDown(f"{self._vnf.label} was started anew")
            if self._cancelled():
                raise InterruptedError(4, "interrupted")
            self._pending = self._more()
            if not self._pending:
                time.sleep(STREAM_LOOK_S)
        chunk, self._pending = self._pending[:length], self._pending[length:]
        return chunk
