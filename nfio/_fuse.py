"""The only module that knows the FUSE binding: fusepy on libfuse 2.

A switch to mfusepy (libfuse 3) would be made here.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import fuse
from fuse import FUSE, FuseOSError, Operations

from nfio.errors import Busy

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
_libfuse.fuse_interrupted.restype = ctypes.c_int
_libfuse.fuse_exited.argtypes = [ctypes.c_void_p]
_libfuse.fuse_exited.restype = ctypes.c_int


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
    FUSE(
        _Served(operations),
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
    context = _libfuse.fuse_get_context().contents
    return bool(_libfuse.fuse_interrupted() or _libfuse.fuse_exited(context.fuse))
