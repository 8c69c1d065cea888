"""What the tests of the types share. Each module names the types it needs in ``TYPES``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_view import EngineView
from lab import Client, NewClient
from mount import Mount, Vnf, mounted
from stock import build


@pytest.fixture(scope="module")
def catalogue(view: EngineView, request: pytest.FixtureRequest) -> Iterator[Mount]:
    """nfio, mounted on an engine that has the images of the module's types."""
    build(view.probe, request.module.TYPES)
    view.stock()
    with mounted(view) as made:
        yield made


@pytest.fixture
def nfio(catalogue: Mount) -> Iterator[Mount]:
    """The same for each test: it finds it empty."""
    yield catalogue
    catalogue.clear()


@pytest.fixture
def client() -> Iterator[NewClient]:
    """Makes clients of a running VNF; they go when the test ends."""
    made: list[Client] = []

    def new(vnf: Vnf) -> Client:
        made.append(Client(vnf))
        return made[-1]

    yield new
    for one in made:
        one.close()
