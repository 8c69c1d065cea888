"""Images of machines on this host, and the directories of the machines that are made from them.

Below ``NFIO_LIBVIRT_DIR``::

    images/<name>.json      what an image is called, and where it is kept
    store/<id>/             disk.qcow2, vmlinuz, initrd: never changed once it is there
    machines/<uuid>/        root.qcow2 (what it wrote, over its image), config.raw, logs

A name is one file name (its other characters are percent-encoded), whatever it is. An image
that is replaced stays in the store as long as a machine is made from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from hypervisor.hypervisor_base import ImageInfo
from hypervisor.libvirt_disks import DISK, INITRD, KERNEL, make_disk
from hypervisor.libvirt_guest import initrd_init, programs
from nfio.errors import Busy, HypervisorError, NotFound

DEFAULT_DIRECTORY = "/var/lib/nfio/libvirt"
RECIPE_LABEL = "io.nfio.recipe"
#: An image with this label announces itself on its console (see READY_LINE).
INIT_LABEL = "io.nfio.init"

_PROGRAMS = hashlib.sha256(json.dumps([programs([]), initrd_init([])]).encode()).hexdigest()[:16]

#: in the store while it is being made; cleared away by the next one that is made
_DRAFT = "draft-"


@dataclass(frozen=True)
class Image:
    """An image of nfio's.

    Attributes:
        store: where it is kept.
        labels: what ``import_image`` was given.
        created: seconds since the epoch.
        programs: the version of nfio's own programs in it.
    """

    name: str
    store: str
    labels: dict[str, str]
    created: float
    programs: str = ""

    @property
    def announces(self) -> bool:
        return INIT_LABEL in self.labels


def home() -> Path:
    """Where everything of this driver is kept."""
    return Path(os.environ.get("NFIO_LIBVIRT_DIR") or DEFAULT_DIRECTORY)


def make_home() -> Path:
    """The same, made if need be: QEMU runs as another user and must get through, not look around."""
    place = home()
    place.mkdir(parents=True, exist_ok=True)
    for part in ("images", "store", "machines"):
        (place / part).mkdir(exist_ok=True)
        (place / part).chmod(0o711)
    place.chmod(0o711)
    return place


@contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock among all nfios of this machine; says whether it is held."""
    with (make_home() / f"{name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def machine_dir(vnf_id: str) -> Path:
    """The directory of a machine."""
    return home() / "machines" / str(uuid.UUID(vnf_id))


def store_dir(store: str) -> Path:
    """Where an image's files are."""
    return home() / "store" / store


def _plain(name: str) -> str:
    return name.removesuffix(":latest")


def _index(name: str) -> Path:
    return home() / "images" / f"{quote(_plain(name), safe='')}.json"


def find_image(name: str) -> Image:
    """An image by its name. HypervisorError (EIO) if there is none."""
    try:
        return Image(**json.loads(_index(name).read_text()))
    except (FileNotFoundError, OSError):
        hint = f"`nfio image build {name.rpartition('/')[2]} --for libvirt`"
        known = name.startswith("nfio/")
        raise HypervisorError(
            f"no such image: {_plain(name)}: "
            + (f"{hint} makes it" if known else "`nfio image list` shows what there is")
        ) from None


def import_image(name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
    """Make an image, or replace one. Nothing of it is seen before it is whole."""
    place = make_home()
    with locked("build"):
        # What a build left behind that was killed: the lock says that it is nobody's.
        for leftover in (place / "store").glob(f"{_DRAFT}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=place / "store"))
        try:
            make_disk(tarball, command, draft)
            for file in (DISK, KERNEL, INITRD):
                (draft / file).chmod(0o644)
            draft.chmod(0o711)
            image = Image(_plain(name), uuid.uuid4().hex, dict(labels), time.time(), _PROGRAMS)
            draft.rename(store_dir(image.store))
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _write(_index(name), json.dumps(asdict(image)))
    clear_store()


def _write(path: Path, text: str) -> None:
    """Replace a file at once."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(file.name, path)


def images() -> list[Image]:
    """All images of nfio's."""
    found = []
    for path in sorted((home() / "images").glob("*.json")):
        try:
            found.append(Image(**json.loads(path.read_text())))
        except (FileNotFoundError, ValueError, TypeError):
            continue  # it was removed meanwhile, or is not ours
    return found


def image_info(image: Image) -> ImageInfo:
    """What is told of an image."""
    directory = store_dir(image.store)
    size = sum(path.stat().st_blocks * 512 for path in directory.iterdir()) if directory.is_dir() else 0
    # One with an older init has no recipe that is known now: it is not taken for up to date.
    recipe = image.labels.get(RECIPE_LABEL, "") if image.programs == _PROGRAMS else ""
    return ImageInfo(image.name, size, image.created, recipe)


def remove_image(name: str) -> None:
    """Remove an image that no machine is made from.

    Raises:
        NotFound (ENOENT), Busy (EBUSY).
    """
    with locked("store"):
        found = next((image for image in images() if image.name == _plain(name)), None)
        if found is None:
            raise NotFound(f"no such image: {_plain(name)}")
        if user := _used().get(found.store):
            raise Busy(f"{found.name} is used by the domain {user}: destroy it first")
        _index(name).unlink(missing_ok=True)
    clear_store()


# -- machines -------------------------------------------------------------------------------


def make_machine(vnf_id: str, store: str) -> Path:
    """The directory of a new machine, which holds what it is made from in the store."""
    make_home()
    with locked("store"):
        directory = machine_dir(vnf_id)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o711)
        directory.chmod(0o711)
        if store:
            (directory / "store").write_text(store)
            if not store_dir(store).is_dir():
                raise HypervisorError("its image was replaced this moment; try again")
    return directory


def remove_machine(vnf_id: str) -> None:
    """Remove a machine's directory, and what only it had of the store."""
    shutil.rmtree(machine_dir(vnf_id), ignore_errors=True)
    clear_store()


def _used() -> dict[str, str]:
    """What is in use of the store, and a machine that is made from it."""
    used = {}
    for path in (home() / "machines").glob("*/store"):
        try:
            used[path.read_text()] = path.parent.name
        except OSError:
            continue
    return used


def clear_store() -> None:
    """Remove what is in the store and has no name and no machine any more.

    One that is just being built is left alone: it gets its name in a moment.
    """
    with locked("build", wait=False) as idle:
        if not idle:
            return
        with locked("store"):
            wanted = _used().keys() | {image.store for image in images()}
            for path in (home() / "store").iterdir():
                if path.name not in wanted and not path.name.startswith(_DRAFT):
                    shutil.rmtree(path, ignore_errors=True)
