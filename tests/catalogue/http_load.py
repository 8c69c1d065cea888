"""HTTP requests of four clients at once, until they are told to end, and at least 1,000."""

from __future__ import annotations

import collections
import json
import signal
import sys
import threading
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab import Client

LEAST = 1000
CLIENTS = 4


@dataclass(frozen=True)
class Done:
    """What came of a load: requests, what was wrong with those that failed, how often each page came."""

    requests: int
    failed: list[str]
    pages: dict[str, int]


class Load:
    """It goes on from the first answer, which is there, until ``end``."""

    def __init__(self, client: Client, url: str) -> None:
        self._process = client.begin(sys.executable, __file__, url)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"

    def end(self) -> Done:
        self._process.terminate()
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, output
        return Done(**json.loads(output))


def main() -> None:
    ended = threading.Event()
    begun = threading.Event()
    lock = threading.Lock()
    pages: collections.Counter[str] = collections.Counter()
    failed: list[str] = []

    def ask() -> None:
        while not ended.is_set() or sum(pages.values()) + len(failed) < LEAST:
            try:
                with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
                    page = answer.read().decode().strip()
                with lock:
                    pages[page] += 1
            except Exception as error:  # whatever it is, it is a request that failed
                with lock:
                    failed.append(repr(error))
            begun.set()

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    begun.wait()
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps({"requests": sum(pages.values()) + len(failed), "failed": failed, "pages": pages}))


if __name__ == "__main__":
    main()
