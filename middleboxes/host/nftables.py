"""Named counters of nf_tables, read by netlink.

A dump takes some 10 µs; running ``nft`` for it would take 5 ms, which a monitoring system that
reads hundreds of firewalls cannot afford. Formats: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWOBJ, NFT_MSG_GETOBJ = 18, 19
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 1, 2, 3, 4
NFTA_COUNTER_PACKETS = 2
NFT_OBJECT_COUNTER = 1
NFPROTO_INET = 1
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct(">BBH")  # nfgenmsg: family, version, resource id
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_COUNT = struct.Struct(">Q")
_NEW_COUNTER = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWOBJ
#: more than the kernel puts into one part of a dump for a reader that takes no more (NLMSG_GOODSIZE)
_PART_BYTES = 4096


class PacketCounters:
    """The packets of every named counter of an ``inet`` table, asked for over and over.

    The socket holds its network namespace: it is closed as soon as nobody refers to this any more,
    which is when the guest has ended.

    Args:
        netlink: a NETLINK_NETFILTER socket in the guest's network namespace.
        table: its name. A table that does not exist has no counters.
        timeout_s: how long the kernel may take for one part of an answer.
    """

    def __init__(self, netlink: socket.socket, table: str, timeout_s: float) -> None:
        self.table = table
        self._netlink = netlink
        # The kernel's deadline: one of Python's costs a poll(2) with every call.
        limit = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1_000_000))
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        netlink.settimeout(None)
        body = _FAMILY.pack(NFPROTO_INET, 0, 0)
        body += _attribute(NFTA_OBJ_TABLE, table.encode() + b"\0")
        body += _attribute(NFTA_OBJ_TYPE, struct.pack(">I", NFT_OBJECT_COUNTER))
        kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETOBJ
        self._request = _HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body
        self._length = 0  # of the last answer
        self._found: list[_Place] = []  # what was found in it

    def __del__(self) -> None:
        self._netlink.close()

    def read(self) -> dict[str, int]:
        """What they have counted, by name in the order they were declared.

        Raises:
            TimeoutError: no answer in time. It would be taken for that of the next question: do
                not put one.
            OSError: the kernel refused.
        """
        answer = self._ask()
        # An answer as long with the same names at the same places has the counts there too.
        if len(answer) != self._length or not all(place.is_in(answer) for place in self._found):
            self._found = list(_places(answer, self.table.encode()))
            self._length = len(answer)
        return {place.name: _COUNT.unpack_from(answer, place.count)[0] for place in self._found}

    def _ask(self) -> bytes:
        """All parts of the answer, one after the other."""
        self._netlink.send(self._request)
        answer = b""
        while True:
            try:
                part = self._netlink.recv(_PART_BYTES)
            except BlockingIOError:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
            for kind, start, _ in _messages(part):
                if kind == NLMSG_DONE:
                    return answer + part
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", part, start)[0]
                    if number == errno.ENOENT:
                        return b""
                    raise OSError(number, os.strerror(number))
            answer += part


class _Place:
    """Where in an answer a counter stands.

    Attributes:
        count: where its packets begin.
    """

    __slots__ = ("_at", "_key", "count", "name")

    def __init__(self, name: bytes, at: int, count: int) -> None:
        self.name = name.decode()
        self.count = count
        self._key = name + b"\0"
        self._at = slice(at, at + len(self._key))

    def is_in(self, answer: bytes) -> bool:
        return answer[self._at] == self._key


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Type of each message, and where its payload begins and ends."""
    position = 0
    while position + 16 <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        yield kind, position + 16, position + length
        position += max(16, (length + 3) & ~3)


def _attributes(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type of each attribute between two positions, and where its payload begins and ends."""
    while position + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        yield kind & NLA_TYPE_MASK, position + 4, position + length
        position += max(4, (length + 3) & ~3)


def _places(answer: bytes, table: bytes) -> Iterator[_Place]:
    """Every counter of a table in an answer."""
    for kind, start, end in _messages(answer):
        if kind != _NEW_COUNTER:
            continue
        found = {kind: (begin, stop) for kind, begin, stop in _attributes(answer, start + _FAMILY.size, end)}
        if answer[slice(*found[NFTA_OBJ_TABLE])] != table + b"\0":
            continue
        at, stop = found[NFTA_OBJ_NAME]
        for inner, count, _ in _attributes(answer, *found[NFTA_OBJ_DATA]):
            if inner == NFTA_COUNTER_PACKETS:
                yield _Place(answer[at : stop - 1], at, count)
