"""The contract of hypervisor drivers: one suite, run once for each driver, on its real engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import Guests
from subjects import PROGRAMS, SUBJECTS, Subject

from hypervisor.hypervisor_base import HypervisorBase


@pytest.fixture(scope="session", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each driver's engine in turn."""
    found = SUBJECTS[request.param]
    for fixture in found.fixtures:
        request.getfixturevalue(fixture)
    return found


@pytest.fixture(scope="session")
def driver(subject: Subject) -> Iterator[HypervisorBase]:
    """The driver; its engine has the images of the suite."""
    with tempfile.TemporaryDirectory(prefix="nfio-contract-", ignore_cleanup_errors=True) as directory:
        files = subject.root_file_system()
        subject.begin(Path(directory))
        made = subject.driver()
        subject.make_images(made, Path(directory), files)
        yield made
        for program in PROGRAMS:
            made.remove_image(subject.image(program))
        subject.end()


@pytest.fixture
def guests(subject: Subject, driver: HypervisorBase) -> Iterator[Guests]:
    made = Guests(subject, driver)
    yield made
    made.remove()
