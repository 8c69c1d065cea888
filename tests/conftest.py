"""Probes and fixtures. ``NFIO_REQUIRE=docker,ansible`` turns a skip for want of one into a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import engine as engines
import pytest
from mount import NFIO, Mount
from probes import need


@pytest.fixture(scope="session")
def docker() -> str:
    """URL of the machine's Docker engine."""
    need("docker", engines.answers(), "no engine answers; scripts/setup starts one")
    return engines.SOCKET


@pytest.fixture(scope="session")
def native() -> None:
    """This machine can run VNFs without an engine."""
    missing = [program for program in ("runc", "conmon") if shutil.which(program) is None]
    need("native", not missing, f"{', '.join(missing)} is not installed; scripts/setup installs it")


@pytest.fixture(scope="session")
def images(docker: str) -> None:
    """The images of all types are built."""
    need("docker", shutil.which("mmdebstrap") is not None, "mmdebstrap is not installed")
    build("docker")


@pytest.fixture(scope="session")
def native_images(native: None) -> None:
    """The same for the Native driver."""
    need("native", shutil.which("mmdebstrap") is not None, "mmdebstrap is not installed")
    build("native")


def build(engine: str) -> None:
    command = [*NFIO, "image", "build", "firewall", "web", "--for", engine]
    subprocess.run(command, check=True, timeout=300)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short-named directory of the test's own; sockets and mounts do not like long names."""
    with tempfile.TemporaryDirectory(prefix="nfio-", ignore_cleanup_errors=True) as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def mount(docker: str, directory: Path) -> Iterator[Mount]:
    """nfio, mounted on the machine's engine. VNFs can be defined; images may be missing."""
    made = Mount(directory)
    made.mount()
    yield made
    made.close()


@pytest.fixture
def nfio(images: None, mount: Mount) -> Mount:
    """nfio, mounted, with the images that its VNFs need."""
    return mount
