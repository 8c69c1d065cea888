"""Machines of this host: their files, in the directories that ``libvirt_images`` describes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from hypervisor.libvirt_disks import DISK, INITRD, KERNEL
from hypervisor.libvirt_images import find_image, machine_dir, make_machine, remove_machine, store_dir
from hypervisor.libvirt_machine import ROOT_DISK, Base, Machine
from nfio.errors import HypervisorError

_TIMEOUT_S = 60


class LocalMachine(Machine):
    """A machine's directory. Whoever may look into it is root, or QEMU while it runs."""

    poll_s = 0.02

    def __init__(self, vnf_id: str) -> None:
        self._vnf_id = vnf_id

    @property
    def directory(self) -> Path:
        return machine_dir(self._vnf_id)

    def find_base(self, image_name: str) -> Base:
        if not image_name.startswith("/"):
            image = find_image(image_name)
            place = store_dir(image.store)
            return Base(place / DISK, "qcow2", image, str(place / KERNEL), str(place / INITRD))
        disk = Path(image_name)
        if not disk.is_file():
            raise HypervisorError(f"no such disk image: {image_name}")
        return Base(disk, json.loads(_qemu_img("info", "-U", "--output=json", image_name))["format"])

    def has_file(self, path: str) -> bool:
        return Path(path).is_file()

    def make(self, base: Base) -> None:
        make_machine(self._vnf_id, base.image.store if base.image else "")
        place = self.path(ROOT_DISK)
        _qemu_img(
            *("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "-F", base.format),
            *("-b", str(base.disk), str(place)),
        )
        place.chmod(0o600)

    def remove(self) -> None:
        remove_machine(self._vnf_id)

    def path(self, name: str) -> Path:
        return self.directory / name

    def write(self, name: str, content: bytes) -> None:
        place = self.path(name)
        # Rewritten in place: a machine may have it open, and its owner is QEMU while one has.
        with place.open("r+b" if place.exists() else "xb") as file:
            file.truncate(0)
            file.write(content)
        place.chmod(0o600)

    def read_end(self, name: str, limit_bytes: int) -> bytes | None:
        try:
            with self.path(name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit_bytes))
                return file.read(limit_bytes)
        except FileNotFoundError:
            return None

    def extent(self, name: str) -> tuple[int, int]:
        try:
            found = self.path(name).stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_ino, found.st_size)

    def begin_log(self, name: str) -> None:
        for path in self.directory.glob(f"{name}*"):
            path.unlink(missing_ok=True)


def _qemu_img(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["qemu-img", *arguments], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError:
        raise HypervisorError("qemu-img is not installed: apt-get install qemu-utils") from None
    except subprocess.TimeoutExpired as error:
        raise HypervisorError(str(error)) from error
    if done.returncode:
        raise HypervisorError(done.stderr.strip() or f"qemu-img {arguments[0]} failed")
    return done.stdout
