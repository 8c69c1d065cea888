"""Entering a network namespace with one thread, for as long as a socket takes to be made."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from hypervisor.network_namespace import entered
from nfio.errors import NetworkDown


def namespace_of(pid: int) -> int | None:
    """The inode that identifies a process's network namespace; None if the process is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


@contextmanager
def opened(pid: int, inode: int) -> Iterator[int]:
    """A file descriptor of a process's network namespace, which it holds while it is open.

    Args:
        pid: a process in it.
        inode: what ``namespace_of`` said when the process was known to be the guest's: a pid
            that has since been given to another process is recognised by it.

    Raises:
        NetworkDown (ENETDOWN): the namespace is not there any more.
    """
    try:
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise NetworkDown("its network namespace is gone") from None
    try:
        if os.fstat(there).st_ino != inode:
            raise NetworkDown("its network namespace is gone")
        yield there
    finally:
        os.close(there)


@contextmanager
def inside(pid: int, inode: int) -> Iterator[None]:
    """Run the body in the network namespace of a process; other threads are not moved.

    Raises:
        NetworkDown (ENETDOWN): the namespace is not there any more (see ``opened``).
    """
    with opened(pid, inode) as there, entered(there):
        yield


def make_socket(pid: int, inode: int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in a guest's network namespace. Close it soon: it holds it."""
    with inside(pid, inode):
        return socket.socket(family, kind, protocol)
