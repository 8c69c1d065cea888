"""haproxy's runtime API on its unix socket (haproxy management guide, 9.3)."""

from __future__ import annotations

import csv

from middleboxes.host.guest import Guest
from nfio.errors import ConfigurationRejected

SOCKET = "/run/haproxy.sock"
FRONTEND, SERVER = 1, 4


def ask(guest: Guest, command: str) -> str:
    """haproxy's answer to one command. Raises as ``Guest.exchange`` does."""
    return guest.exchange(SOCKET, f"{command}\n".encode()).decode(errors="replace").strip()


def order(guest: Guest, command: str, *expected: str) -> None:
    """A command that is answered by silence, or by words of which one is expected.

    Raises:
        ConfigurationRejected (EINVAL): it is answered by others.
    """
    answer = ask(guest, command)
    if answer and not any(words in answer for words in expected):
        raise ConfigurationRejected(f"haproxy: {answer}")


def statistics(guest: Guest, proxy: str, kind: int) -> list[dict[str, str]]:
    """Rows of ``show stat`` by their columns: of all frontends, or of a backend's servers.

    Args:
        proxy: its name; ``-1`` is every one.
        kind: FRONTEND or SERVER.
    """
    text = ask(guest, f"show stat {proxy} {kind} -1").removeprefix("# ")
    return list(csv.DictReader(text.splitlines()))
