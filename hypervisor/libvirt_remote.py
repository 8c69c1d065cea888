"""Machines of other hosts: their files, as volumes of nfio's pool there.

The pool holds::

    <uuid>.root.qcow2 …                 files of a machine, by the names they have on this host too
    image.<origin>.<store>.disk.qcow2 … an image of this host's, sent there once
    image.<origin>.<store>.whole        written last: without it the image was not sent to its end

``origin`` is a directory of images on this host (``NFIO_LIBVIRT_DIR``): several hosts may send
theirs to one. An image that is not this host's any more stays as long as a machine is made from it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from hypervisor.libvirt_disks import DISK, INITRD, KERNEL
from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_images import Image, find_image, images, locked, make_home, store_dir
from hypervisor.libvirt_library import libvirt
from hypervisor.libvirt_machine import CONSOLE_LOG, ROOT_DISK, SERIAL_LOG, Base, Machine
from hypervisor.libvirt_volumes import Pool, format_at
from nfio.errors import HypervisorError, HypervisorTimeout

log = logging.getLogger(__name__)

#: how long an image, of 200 MB, may take to get to its host
UPLOAD_TIMEOUT_S = 300.0
_POLL_S = 0.1

_IMAGES = "image."
_WHOLE = "whole"


class RemoteMachine(Machine):
    """A machine's volumes in the pool of its host."""

    #: each look is a few round trips to the host
    poll_s = 0.1

    def __init__(self, vnf_id: str, connection: Any, host: str) -> None:
        self._prefix = f"{uuid.UUID(vnf_id)}."
        self._connection = connection
        self._host = host
        self._pool = Pool(connection)

    def find_base(self, image_name: str) -> Base:
        """What ``vm.image`` says. An image of nfio's is sent there if it is not there yet."""
        if not image_name.startswith("/"):
            return _bring(self._pool, find_image(image_name), self._host)
        try:
            kind = format_at(self._connection, image_name)
        except libvirt.libvirtError as error:
            if not is_a(error, "VIR_ERR_NO_STORAGE_VOL"):
                raise
            raise HypervisorError(
                f"no such disk image: {image_name}: on another host it is the path of a volume in one of its "
                "storage pools"
            ) from error
        with _turn(self._host):
            self._pool.make()
        return Base(PurePosixPath(image_name), kind)

    def has_file(self, path: str) -> bool:
        return True  # what is not there QEMU says at the start

    def make(self, base: Base) -> None:
        self._pool.overlay(f"{self._prefix}{ROOT_DISK}", str(base.disk), base.format)
        # Made as volumes, so that the pool knows them before virtlogd writes into them.
        for name in (SERIAL_LOG, CONSOLE_LOG):
            self.write(name, b"")

    def remove(self) -> None:
        if self._pool.find() is None:
            return
        self.look()
        self._pool.delete_all(self._prefix)
        with locked(_lock_of(self._host), wait=False) as idle:
            if idle:
                _clear_images(self._pool)

    def path(self, name: str) -> PurePath:
        return self._pool.path(f"{self._prefix}{name}")

    def write(self, name: str, content: bytes) -> None:
        self._pool.write(f"{self._prefix}{name}", content)

    def read_end(self, name: str, limit_bytes: int) -> bytes | None:
        return self._pool.read_end(f"{self._prefix}{name}", limit_bytes)

    def extent(self, name: str) -> tuple[int, int]:
        size = self._pool.size(f"{self._prefix}{name}")
        return (0, 0) if size is None else (1, size)

    def begin_log(self, name: str) -> None:
        # virtlogd empties the log itself; those that it was turned over to would stay.
        self.look()
        self._pool.delete_all(f"{self._prefix}{name}.")

    def look(self) -> None:
        self._pool.look()


# -- images ---------------------------------------------------------------------------------


def _origin() -> str:
    """A word for this host's images that no other host has."""
    with locked("origin"):
        place = make_home() / "origin"
        if not place.exists():
            place.write_text(uuid.uuid4().hex[:12])
        return place.read_text()


def _lock_of(host: str) -> str:
    return f"host-{quote(host, safe='')}"


@contextmanager
def _turn(host: str) -> Iterator[None]:
    """Held while an image is sent to a host, among all nfios of this machine."""
    deadline = time.monotonic() + UPLOAD_TIMEOUT_S
    while time.monotonic() < deadline:
        with locked(_lock_of(host), wait=False) as held:
            if held:
                yield
                return
        time.sleep(_POLL_S)
    raise HypervisorTimeout(f"another image is still being sent to {host}")


def _bring(pool: Pool, image: Image, host: str) -> Base:
    """An image in a host's pool, sent there if it is not there yet.

    Raises:
        HypervisorError, HypervisorTimeout, libvirt's errors; what was sent is removed again.
    """
    prefix = f"{_IMAGES}{_origin()}.{image.store}."
    if f"{prefix}{_WHOLE}" not in pool.names():
        with _turn(host):
            pool.make()
            _clear_images(pool)
            if f"{prefix}{_WHOLE}" not in pool.names():
                _send(pool, image, prefix, host)
    return Base(
        pool.path(f"{prefix}{DISK}"),
        "qcow2",
        image,
        str(pool.path(f"{prefix}{KERNEL}")),
        str(pool.path(f"{prefix}{INITRD}")),
    )


def _send(pool: Pool, image: Image, prefix: str, host: str) -> None:
    begun = time.monotonic()
    log.info("sending the image %s to %s", image.name, host)
    try:
        for name in (DISK, KERNEL, INITRD):
            path = store_dir(image.store) / name
            with path.open("rb") as source:
                size = path.stat().st_size
                deadline = begun + UPLOAD_TIMEOUT_S
                pool.upload(f"{prefix}{name}", source, size, mode="0644", deadline=deadline)
        pool.write(f"{prefix}{_WHOLE}", b"")
    except BaseException:
        # Where the way to the host is cut, what is left is removed before it is sent again.
        with suppress(libvirt.libvirtError):
            pool.delete_all(prefix)
        raise
    log.info("the image %s is on %s, after %.1f s", image.name, host, time.monotonic() - begun)


def _clear_images(pool: Pool) -> None:
    """Remove images of this host's that are not whole, or have no name here and no machine there.

    Called with the host's lock: nobody is sending one.
    """
    ours = f"{_IMAGES}{_origin()}."
    names = pool.names()
    files = [tuple(name.removeprefix(ours).split(".", 1)) for name in names if name.startswith(ours)]
    whole = {store for store, file in files if file == _WHOLE}
    doubtful = {store for store, _ in files} - (whole & {image.store for image in images()})
    if not doubtful:
        return
    bases = [pool.base_of(name) for name in names if name.endswith(f".{ROOT_DISK}")]
    used = {PurePosixPath(base).name.removeprefix(ours).split(".", 1)[0] for base in bases}
    for store in doubtful - used:
        pool.delete_all(f"{ours}{store}.")
