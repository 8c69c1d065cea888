"""DNS queries over UDP (RFC 1035, 4): one, or those of four clients at once until they are told to end."""

from __future__ import annotations

import itertools
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import load

if TYPE_CHECKING:
    from lab import Client

ATTEMPT_S = 1.0
ATTEMPTS = 3  # as dig(1): who asks over UDP asks again


def _name_end(message: bytes, at: int) -> int:
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def parse(message: bytes) -> tuple[int, list[str]]:
    """Code of an answer, and the addresses in it (A)."""
    _, flags, questions, answers, _, _ = struct.unpack("!6H", message[:12])
    at, found = 12, []
    for _ in range(questions):
        at = _name_end(message, at) + 4
    for _ in range(answers):
        at = _name_end(message, at)
        kind, _, _, length = struct.unpack("!HHIH", message[at : at + 10])
        at += 10 + length
        if kind == 1:
            found.append(socket.inet_ntoa(message[at - 4 : at]))
    return flags & 15, sorted(found)


def ask(server: str, name: str, number: int) -> tuple[int, list[str], int]:
    """Code and addresses of the answer, and how often it had to be asked. TimeoutError if there is none."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    request = struct.pack("!6H", number & 0xFFFF, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(ATTEMPT_S)
        client.connect((server, 53))
        for attempt in range(1, ATTEMPTS + 1):
            client.send(request)
            try:
                return *parse(client.recv(4096)), attempt
            except TimeoutError:
                continue
    raise TimeoutError(f"{name}: no answer to {ATTEMPTS} queries")


@dataclass(frozen=True)
class Done:
    """What came of a load: names asked for, what was wrong with those that failed, queries asked again."""

    requests: int
    failed: list[str]
    again: int


class Load:
    """Half of it asks for ``known``, the other half for new names below ``far``; each has ``answer``."""

    def __init__(self, client: Client, server: str, known: str, far: str, answer: str) -> None:
        self._load = load.Load(client, __file__, server, known, far, answer)

    def end(self) -> Done:
        return Done(**self._load.end())


def main() -> None:
    server, known, far, answer = sys.argv[1:]
    numbers = itertools.count()
    asked: list[int] = []
    failed: list[str] = []

    def request() -> None:
        number = next(numbers)
        name = known if number % 2 else f"n{number}.{far}"
        try:
            code, addresses, attempts = ask(server, name, number)
            asked.append(attempts)
            if (code, addresses) != (0, [answer]):
                failed.append(f"{name}: {code} {addresses}")
        except OSError as error:
            asked.append(ATTEMPTS)
            failed.append(repr(error))

    def told() -> dict[str, object]:
        return {"requests": len(asked), "failed": failed, "again": sum(asked) - len(asked)}

    load.go_on(request, lambda: len(asked), told)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(*ask(sys.argv[1], sys.argv[2], 1))
    else:
        main()
