"""Freezing containers: on control groups of version 1 runc may not succeed at once.

The kernel freezes a group while its processes run on, and may miss one that is just made; runc
tries for a while, gives up with "unable to freeze", and lets the group run.
"""

from __future__ import annotations

from collections.abc import Callable

from nfio.errors import HypervisorError

ATTEMPTS = 3


def freeze_at_last(freeze: Callable[[], object]) -> None:
    """Call what freezes a container until it does. The error of its last attempt, or of any other kind, is raised."""
    for left in reversed(range(ATTEMPTS)):
        try:
            freeze()
            return
        except HypervisorError as error:
            if "unable to freeze" not in error.reason or not left:
                raise
