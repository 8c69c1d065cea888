"""A load: four clients at once, in a process of its own, until it is told to end and has done enough.

A kind of load is a script: its ``main`` calls ``go_on``, and a ``Load`` runs it in a client's namespace.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab import Client

LEAST = 1000
CLIENTS = 4


class Load:
    """A script that goes on from its first answer, which is there, until ``end``."""

    def __init__(self, client: Client, script: str, *arguments: str) -> None:
        self._process = client.begin(sys.executable, script, *arguments)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"

    def end(self) -> dict[str, Any]:
        """What the script says of it: ``requests``, ``failed``, and what is its own."""
        self._process.terminate()
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, output
        told: dict[str, Any] = json.loads(output)
        return told


def go_on(request: Callable[[], None], done: Callable[[], int], told: Callable[[], dict[str, Any]]) -> None:
    """Repeat a request until SIGTERM, and print what came of it.

    Args:
        request: makes one and notes how it ended; called by several threads.
        done: how many were made.
        told: what is printed in the end.
    """
    ended, begun = threading.Event(), threading.Event()

    def repeat() -> None:
        while not ended.is_set() or done() < LEAST:
            request()
            begun.set()

    threads = [threading.Thread(target=repeat) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    begun.wait()
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(told()))
