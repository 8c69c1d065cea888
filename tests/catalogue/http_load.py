"""HTTP requests of a load: how many failed, and which pages came how often."""

from __future__ import annotations

import collections
import sys
import threading
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import load

if TYPE_CHECKING:
    from lab import Client


@dataclass(frozen=True)
class Done:
    """What came of a load: requests, what was wrong with those that failed, how often each page came."""

    requests: int
    failed: list[str]
    pages: dict[str, int]


class Load:
    """Requests for one URL, from their first answer until ``end``."""

    def __init__(self, client: Client, url: str) -> None:
        self._load = load.Load(client, __file__, url)

    def end(self) -> Done:
        return Done(**self._load.end())


def main() -> None:
    lock = threading.Lock()
    pages: collections.Counter[str] = collections.Counter()
    failed: list[str] = []

    def request() -> None:
        try:
            with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
                page = answer.read().decode().strip()
            with lock:
                pages[page] += 1
        except Exception as error:  # whatever it is, it is a request that failed
            with lock:
                failed.append(repr(error))

    def done() -> int:
        with lock:
            return sum(pages.values()) + len(failed)

    load.go_on(request, done, lambda: {"requests": done(), "failed": failed, "pages": pages})


if __name__ == "__main__":
    main()
