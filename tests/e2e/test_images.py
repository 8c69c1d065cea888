"""`nfio image`: building, listing and removing, in stores of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import engine as engines
import psutil
import pytest
from engine import wait_until
from mount import NFIO
from probes import need
from views import MAIN_LINE, VIEWS

#: Docker's images are this machine's: nobody else has one of this name.
KIND = f"scratch{os.getpid()}"
IMAGE = f"nfio/{KIND}"
TYPE = f"""
from middleboxes import Middlebox, Recipe

MIDDLEBOX = Middlebox(
    type="{KIND}", summary="a type with nothing in it", recipe=Recipe(packages=()), check=("true",), reload=("true",)
)
"""
#: Makes a VNF, or removes one: the driver, what to do, with which arguments.
DRIVE = """\
import json, sys
from hypervisor.hypervisor_factory import make_driver
name, method, arguments = sys.argv[1:]
print(json.dumps(getattr(make_driver(name), method)("", *json.loads(arguments))))
"""


class Images:
    """The command, with stores and a directory for temporary files of the test's own.

    Args:
        name: the hypervisor type.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.engine = name.lower()
        self.temporary = directory / "tmp"
        self.types = directory / "types"
        self.store = directory / self.engine
        for place in (self.temporary, self.types):
            place.mkdir()
        (self.types / f"{KIND}.py").write_text(TYPE)
        self.environment = {
            **os.environ,
            "NFIO_NATIVE_DIR": str(directory / "native"),
            "NFIO_NATIVE_BRIDGE": "nfioimages",
            "NFIO_LIBVIRT_DIR": str(directory / "libvirt"),
            "TMPDIR": str(self.temporary),
        }

    @property
    def build(self) -> list[str]:
        where = ("--for", self.engine, "--module-root", str(self.types))
        return [*NFIO, "image", "build", KIND, *where]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def remove(self) -> subprocess.CompletedProcess[str]:
        return self.run(*NFIO, "image", "rm", IMAGE, "--for", self.engine)

    def drive(self, method: str, *arguments: str) -> list[str]:
        """What a method of the driver returns."""
        done = self.run(sys.executable, "-c", DRIVE, self.name, method, json.dumps(arguments))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def listed(self) -> list[str]:
        """The other columns of the engine's image; none if it does not have it."""
        done = self.run(*NFIO, "image", "list")
        rows = [line.split() for line in done.stdout.splitlines()[1:]]
        return next((row[2:] for row in rows if row[:2] == [IMAGE, self.engine]), [])

    def stored(self) -> list[str]:
        """What the engine keeps of images: files of its own store, or this machine's untagged ones."""
        if self.engine == "docker":
            return engines.docker("images", "-q", "--filter", f"label=io.nfio.type={KIND}").split()
        return [str(path) for part in ("images", "store") for path in self.store.glob(f"{part}/*")]

    def builders(self) -> list[int]:
        """Processes that work in the directory for temporary files, or in the store."""
        marks = (str(self.temporary), str(self.store))
        return [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if any(mark in word for word in process.info["cmdline"] or () for mark in marks)
        ]


@pytest.fixture
def images(request: pytest.FixtureRequest, directory: Path) -> Iterator[Images]:
    """On Native, or on the engine that it is parametrized with."""
    name = getattr(request, "param", "Native")
    missing = VIEWS[name]().missing()
    need(name.lower(), not missing, missing)
    directory.chmod(0o711)  # QEMU's user passes through
    made = Images(name, directory)
    yield made
    if made.engine == "docker" and made.listed():
        engines.docker("rmi", "-f", IMAGE)


EVERY_ENGINE = pytest.mark.parametrize(
    "images",
    [pytest.param(name, marks=getattr(pytest.mark, name.lower())) for name in MAIN_LINE],
    indirect=True,
)


def interrupt(images: Images, number: signal.Signals, *, importing: bool) -> None:
    """Begin a build, and end it where mmdebstrap runs, or where the engine makes a disk of its root."""
    process = subprocess.Popen(
        images.build, env=images.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        if importing:
            wait_until(lambda: list(images.store.glob("store/draft-*/*")), 60, "the disk is made")
        else:
            wait_until(
                lambda: list(images.temporary.glob("nfio-image-*/mmdebstrap.*")), 30, "mmdebstrap runs"
            )
        process.send_signal(number)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not images.builders(), 30, "what it started has ended")


@EVERY_ENGINE
def test_an_interrupted_build_leaves_nothing_half_made_and_the_next_one_works(images: Images) -> None:
    moments = [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGKILL, False)]
    if images.name == "Libvirt":  # it makes a disk for seconds, with programs of its own
        moments = [(signal.SIGTERM, True), (signal.SIGKILL, False)]
    for number, importing in moments:
        interrupt(images, number, importing=importing)
        assert images.listed() == []
        assert str(images.temporary) not in Path("/proc/self/mountinfo").read_text()
        if number != signal.SIGKILL:
            assert list(images.temporary.iterdir()) == []
            assert images.stored() == []

    # It clears away what was left by those that could not do it themselves.
    done = images.run(*images.build)
    assert done.returncode == 0, done.stderr
    assert f"{IMAGE} built for {images.engine}" in done.stdout
    assert list(images.temporary.iterdir()) == []
    assert not [path for path in images.stored() if "draft" in path]
    assert f"up to date for {images.engine}" in images.run(*images.build).stdout
    size, unit, age, *words = images.listed()
    assert float(size) > 1 and unit == "MB" and int(age) < 60 and words == ["seconds"]

    # It is removed when nothing is made from it.
    vnf_id, *_ = images.drive("deploy", "me", IMAGE, f"{KIND}-1")
    done = images.remove()
    assert done.returncode == 1 and "destroy " in done.stderr and "first" in done.stderr
    assert f"me-{KIND}-1" in done.stderr or vnf_id in done.stderr
    assert images.listed() != []
    images.drive("destroy", vnf_id)
    done = images.remove()
    assert (done.returncode, done.stdout) == (0, f"{IMAGE} removed from {images.engine}\n")
    assert images.listed() == [] and images.stored() == []


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
