"""Probes and fixtures. ``NFIO_REQUIRE=docker,ansible`` turns a skip for want of one into a failure.

A test that takes ``view``, or a mount, runs once for each engine of the whole suite. It names
others by ``@pytest.mark.engines("Docker")``; ``MAIN_LINE`` are all that there are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import engine as engines
import pytest
from engine_view import EngineView
from mount import Mount, mounted
from native_view import NativeView
from probes import need
from stock import build
from views import VIEWS, WHOLE_SUITE


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engines(name, ...): the engines that it runs on")
    for view in VIEWS.values():
        config.addinivalue_line("markers", f"{view.name.lower()}: needs the engine of {view.name}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "view" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("engines")
        names = marker.args if marker is not None else WHOLE_SUITE
        parameters = [pytest.param(name, marks=getattr(pytest.mark, name.lower())) for name in names]
        metafunc.parametrize("view", parameters, indirect=True, scope="session")


@pytest.fixture(scope="session")
def docker() -> str:
    """URL of the machine's Docker engine."""
    need("docker", engines.answers(), "no engine answers; scripts/setup starts one")
    return engines.SOCKET


@pytest.fixture(scope="session")
def native() -> None:
    """This machine can run VNFs without an engine."""
    missing = NativeView().missing()
    need("native", not missing, missing)


@pytest.fixture(scope="session")
def images(docker: str) -> None:
    """The images of all types are built."""
    build("docker")


@pytest.fixture(scope="session")
def native_images(native: None) -> None:
    """The same for the Native driver."""
    build("native")


@pytest.fixture(scope="session")
def view(request: pytest.FixtureRequest) -> Iterator[EngineView]:
    """Each engine in turn, as it is without nfio. Images may be missing."""
    made = VIEWS[request.param]()
    missing = made.missing()
    need(made.probe, not missing, missing)
    with tempfile.TemporaryDirectory(prefix="nfio-e2e-", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o711)
        made.begin(Path(place))
        yield made
        try:
            engines.wait_until(lambda: not made.leftovers(), 10, "nothing is left behind")
        except AssertionError:
            raise AssertionError(f"left behind: {made.leftovers()}") from None


@pytest.fixture(scope="session")
def stocked(view: EngineView) -> EngineView:
    """An engine that has the images of all types."""
    build(view.probe)
    view.stock()
    return view


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short-named directory of the test's own; sockets and mounts do not like long names."""
    with tempfile.TemporaryDirectory(prefix="nfio-", ignore_cleanup_errors=True) as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def mount(view: EngineView, directory: Path) -> Iterator[Mount]:
    """nfio, mounted on the machine's engine. VNFs can be defined; images may be missing."""
    made = Mount(directory, view)
    made.mount()
    yield made
    made.close()


@pytest.fixture
def nfio(stocked: EngineView, mount: Mount) -> Mount:
    """nfio, mounted, with the images that its VNFs need."""
    return mount


@pytest.fixture(scope="session")
def _shared(stocked: EngineView) -> Iterator[Mount]:
    with mounted(stocked) as made:
        yield made


@pytest.fixture
def shared(_shared: Mount) -> Iterator[Mount]:
    """The same with a mount that many tests use, one after the other; each finds it empty."""
    yield _shared
    _shared.clear()
