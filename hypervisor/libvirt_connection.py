"""Where a host's libvirt is, and connections to it.

This host's is ``NFIO_LIBVIRT_URI`` (default qemu:///system). Another host's is reached by ssh,
or as ``NFIO_LIBVIRT_REMOTE_URI`` says, in which ``{host}`` stands for the host.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from hypervisor.libvirt_errors import translate, translate_errors
from hypervisor.libvirt_library import libvirt, run_event_loop
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable

LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
DEFAULT_URI = "qemu:///system"
#: no_tty: ssh asks nobody for a password, since nobody is there
REMOTE_URI = "qemu+ssh://{host}/system?no_tty=1"

#: A daemon that leaves so many pings of this interval unanswered is taken for hung: calls that
#: wait for it end with an error after _KEEPALIVE_S * (_KEEPALIVE_COUNT + 1) seconds.
_KEEPALIVE_S = 2
_KEEPALIVE_COUNT = 3
#: connections of a host that are kept open though nobody uses them
_IDLE = 8


def uri_of(host: str) -> str:
    """URI of a host's libvirt."""
    if host in LOCAL_HOSTS:
        return os.environ.get("NFIO_LIBVIRT_URI") or DEFAULT_URI
    template = os.environ.get("NFIO_LIBVIRT_REMOTE_URI") or REMOTE_URI
    return template.replace("{host}", f"[{host}]" if host.count(":") > 1 else host)


def is_local(host: str) -> bool:
    """Whether the daemon of a URI runs on this machine."""
    return not urlsplit(uri_of(host)).hostname


def open_connection(uri: str, timeout_s: float) -> Any:
    """A connection to a daemon that answered in time.

    virConnectOpen waits for ever for a daemon that is hung, so a thread does it; what it opens
    after the deadline is closed again.

    Raises:
        HypervisorUnreachable, HypervisorTimeout.
    """
    run_event_loop()
    lock = threading.Lock()
    done = threading.Event()
    result: list[Any] = []
    abandoned = False

    def connect() -> None:
        try:
            made: Any = libvirt.open(uri)
        except libvirt.libvirtError as error:
            made = error
        with lock:
            if abandoned:
                if not isinstance(made, Exception):
                    made.close()
                return
            result.append(made)
        done.set()

    threading.Thread(target=connect, name=f"connect {uri}", daemon=True).start()
    done.wait(timeout_s)
    with lock:
        abandoned = not result
    if abandoned:
        raise _late(uri, timeout_s)
    if isinstance(result[0], Exception):
        raise translate(result[0], uri) from result[0]
    with suppress(libvirt.libvirtError):
        result[0].setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)
    return result[0]


def _late(uri: str, timeout_s: float) -> HypervisorError:
    """What is to be said of a daemon that no connection could be opened to in time."""
    if urlsplit(uri).hostname:
        # Whether its host is silent or the daemon on it cannot be told apart from here.
        return HypervisorUnreachable(f"libvirt at {uri} cannot be reached: no answer within {timeout_s:g} s")
    return _hung(uri)


def _hung(uri: str) -> HypervisorTimeout:
    return HypervisorTimeout(f"libvirt at {uri} does not answer; is libvirtd hung?")


class Connections:
    """Open connections, each lent to one caller at a time.

    The daemon serves a few calls of one connection at once and reads nothing more from it, not
    even its keepalives, until one of them is done. With one call each that cannot happen.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[Any]] = defaultdict(list)
        self._pings: dict[str, _Ping] = {}

    @contextmanager
    def borrow(self, host: str, timeout_s: float) -> Iterator[Any]:
        """A connection for the time of the block, in which libvirt's errors are translated."""
        uri = uri_of(host)
        with translate_errors(uri):
            connection = self._take(uri) or open_connection(uri, timeout_s)
            try:
                yield connection
            finally:
                self._give_back(uri, connection)

    def _take(self, uri: str) -> Any | None:
        with self._lock:
            idle = self._idle[uri]
            while idle:
                connection = idle.pop()
                if _is_alive(connection):
                    return connection
                _close(connection)
        return None

    def _give_back(self, uri: str, connection: Any) -> None:
        with self._lock:
            if _is_alive(connection) and len(self._idle[uri]) < _IDLE:
                self._idle[uri].append(connection)
                return
        _close(connection)

    def ping(self, host: str, timeout_s: float) -> None:
        """Return if the daemon answers now; a question that is still waiting is not asked again."""
        uri = uri_of(host)
        with self._lock:
            ping = self._pings.get(uri)
            if ping is None or ping.done.is_set():
                ping = self._pings[uri] = _Ping(self, host, timeout_s)
        ping.start()
        if not ping.done.wait(timeout_s):
            raise _hung(uri) if ping.reached else _late(uri, timeout_s)
        if ping.error is not None:
            raise type(ping.error)(ping.error.reason) from ping.error


class _Ping:
    """One question whether a daemon is there, asked in a thread of its own."""

    def __init__(self, connections: Connections, host: str, timeout_s: float) -> None:
        self._connections = connections
        self._host = host
        self._timeout_s = timeout_s
        self._started = threading.Lock()
        self.done = threading.Event()
        self.reached = False  # a connection is there
        self.error: HypervisorError | None = None

    def start(self) -> None:
        if self._started.acquire(blocking=False):
            threading.Thread(target=self._ask, name=f"ping {self._host}", daemon=True).start()

    def _ask(self) -> None:
        try:
            with self._connections.borrow(self._host, self._timeout_s) as connection:
                self.reached = True
                connection.getLibVersion()
        except HypervisorError as error:
            self.error = error
        finally:
            self.done.set()


def _is_alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _close(connection: Any) -> None:
    with suppress(libvirt.libvirtError):
        connection.close()
