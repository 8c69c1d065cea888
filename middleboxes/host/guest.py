"""A running VNF as its type's module sees it: from this host, without entering it."""

from __future__ import annotations

import json
import math
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from hypervisor.hypervisor_base import CommandResult, Usage
from middleboxes.host import guest_root, netns
from middleboxes.host.cgroups import GroupUsage, read_process_usage
from middleboxes.host.links import drops_in
from middleboxes.host.nftables import NETLINK_NETFILTER, PacketCounters
from middleboxes.host.open_file import OpenFile
from nfio.errors import HypervisorError, HypervisorTimeout, NetworkDown, NotSupported

#: how long a function may take to answer a question about itself
ANSWER_TIMEOUT_S = 2.0
#: no more is read of a file that a function writes, and of an answer
FILE_LIMIT_BYTES = 1 << 20
ANSWER_LIMIT_BYTES = 16 << 20


# Until when whoever has its turn is answered: the time that it waited for its turn counts.
_until: ContextVar[float] = ContextVar("until", default=math.inf)


def _deadline() -> float:
    return min(_until.get(), time.monotonic() + ANSWER_TIMEOUT_S)


@dataclass
class Guest:
    """A VNF that runs.

    Attributes:
        vnf: ``<type>/<instance>``, for messages.
        address: its own IP address; empty if it has none.
        pid: its first process as this host numbers it (of a machine: the one that emulates it);
            None on another host.
        links: this host's ends of its links.
        execute: runs a program in the guest; only for those that this host cannot look into.
        shares_kernel: this host can look into its namespaces; not so for a machine.
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
    shares_kernel: bool = True
    _inode: int | None = None
    _usage: GroupUsage | None = None
    _devices: OpenFile | None = None
    _filter: PacketCounters | None = None

    def __post_init__(self) -> None:
        if self.pid is not None and self.shares_kernel:
            self._inode = netns.namespace_of(self.pid)

    @property
    def is_open(self) -> bool:
        """Whether this host sees its namespaces: it is a container, and here."""
        return self.pid is not None and self.shares_kernel

    def _namespace(self) -> tuple[int, int]:
        if self.pid is None:
            raise NotSupported(f"{self.vnf} runs on another host: this file is read on its own host")
        if self._inode is None:
            raise NotSupported(f"{self.vnf} is a machine: this host does not see its network")
        return self.pid, self._inode

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold ``lock`` while the function is asked something with ``exchange`` or ``http_get``.

        Raises:
            HypervisorTimeout (ETIMEDOUT): those before have waited for its answer all the time.
        """
        deadline = _deadline()
        if not self.lock.acquire(timeout=ANSWER_TIMEOUT_S):
            raise HypervisorTimeout(f"{self.vnf} does not answer")
        token = _until.set(deadline)
        try:
            yield
        finally:
            _until.reset(token)
            self.lock.release()

    def netlink(self, protocol: int) -> socket.socket:
        """A netlink socket in the VNF's network namespace. Close it soon."""
        made = netns.make_socket(*self._namespace(), socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        made.settimeout(ANSWER_TIMEOUT_S)
        return made

    def http_get(self, port: int, path: str) -> str:
        """Body of an HTTP/1.0 answer from the VNF's own loopback address.

        A machine is asked by a program in it: its loopback is out of this host's reach.
        Raises as ``exchange`` does.
        """
        if not self.shares_kernel:
            return self._ask_inside("wget", "-q", "-O", "-", f"http://127.0.0.1:{port}{path}")
        answer = self.exchange(port, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return answer.partition(b"\r\n\r\n")[2].decode(errors="replace")

    def exchange(self, where: int | str, request: bytes, end: bytes = b"") -> bytes:
        """The answer of a program in the VNF, which is sent a request.

        Args:
            where: a TCP port of the VNF's loopback address, or the path of a unix socket in it.
            end: what the answer ends with; b"": it ends when the program closes the connection.

        Raises:
            HypervisorTimeout (ETIMEDOUT): no whole answer in ANSWER_TIMEOUT_S.
            HypervisorError (EIO): nothing listens there, or it does not stop to answer.
            NotSupported (EOPNOTSUPP): it is a machine, or on another host.
        """
        deadline = _deadline()
        place = f"port {where}" if isinstance(where, int) else where
        try:
            with self._connected(where, deadline) as client:
                client.sendall(request)
                answer = bytearray()
                while not (end and answer.endswith(end)):
                    client.settimeout(max(0.001, deadline - time.monotonic()))
                    chunk = client.recv(1 << 16)
                    if not chunk:
                        break
                    answer += chunk
                    if len(answer) > ANSWER_LIMIT_BYTES:
                        raise HypervisorError(f"{self.vnf} answers without an end on its {place}")
        except TimeoutError:
            raise HypervisorTimeout(f"{self.vnf} does not answer on its {place}") from None
        except BlockingIOError:  # a unix socket with more waiting than it takes
            raise HypervisorTimeout(f"{self.vnf} does not answer on its {place}") from None
        except OSError as error:
            raise HypervisorError(f"{self.vnf}, {place}: {error.strerror}") from error
        return bytes(answer)

    @contextmanager
    def _connected(self, where: int | str, deadline: float) -> Iterator[socket.socket]:
        namespace = self._namespace()
        timeout_s = max(0.001, deadline - time.monotonic())
        if isinstance(where, int):
            with netns.make_socket(*namespace, socket.AF_INET, socket.SOCK_STREAM) as client:
                client.settimeout(timeout_s)
                client.connect(("127.0.0.1", where))
                yield client
            return
        fd = self.open_file(where, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(timeout_s)
                client.connect(f"/proc/self/fd/{fd}")
                yield client
        finally:
            os.close(fd)

    def open_file(self, path: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of a file in the VNF, as open(2) gives it. Close it.

        Raises:
            OSError: there is no such file.
            NotSupported (EOPNOTSUPP): it is a machine, or on another host.
        """
        pid, inode = self._namespace()
        fd = guest_root.open_in(pid, path, flags)
        if netns.namespace_of(pid) != inode:  # the number is another process's by now
            os.close(fd)
            raise NetworkDown("its first process has ended")
        return fd

    def read_file(self, path: str, limit: int = FILE_LIMIT_BYTES) -> str:
        """The last ``limit`` bytes of a file in the VNF; in a machine, cat(1) reads it.

        Raises:
            HypervisorError (EIO): there is no such file.
        """
        if not self.shares_kernel:
            return self._ask_inside("cat", path)[-limit:]
        try:
            with os.fdopen(self.open_file(path), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise HypervisorError(f"{self.vnf}: {path} is not a file")
                file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
                return file.read(limit).decode(errors="replace")
        except OSError as error:
            raise HypervisorError(f"{self.vnf}, {path}: {error.strerror}") from error

    def tool(self, *command: str) -> str:
        """Output of one of this host's programs, run in the VNF's network namespace.

        On a VNF of another host, and on a machine, the VNF's own program of that name is run.

        Raises:
            HypervisorError (EIO): it failed; the message is its stderr.
        """
        if not self.is_open:
            return self._ask_inside(*command)
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

    def usage(self) -> Usage:
        """CPU and memory that it uses. NetworkDown (ENETDOWN) if it has ended."""
        if self.pid is None:
            raise NotSupported(f"{self.vnf} runs on another host")
        if not self.shares_kernel:
            return read_process_usage(self.pid)
        if self._usage is None:
            self._usage = GroupUsage(self.pid)
        return self._usage.read()

    def link_drops(self) -> int:
        """Packets dropped at its own ends of its links; 0 where this host does not see them."""
        if not self.is_open:
            return 0
        if self._devices is None:
            pid, inode = self._namespace()
            try:
                devices = OpenFile(f"/proc/{pid}/net/dev")
            except OSError:
                raise NetworkDown("its first process is gone") from None
            if netns.namespace_of(pid) != inode:
                raise NetworkDown("its first process has ended")
            self._devices = devices
        return drops_in(self._devices.read_all())

    def packet_counters(self, table: str) -> dict[str, int]:
        """Packets of every named counter of an ``inet`` table of nf_tables; none if there is no table."""
        if self.is_open:
            with self.turn():
                if self._filter is None or self._filter.table != table:
                    channel = self.netlink(NETLINK_NETFILTER)
                    self._filter = PacketCounters(channel, table, ANSWER_TIMEOUT_S)
                try:
                    return self._filter.read()
                except OSError as error:
                    self._filter = None  # an answer that came late would be taken for the next one
                    if isinstance(error, TimeoutError):
                        raise HypervisorTimeout(f"{self.vnf}: its packet filter does not answer") from None
                    raise HypervisorError(f"{self.vnf}: its packet filter: {error.strerror}") from error
        listing = json.loads(self.tool("nft", "-j", "list", "counters", "table", "inet", table))
        found = (item["counter"] for item in listing["nftables"] if "counter" in item)
        return {counter["name"]: int(counter["packets"]) for counter in found}

    def _ask_inside(self, *command: str) -> str:
        result = self.execute(list(command))
        output = result.output.decode(errors="replace")
        if result.exit_code:
            raise HypervisorError(f"{command[0]}: {output}")
        return output
