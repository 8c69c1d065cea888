"""The contract of hypervisor drivers: one suite, run once for each driver, on its real engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import Guests, Life, live
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is asked of containers where guests are machines, and the other way round."""
    left_out = []
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("subject")
        if name in SUBJECTS:
            foreign = "machines" if SUBJECTS[name].shares_kernel else "containers"
            if item.get_closest_marker(foreign):
                left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def shared_guests(subject: Subject, driver: HypervisorBase) -> Iterator[Guests]:
    """The root of the shared guest. What a test adds to it, it takes away again."""
    made = Guests(subject, driver)
    yield made
    made.remove()


@pytest.fixture(scope="session")
def shared(shared_guests: Guests) -> str:
    """A guest that runs, for tests that leave it as it is: starting one takes a machine seconds."""
    return shared_guests.run()


@pytest.fixture(scope="session")
def life(subject: Subject, driver: HypervisorBase) -> Life:
    """What was seen of a guest from its making to its end."""
    return live(Guests(subject, driver))


@pytest.fixture
def guests(subject: Subject, driver: HypervisorBase) -> Iterator[Guests]:
    made = Guests(subject, driver)
    yield made
    made.remove()
