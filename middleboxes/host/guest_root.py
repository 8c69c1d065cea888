"""Files of a guest, opened on its host: no link of the guest's leads out of its root."""

from __future__ import annotations

import ctypes
import os

from nfio.errors import NetworkDown

_SYS_OPENAT2 = 437  # the same on every architecture
_RESOLVE_IN_ROOT = 0x10
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in(pid: int, path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a file as a process sees it. It never blocks, whatever the file is.

    Raises:
        NetworkDown (ENETDOWN): the process has ended.
        OSError: there is no such file.
    """
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise NetworkDown("its first process has ended") from None
    try:
        how = _OpenHow(flags | os.O_CLOEXEC | os.O_NONBLOCK * (not flags & os.O_PATH), 0, _RESOLVE_IN_ROOT)
        size = ctypes.c_size_t(ctypes.sizeof(how))
        number = ctypes.c_long(_SYS_OPENAT2)
        fd: int = _libc.syscall(number, root, os.fsencode(path), ctypes.byref(how), size)
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
        return fd
    finally:
        os.close(root)
