"""`nfio image`: building, listing and removing, on a store of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engine import wait_until
from mount import NFIO

TYPE = """
from middleboxes import Middlebox, Recipe

MIDDLEBOX = Middlebox(
    type="echo", summary="a type with nothing in it", recipe=Recipe(packages=()), check=("true",), reload=("true",)
)
"""


@pytest.fixture
def types(directory: Path) -> Path:
    """A module root with one small type."""
    place = directory / "types"
    place.mkdir()
    (place / "echo.py").write_text(TYPE)
    return place


@pytest.fixture
def store(native: None, directory: Path) -> Path:
    return directory / "native"


class Images:
    """The command, with a store and a directory for temporary files of the test's own."""

    def __init__(self, store: Path, types: Path) -> None:
        self.temporary = store.with_name("tmp")
        self.temporary.mkdir()
        self.types = types
        self.environment = {
            **os.environ,
            "NFIO_NATIVE_DIR": str(store),
            "NFIO_NATIVE_BRIDGE": "nfioimages",
            "TMPDIR": str(self.temporary),
        }

    def build(self, *options: str) -> list[str]:
        return [
            *NFIO,
            "image",
            "build",
            "echo",
            "--for",
            "native",
            "--module-root",
            str(self.types),
            *options,
        ]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def listed(self) -> dict[str, list[str]]:
        """Columns of the native images, by name."""
        done = self.run(*NFIO, "image", "list")
        rows = [line.split() for line in done.stdout.splitlines()[1:]]
        return {row[0]: row[2:] for row in rows if row[1] == "native"}


@pytest.fixture
def images(store: Path, types: Path) -> Iterator[Images]:
    yield Images(store, types)


def test_an_image_is_built_once_listed_and_removed_when_nothing_is_made_from_it(images: Images) -> None:
    done = images.run(*images.build())
    assert done.returncode == 0, done.stderr
    assert "nfio/echo built for native" in done.stdout
    assert list(images.temporary.iterdir()) == []
    size, unit, age, *_ = images.listed()["nfio/echo"]
    assert float(size) > 1 and unit == "MB" and int(age) < 60
    assert "up to date for native" in images.run(*images.build()).stdout

    deploy = "from hypervisor.native_driver import Native; print(*Native().deploy('', 'me', 'nfio/echo', 'echo-1'))"
    vnf_id = images.run(sys.executable, "-c", deploy).stdout.split()[0]
    done = images.run(*NFIO, "image", "rm", "nfio/echo", "--for", "native")
    assert done.returncode == 1 and "me-echo-1" in done.stderr and "destroy" in done.stderr
    assert list(images.listed()) == ["nfio/echo"]
    destroy = f"from hypervisor.native_driver import Native; Native().destroy('', {vnf_id!r})"
    assert images.run(sys.executable, "-c", destroy).returncode == 0
    done = images.run(*NFIO, "image", "rm", "nfio/echo", "--for", "native")
    assert (done.returncode, done.stdout) == (0, "nfio/echo removed from native\n")
    assert images.listed() == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rm", "nfio/none", "--for", "native"], "no image nfio/none in native"),
        (["rm", "nfio/none", "--for", "xen"], "one or more of docker,libvirt,native"),
        (["build", "nothing", "--for", "native"], "no module implements the type nothing"),
        (["build"], "say which types, or --all"),
    ],
)
def test_what_cannot_be_done_is_said(images: Images, arguments: list[str], words: str) -> None:
    done = images.run(*NFIO, "image", *arguments)
    assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_an_interrupted_build_leaves_nothing_half_made(images: Images, store: Path, number: int) -> None:
    process = subprocess.Popen(
        images.build(), env=images.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: psutil.Process(process.pid).children(), 30, "mmdebstrap runs")
        process.send_signal(number)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    assert images.listed() == {}
    assert not list(store.glob("images/*"))
    if number != signal.SIGKILL:
        assert list(images.temporary.iterdir()) == []
        assert str(images.temporary) not in Path("/proc/self/mountinfo").read_text()
    wait_until(lambda: not _builders(images.temporary), 30, "what it started has ended")


def _builders(directory: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(directory) in word for word in process.info["cmdline"] or ())
    ]
