"""Network namespaces: making one, and entering one with a single thread (namespaces(7))."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: int) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


@contextmanager
def _restored() -> Iterator[None]:
    """Bring this thread back into the network namespace that it is in now."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


@contextmanager
def entered(namespace: int) -> Iterator[None]:
    """Run the body in a namespace, given as an open file; other threads are not moved."""
    with _restored():
        _call("setns", namespace, CLONE_NEWNET)
        yield


def make() -> int:
    """A namespace just made, as an open file. It goes away with that and its last process."""
    with _restored():
        _call("unshare", CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
