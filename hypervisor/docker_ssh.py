"""Reaching a Docker engine by ssh, the way the docker command does it.

Each connection is an ssh client that runs ``docker system dial-stdio`` on the other host, with
one end of a socket pair for its stdin and stdout. So users, keys, known hosts and jump hosts are
those of the user's ssh configuration, and a connection has the timeouts of a socket, which the
SDK's own ways to ssh have not. The ssh client ends when its end of the pair is closed, or when
the other host has not answered for a while.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

import urllib3
from docker.transport.basehttpadapter import BaseHTTPAdapter
from urllib3.connection import HTTPConnection

from nfio.errors import HypervisorUnreachable

#: how long ssh may take to reach the other host, and how long the first answer may then take
CONNECT_TIMEOUT_S = 8
FIRST_ANSWER_S = 10
#: a connection over which nothing came for three times as long is dead
ALIVE_INTERVAL_S = 3
_LAST_WORDS_S = 1.0


def command_for(url: str) -> list[str]:
    """The ssh client's arguments for ``ssh://[user@]host[:port]``."""
    place = urlsplit(url)
    options = {
        "BatchMode": "yes",  # nobody is there to be asked for a password
        "ConnectTimeout": str(CONNECT_TIMEOUT_S),
        "ServerAliveInterval": str(ALIVE_INTERVAL_S),
        "ServerAliveCountMax": "3",
    }
    command = ["ssh", "-T", *(f"-o{key}={value}" for key, value in options.items())]
    if place.username:
        command += ["-l", place.username]
    if place.port:
        command += ["-p", str(place.port)]
    return [*command, "--", place.hostname or "", "docker", "system", "dial-stdio"]


class _Children:
    """The ssh clients that were started; those that have ended are asked for their exit status."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], stream: socket.socket) -> subprocess.Popen[bytes]:
        self._running = [child for child in self._running if child.poll() is None]
        try:
            end = stream.fileno()
            child = subprocess.Popen(command, stdin=end, stdout=end, stderr=subprocess.PIPE)
        except FileNotFoundError:
            raise HypervisorUnreachable(
                "ssh is not installed on this host: apt-get install openssh-client"
            ) from None
        self._running.append(child)
        return child


_children = _Children()


class _Connection(HTTPConnection):
    def __init__(self, command: list[str], timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._command = command
        self._ssh: subprocess.Popen[bytes] | None = None
        self._answered = False

    def connect(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._ssh = _children.start(self._command, theirs)
        ours.settimeout(self.timeout)
        self.sock = ours
        self._answered = False

    def getresponse(self) -> Any:
        if not self._answered and self.timeout is not None:
            # The first answer comes after everything that ssh has to do.
            self.timeout = max(self.timeout, FIRST_ANSWER_S)
        try:
            response = super().getresponse()
        except ConnectionError as error:
            reason = str(error)
        else:
            self._answered = True
            return response
        # Outside of the handler: ssh's words are the cause, not the end of its stream.
        raise ConnectionResetError(errno.ECONNRESET, self._last_words() or reason)

    def _last_words(self) -> str:
        """Why ssh, or the program it ran on the other host, ended: its last line on stderr."""
        if self._ssh is None or self._ssh.stderr is None:
            return ""
        deadline = time.monotonic() + _LAST_WORDS_S
        while self._ssh.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.set_blocking(self._ssh.stderr.fileno(), False)
        lines = (self._ssh.stderr.read() or b"").decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, command: list[str], timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s, maxsize=10)
        self._command = command
        self._timeout_s = timeout_s

    def _new_conn(self) -> Any:
        return _Connection(self._command, self._timeout_s)


class SshAdapter(BaseHTTPAdapter):
    """Transport of an ``APIClient`` over ssh.

    Args:
        url: ``ssh://[user@]host[:port]``.
        timeout_s: of each connection, unless a request has its own.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__()
        self._connections = _Pool(command_for(url), timeout_s)

    def get_connection(self, url: str | bytes, proxies: object = None) -> _Pool:
        return self._connections

    def request_url(self, request: Any, proxies: object) -> str:
        path: str = request.path_url
        return path

    def close(self) -> None:
        super().close()
        self._connections.close()
