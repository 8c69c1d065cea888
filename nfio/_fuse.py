"""The only module that knows the FUSE binding: fusepy on libfuse 2.

A switch to mfusepy (libfuse 3) would be made here.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import fuse
from fuse import FUSE, FuseOSError, Operations

from nfio.errors import Busy

log = logging.getLogger(__name__)

__all__ = ["ENCODING", "FileInfo", "FuseOSError", "Operations", "caller", "cancelled", "serve"]

#: The open file as libfuse passes it; ``fh`` is ours to set.
FileInfo = fuse.fuse_file_info

#: Paths come as bytes; this codec hands every one of them on, valid UTF-8 or not.
ENCODING = "latin-1"

# libfuse answers these ENOSYS itself, once, and the kernel stops asking: each would be a round
# trip more for every close or open, and none of them has anything to do here.
_UNSERVED = frozenset(
    {
        "access",
        "bmap",
        "flush",
        "fsyncdir",
        "getxattr",
        "ioctl",
        "listxattr",
        "lock",
        "opendir",
        "releasedir",
        "removexattr",
        "setxattr",
    }
)

#: whether libfuse has been asked to mount in this process
_mounted = False

_libfuse = fuse._libfuse
for _name, _result, _arguments in (
    ("fuse_interrupted", ctypes.c_int, []),
    ("fuse_setup", ctypes.c_void_p, None),
    ("fuse_loop", ctypes.c_int, [ctypes.c_void_p]),
    ("fuse_exit", None, [ctypes.c_void_p]),
    ("fuse_get_session", ctypes.c_void_p, [ctypes.c_void_p]),
    ("fuse_session_next_chan", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_void_p]),
    ("fuse_unmount", None, [ctypes.c_char_p, ctypes.c_void_p]),
    ("fuse_destroy", None, [ctypes.c_void_p]),
):
    getattr(_libfuse, _name).restype = _result
    getattr(_libfuse, _name).argtypes = _arguments


class _Workers:
    """The threads that serve a mount: Python's own, each in libfuse's loop for one thread.

    A thread of libfuse's pool is a stranger to Python, which makes a thread state for each call
    that it brings and unmaps it afterwards: several times the cost of the call itself. A thread
    of Python's keeps its state. As in libfuse's pool there is always one more than are busy.

    Attributes:
        ending: a signal or an unmount has ended the mount.
    """

    #: ends the wait of a worker for a call that will not come any more
    _WAKE = signal.SIGUSR1

    def __init__(self) -> None:
        self.ending = threading.Event()
        self._lock = threading.Lock()
        self._idle = 0
        self._handle: int | None = None
        self._threads: list[threading.Thread] = []

    def main(self, argc: int, argv: Any, operations: Any, size: int, data: Any) -> int:
        """In place of ``fuse_main_real``: mount, serve, unmount. Returns 1 if it cannot mount."""
        mountpoint, threaded = ctypes.c_char_p(), ctypes.c_int()
        self._handle = _libfuse.fuse_setup(
            argc,
            argv,
            operations,
            ctypes.c_size_t(size),
            ctypes.byref(mountpoint),
            ctypes.byref(threaded),
            data,
        )
        if not self._handle:
            return 1
        signal.signal(self._WAKE, lambda *_: None)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.ending.set())
        self._start()
        self.ending.wait()
        session = _libfuse.fuse_get_session(self._handle)
        _libfuse.fuse_unmount(mountpoint, _libfuse.fuse_session_next_chan(session, None))
        self._join()
        _libfuse.fuse_destroy(self._handle)
        return 0

    def _start(self) -> None:
        self._idle += 1
        thread = threading.Thread(target=self._work, name=f"worker {len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        _libfuse.fuse_loop(self._handle)
        self.ending.set()

    def _join(self) -> None:
        """Wait for all workers, also for those in calls that block: ``cancelled`` ends them."""
        while alive := [thread for thread in self._threads if thread.is_alive()]:
            # Each loop that ends takes the order to end back.
            _libfuse.fuse_exit(self._handle)
            for thread in alive:
                if thread.ident is not None:
                    signal.pthread_kill(thread.ident, self._WAKE)
            alive[0].join(0.01)

    def begin(self) -> None:
        """A worker has a call to serve."""
        with self._lock:
            self._idle -= 1
            if not self._idle and not self.ending.is_set():
                self._start()

    def end(self) -> None:
        """It has served it."""
        with self._lock:
            self._idle += 1


_workers = _Workers()
_libfuse.fuse_main_real = _workers.main


class _Served:
    """What libfuse is shown of an Operations object."""

    use_ns = True
    # A file that was unlinked while it is open is known by its handle.
    flag_nullpath_ok = 1

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return None if name in _UNSERVED else getattr(self._operations, name)

    def __call__(self, operation: str, *arguments: Any) -> Any:
        return self._operations(operation, *arguments)


class _Mount(FUSE):  # type: ignore[misc]  # fusepy has no types
    """fusepy's side of a mount, shorter where most calls pass: an open file is known by its handle."""

    def __init__(self, operations: Operations, mountpoint: str, **options: Any) -> None:
        self._call = operations
        super().__init__(_Served(operations), mountpoint, **options)

    @staticmethod
    def _wrapper(function: Callable[..., Any], *arguments: Any) -> int:
        """What libfuse calls. Nothing may be raised into it."""
        _workers.begin()
        try:
            return function(*arguments) or 0
        except OSError as error:
            return -(error.errno or errno.EIO)
        except BaseException:
            log.exception("%s failed", function)
            return -errno.EIO
        finally:
            _workers.end()

    def open(self, path: bytes, fip: Any) -> int:
        return self._call("open", path.decode(ENCODING), fip.contents)  # type: ignore[no-any-return]

    def read(self, path: bytes | None, buffer: Any, size: int, offset: int, fip: Any) -> int:
        content = self._call("read", None, size, offset, fip.contents)
        ctypes.memmove(buffer, content, len(content))
        return len(content)

    def release(self, path: bytes | None, fip: Any) -> int:
        return self._call("release", None, fip.contents)  # type: ignore[no-any-return]


def serve(operations: Operations, source: str, mountpoint: str, *, allow_other: bool) -> None:
    """Mount, and serve until it is unmounted.

    Args:
        source: what the list of mounts shows as the mounted device.

    Raises:
        Busy (EBUSY): libfuse could not mount; it has said why on stderr, which is the log.
    """
    global _mounted
    _mounted = True
    try:
        _serve(operations, source, mountpoint, allow_other)
    except RuntimeError as error:
        raise Busy(f"libfuse could not mount at {mountpoint}; the log says why") from error


def _serve(operations: Operations, source: str, mountpoint: str, allow_other: bool) -> None:
    _Mount(
        operations,
        os.fsencode(mountpoint).decode(ENCODING),
        raw_fi=True,
        encoding=ENCODING,
        foreground=True,  # the process is put into the background before threads exist
        fsname=os.fsencode(source).decode(ENCODING).replace("\\", "\\\\").replace(",", "\\,"),
        subtype="nfio",
        allow_other=allow_other,
        default_permissions=True,
        atomic_o_trunc=True,  # open says whether it truncates: an order is not an empty file first
        big_writes=True,
        hard_remove=True,  # no .fuse_hidden files: an open file that is unlinked lives in its handle
    )


def caller() -> tuple[int, int, int]:
    """uid, gid and pid of the process whose system call is being served.

    Without a mount it is this process: libfuse has no context then, and would hand out memory
    that is not its own.
    """
    if not _mounted:
        return os.getuid(), os.getgid(), os.getpid()
    uid, gid, pid = fuse.fuse_get_context()
    return uid, gid, pid


def cancelled() -> bool:
    """Whether the system call being served was interrupted, or the mount is ending."""
    if not _mounted:
        return False
    return _workers.ending.is_set() or bool(_libfuse.fuse_interrupted())
