"""A running VNF as its type's module sees it: from this host, without entering it."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hypervisor.hypervisor_base import CommandResult
from middleboxes.host import netns
from nfio.errors import HypervisorError, HypervisorTimeout, NotSupported

#: how long a function may take to answer a question about itself
ANSWER_TIMEOUT_S = 2.0


@dataclass
class Guest:
    """A VNF that runs.

    Attributes:
        vnf: ``<type>/<instance>``, for messages.
        address: its own IP address; empty if it has none.
        pid: its first process as this host numbers it; None on another host.
        links: this host's ends of its links.
        execute: runs a program in the guest; only for VNFs on other hosts, see ``tool``.
        memory: what the type's module keeps between two reads while this VNF runs.
        lock: guards ``memory``.
    """

    vnf: str
    address: str
    pid: int | None
    links: tuple[str, ...]
    execute: Callable[[list[str]], CommandResult]
    memory: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _inode: int | None = None

    def __post_init__(self) -> None:
        if self.pid is not None:
            self._inode = netns.namespace_of(self.pid)

    def _namespace(self) -> tuple[int, int]:
        if self.pid is None or self._inode is None:
            raise NotSupported(f"{self.vnf} runs on another host: this file is read on its own host")
        return self.pid, self._inode

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold ``lock`` while the function is asked something.

        Raises:
            HypervisorTimeout (ETIMEDOUT): those before have waited for its answer all the time.
        """
        if not self.lock.acquire(timeout=ANSWER_TIMEOUT_S):
            raise HypervisorTimeout(f"{self.vnf} does not answer")
        try:
            yield
        finally:
            self.lock.release()

    def netlink(self, protocol: int) -> socket.socket:
        """A netlink socket in the VNF's network namespace. Close it soon."""
        made = netns.make_socket(*self._namespace(), socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        made.settimeout(ANSWER_TIMEOUT_S)
        return made

    def http_get(self, port: int, path: str) -> str:
        """Body of an HTTP/1.0 answer from the VNF's own loopback address.

        Raises:
            HypervisorTimeout (ETIMEDOUT): no answer in ANSWER_TIMEOUT_S.
            HypervisorError (EIO): nothing listens there.
        """
        with netns.make_socket(*self._namespace(), socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(ANSWER_TIMEOUT_S)
            try:
                client.connect(("127.0.0.1", port))
                client.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                answer = b""
                while chunk := client.recv(65536):
                    answer += chunk
            except TimeoutError:
                raise HypervisorTimeout(f"{self.vnf} does not answer on its port {port}") from None
            except OSError as error:
                raise HypervisorError(f"{self.vnf}, port {port}: {error.strerror}") from error
        return answer.partition(b"\r\n\r\n")[2].decode(errors="replace")

    def tool(self, *command: str) -> str:
        """Output of one of this host's programs, run in the VNF's network namespace.

        On a VNF of another host the VNF's own program of that name is run.

        Raises:
            HypervisorError (EIO): it failed; the message is its stderr.
        """
        if self.pid is None:
            result = self.execute(list(command))
            if result.exit_code:
                raise HypervisorError(f"{command[0]}: {result.output.decode(errors='replace')}")
            return result.output.decode(errors="replace")
        try:
            with netns.opened(*self._namespace()) as namespace:
                done = subprocess.run(
                    ["nsenter", f"--net=/proc/self/fd/{namespace}", "--", *command],
                    capture_output=True,
                    timeout=ANSWER_TIMEOUT_S,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(namespace,),
                )
        except subprocess.TimeoutExpired:
            raise HypervisorTimeout(f"{command[0]} does not answer") from None
        except OSError as error:
            raise HypervisorError(f"{command[0]}: {error.strerror}") from error
        if done.returncode:
            raise HypervisorError(f"{command[0]}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="replace")
