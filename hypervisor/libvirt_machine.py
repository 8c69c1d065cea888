"""What a machine is made of, wherever its host keeps it: its disks, its configuration, its logs.

``LocalMachine`` (libvirt_local) keeps them as files of this host, ``RemoteMachine``
(libvirt_remote) as volumes of a storage pool on another.
"""

from __future__ import annotations

import io
import json
import tarfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path, PurePath

from hypervisor.hypervisor_base import BootOptions, VnfSpec
from hypervisor.libvirt_disks import CMDLINE, EMULATED_CMDLINE
from hypervisor.libvirt_images import Image
from hypervisor.libvirt_xml import Kernel
from nfio.errors import HypervisorError, NotSupported

ROOT_DISK, CONFIG_DISK = "root.qcow2", "config.raw"
SERIAL_LOG, CONSOLE_LOG = "serial.log", "console.log"
_SETTINGS = "settings.json"

#: ``kernel=`` in boot.conf that boots what the disk itself holds
BOOT_FROM_DISK = "disk"
#: files that virtlogd keeps of a log beside the present one, at most
_BACKUPS = 9


@dataclass(frozen=True)
class Base:
    """What a machine is made from: an image of nfio's, or somebody's disk image.

    Attributes:
        disk, kernel, initrd: paths on the machine's host; the last two only of an image of nfio's.
        format: of the disk (``qcow2``). It is said and never guessed again: a guest could write
            another one's header.
    """

    disk: PurePath
    format: str
    image: Image | None = None
    kernel: str = ""
    initrd: str = ""


class Machine(ABC):
    """The files of one machine. Names are those above; sizes are bytes.

    Methods raise HypervisorError (EIO), OSError, or libvirt's errors.
    """

    #: how often a log is looked at for a word that is waited for, in seconds
    poll_s: float

    @abstractmethod
    def find_base(self, image_name: str) -> Base:
        """What ``vm.image`` says, on the machine's host. HypervisorError (EIO) if it is not there."""

    @abstractmethod
    def has_file(self, path: str) -> bool:
        """Whether a file can be on its host; false only if it is known not to be."""

    @abstractmethod
    def make(self, base: Base) -> None:
        """Its place and a disk of its own over ``base``, which is never written to."""

    @abstractmethod
    def remove(self) -> None:
        """Remove all of it, and what only it had of its image. Nothing there is a success."""

    @abstractmethod
    def path(self, name: str) -> PurePath:
        """Where a file of it is on its host."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file."""

    @abstractmethod
    def read_end(self, name: str, limit_bytes: int) -> bytes | None:
        """The last part of a file; None if there is none."""

    @abstractmethod
    def extent(self, name: str) -> tuple[int, int]:
        """Which file has that name now, as a number, and its size; zeros if none has."""

    @abstractmethod
    def begin_log(self, name: str) -> None:
        """Forget what a log of the last run said, as far as its next run does not replace it."""

    def look(self) -> None:  # noqa: B027  # on this host nothing needs to be looked for
        """Notice what has come since: logs that were turned over."""

    def tail(self, name: str, limit_bytes: int) -> bytes:
        """The last part of a log and of those that it was turned over to (console.log.0 …)."""
        parts: list[bytes] = []
        missing = limit_bytes
        for number in range(-1, _BACKUPS):
            part = self.read_end(name if number < 0 else f"{name}.{number}", missing)
            if part is None:
                break
            parts.insert(0, part)
            missing -= len(part)
            if missing <= 0:
                break
        return b"".join(parts)

    # -- configuration ----------------------------------------------------------------------

    def save_settings(self, spec: VnfSpec) -> None:
        """Keep what the machine's init is told at each start."""
        settings = {
            "config_dir": None if spec.config_dir is None else str(spec.config_dir),
            "machine": {
                "hostname": spec.instance,
                "sysctls": "".join(f"{key} = {value}\n" for key, value in spec.sysctls.items()),
                "user": "" if spec.user is None else f"{spec.user}\n",
            },
        }
        self.write(_SETTINGS, json.dumps(settings).encode())

    def config_archive(self, config_dir: Path | None = None) -> bytes:
        """The tar file that its init reads, with the present files of its configuration."""
        text = self.read_end(_SETTINGS, 1 << 20)
        if text is None:
            raise HypervisorError("its settings are gone from its host: destroy it and make it anew")
        settings = json.loads(text)
        directory = config_dir or (settings["config_dir"] and Path(settings["config_dir"]))
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, words in settings["machine"].items():
                _add(tar, f"machine/{name}", words.encode())
            if directory:
                for path in sorted(directory.iterdir()):
                    if path.is_file():
                        _add(tar, f"config/{path.name}", path.read_bytes())
        return archive.getvalue()

    def write_config_disk(self) -> PurePath:
        """Write its configuration to the disk that it reads when it starts; where that is."""
        self.write(CONFIG_DISK, self.config_archive())
        return self.path(CONFIG_DISK)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def kernel_of(machine: Machine, base: Base, boot: BootOptions, kind: str) -> Kernel | None:
    """The kernel that a machine is started with; None: the one that its disk holds.

    Raises:
        HypervisorError (EIO): a file is not there.
        NotSupported (EOPNOTSUPP): a command line for a kernel that the disk's boot loader starts.
    """
    if boot.kernel == BOOT_FROM_DISK or (boot.kernel is None and base.image is None):
        if boot.cmdline or boot.initrd:
            raise NotSupported("cmdline and initrd in boot.conf need kernel=, or an image of nfio's")
        return None
    words = [boot.cmdline] if boot.cmdline else []
    if base.image is not None:
        words = [CMDLINE, *([EMULATED_CMDLINE] if kind == "qemu" else []), *words]
    kernel = base.kernel if boot.kernel is None else boot.kernel
    initrd = boot.initrd or ("" if boot.kernel is not None else base.initrd)
    for file in (boot.kernel, boot.initrd):
        if file and not (file.startswith("/") and machine.has_file(file)):
            raise HypervisorError(f"boot.conf: there is no file {file}; kernel and initrd are absolute paths")
    return Kernel(kernel, initrd, " ".join(words))
