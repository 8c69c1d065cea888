"""Probes: what a test needs and this machine may lack.

``NFIO_REQUIRE=docker,ansible`` turns a skip for want of one into a failure.
"""

from __future__ import annotations

import os

import pytest

_REQUIRED = set(filter(None, os.environ.get("NFIO_REQUIRE", "").split(",")))


def need(what: str, there: bool, reason: str) -> None:
    """Skip if something is not there, or fail where it is required."""
    if there:
        return
    if what in _REQUIRED:
        pytest.fail(f"{what} is required: {reason}", pytrace=False)
    pytest.skip(f"{what}: {reason}")
