"""The storage pool on another host that holds what nfio's machines there are made of.

A host that has none gets one of the type ``dir``; one that is there already, of whatever type
keeps volumes as files, is used as it is. Contents travel over the connection to its libvirt,
which no other way to the host is needed for.
"""

from __future__ import annotations

import io
import logging
import os
import time
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, BinaryIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_library import libvirt
from nfio.errors import HypervisorTimeout

log = logging.getLogger(__name__)

DEFAULT_POOL = "nfio"
#: where a pool is made that is not there yet
POOL_DIRECTORY = "/var/lib/nfio/libvirt/pool"

#: a file of a machine's, which is small, goes there within this time
WRITE_TIMEOUT_S = 10.0
#: how often it is said how far a long upload has come
_PROGRESS_S = 10.0
#: an upload that was just given up holds its volume for a moment; so does one that ends a refresh
_SETTLE_S = 2.0
_POLL_S = 0.05


class Pool:
    """nfio's pool on the host of a connection. Methods raise libvirt's errors."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._name = os.environ.get("NFIO_LIBVIRT_POOL") or DEFAULT_POOL
        self._known: Any | None = None

    def find(self) -> Any | None:
        """libvirt's own object of it; None if there is none."""
        if self._known is None:
            try:
                self._known = self._connection.storagePoolLookupByName(self._name)
            except libvirt.libvirtError as error:
                if not is_a(error, "VIR_ERR_NO_STORAGE_POOL"):
                    raise
        return self._known

    def make(self) -> Any:
        """The same, made and started if need be; where that fails, no new one is left."""
        pool = self.find()
        if pool is not None:
            if not pool.isActive():
                pool.create(0)
            return pool
        pool = self._connection.storagePoolDefineXML(_pool_xml(self._name), 0)
        try:
            pool.build(0)
            pool.create(0)
            pool.setAutostart(True)
        except libvirt.libvirtError:
            with suppress(libvirt.libvirtError):
                pool.undefine()
            raise
        self._known = pool
        return pool

    def path(self, name: str) -> PurePosixPath:
        """Where a volume's file is, or will be, on its host."""
        directory = ElementTree.fromstring(self.make().XMLDesc(0)).findtext("target/path") or POOL_DIRECTORY
        return PurePosixPath(directory) / name

    def names(self) -> list[str]:
        """Names of its volumes; none if it is not there or does not run."""
        pool = self.find()
        try:
            return [] if pool is None else list(pool.listVolumes())
        except libvirt.libvirtError as error:
            if is_a(error, "VIR_ERR_OPERATION_INVALID"):
                return []
            raise

    def look(self) -> None:
        """Notice files that came without it, unless it is busy for longer with making a volume."""
        pool = self.find()
        try:
            if pool is not None:
                _settle(lambda: pool.refresh(0), "VIR_ERR_INTERNAL_ERROR", "VIR_ERR_OPERATION_INVALID")
        except libvirt.libvirtError as error:
            if not is_a(error, "VIR_ERR_INTERNAL_ERROR"):
                raise
            log.debug("%s", error)

    def volume(self, name: str) -> Any | None:
        """libvirt's own object of a volume; None if there is none."""
        pool = self.find()
        try:
            return None if pool is None else pool.storageVolLookupByName(name)
        except libvirt.libvirtError as error:
            # The last: the pool does not run.
            if is_a(error, "VIR_ERR_NO_STORAGE_VOL", "VIR_ERR_NO_STORAGE_POOL", "VIR_ERR_OPERATION_INVALID"):
                return None
            raise

    def delete(self, name: str) -> None:
        """Remove a volume; none of that name is a success."""
        volume = self.volume(name)
        if volume is not None:
            _settle(lambda: volume.delete(0), "VIR_ERR_OPERATION_INVALID", "VIR_ERR_NO_STORAGE_VOL")

    def delete_all(self, prefix: str) -> None:
        """Remove the volumes whose names begin so."""
        for name in self.names():
            if name.startswith(prefix):
                self.delete(name)

    # -- contents ---------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a small raw volume, which nobody but root may read."""
        deadline = time.monotonic() + WRITE_TIMEOUT_S
        self.upload(name, io.BytesIO(content), len(content), mode="0600", deadline=deadline)

    def upload(self, name: str, source: BinaryIO, size: int, *, mode: str, deadline: float) -> None:
        """Make or replace a raw volume of ``size`` bytes from a file; where that fails, none is left.

        Raises:
            HypervisorTimeout (ETIMEDOUT): it was not done at the deadline (monotonic seconds).
        """
        self.delete(name)
        volume = self.make().createXML(_raw_xml(name, size, mode), 0)
        if size == 0:
            return
        told = time.monotonic()

        def more(_stream: Any, count: int, _opaque: Any) -> bytes:
            nonlocal told
            now = time.monotonic()
            if now > deadline:
                raise HypervisorTimeout(f"{source.tell()} of {size} bytes of {name} were sent in time")
            if now - told > _PROGRESS_S:
                told = now
                log.info("%s: %d of %d MiB are sent", name, source.tell() >> 20, size >> 20)
            return source.read(count)

        try:
            stream = self._connection.newStream()
            volume.upload(stream, 0, size)
            stream.sendAll(more, None)
            stream.finish()
        except BaseException:
            with suppress(libvirt.libvirtError):
                self.delete(name)
            raise

    def read_end(self, name: str, limit_bytes: int) -> bytes | None:
        """The last part of a volume's file; None if there is none."""
        volume = self.volume(name)
        if volume is None:
            return None
        size = _size(volume)
        length = min(size, limit_bytes)
        if length <= 0:
            return b""
        content = bytearray()
        stream = self._connection.newStream()
        volume.download(stream, size - length, length)
        stream.recvAll(lambda _stream, part, _opaque: content.extend(part), None)
        stream.finish()
        return bytes(content)

    def size(self, name: str) -> int | None:
        """Bytes of a volume's file; None if there is none."""
        volume = self.volume(name)
        return None if volume is None else _size(volume)

    # -- disks ------------------------------------------------------------------------------

    def overlay(self, name: str, base: str, base_format: str) -> None:
        """Make a qcow2 volume over the file ``base``, as large as that is to a machine."""
        volume = _volume(name, "qcow2", "0600")
        target = volume.find("target")
        assert target is not None
        _text(target, "compat", "1.1")
        SubElement(SubElement(target, "features"), "lazy_refcounts")
        backing = SubElement(volume, "backingStore")
        _text(backing, "path", base)
        SubElement(backing, "format", type=base_format)
        self.make().createXML(ElementTree.tostring(volume, encoding="unicode"), 0)

    def base_of(self, name: str) -> str:
        """Path of the file that a volume lies over; empty if there is none."""
        volume = self.volume(name)
        return "" if volume is None else _find(volume, "backingStore/path")


def format_at(connection: Any, path: str) -> str:
    """Format of the disk that a volume of whatever pool has there (``qcow2``). Raises libvirt's errors."""
    found = ElementTree.fromstring(connection.storageVolLookupByPath(path).XMLDesc(0)).find("target/format")
    return "raw" if found is None else found.get("type", "raw")


def _find(volume: Any, place: str) -> str:
    try:
        return ElementTree.fromstring(volume.XMLDesc(0)).findtext(place) or ""
    except libvirt.libvirtError as error:
        if is_a(error, "VIR_ERR_NO_STORAGE_VOL"):
            return ""
        raise


def _size(volume: Any) -> int:
    """Bytes of the file itself: what it says of itself may be the guest's word."""
    return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])


def _settle(call: Any, busy: str, gone: str) -> None:
    """Do something; again, for a moment, while libvirt says that it is busy with it. Gone is well."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        try:
            call()
            return
        except libvirt.libvirtError as error:
            if is_a(error, gone):
                return
            if not is_a(error, busy) or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def _pool_xml(name: str) -> str:
    root = Element("pool", type="dir")
    _text(root, "name", name)
    target = SubElement(root, "target")
    _text(target, "path", POOL_DIRECTORY)
    # QEMU runs as another user and must get through, not look around.
    _text(SubElement(target, "permissions"), "mode", "0711")
    return ElementTree.tostring(root, encoding="unicode")


def _raw_xml(name: str, size: int, mode: str) -> str:
    root = _volume(name, "raw", mode)
    _text(root, "capacity", str(size))
    _text(root, "allocation", "0")
    return ElementTree.tostring(root, encoding="unicode")


def _volume(name: str, kind: str, mode: str) -> Element:
    root = Element("volume")
    _text(root, "name", name)
    target = SubElement(root, "target")
    SubElement(target, "format", type=kind)
    _text(SubElement(target, "permissions"), "mode", mode)
    return root


def _text(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text
