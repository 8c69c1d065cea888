"""Freezing that takes more than one attempt."""

from __future__ import annotations

import pytest

from hypervisor.hypervisor_freezing import ATTEMPTS, freeze_at_last
from nfio.errors import HypervisorError, NoSuchVnf

UNABLE = "Cannot pause container a: OCI runtime pause failed: unable to freeze: unknown"


class Freezer:
    """Fails as it is told, attempt by attempt."""

    def __init__(self, *failures: HypervisorError) -> None:
        self.failures = list(failures)
        self.attempts = 0

    def __call__(self) -> None:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)


def test_it_is_tried_again_until_it_succeeds() -> None:
    freezer = Freezer(HypervisorError(UNABLE))
    freeze_at_last(freezer)
    assert freezer.attempts == 2


def test_the_last_attempt_fails_aloud() -> None:
    freezer = Freezer(*[HypervisorError(UNABLE)] * 9)
    with pytest.raises(HypervisorError, match="unable to freeze"):
        freeze_at_last(freezer)
    assert freezer.attempts == ATTEMPTS


def test_what_fails_otherwise_is_not_tried_again() -> None:
    freezer = Freezer(NoSuchVnf("no such container"))
    with pytest.raises(NoSuchVnf):
        freeze_at_last(freezer)
    assert freezer.attempts == 1
