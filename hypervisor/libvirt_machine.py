"""The files that make a machine: its own disk over its image, and the disk with its configuration."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from hypervisor.hypervisor_base import BootOptions, VnfSpec
from hypervisor.libvirt_disks import CMDLINE, DISK, EMULATED_CMDLINE, INITRD, KERNEL
from hypervisor.libvirt_images import Image, find_image, machine_dir, store_dir
from hypervisor.libvirt_xml import Kernel
from nfio.errors import HypervisorError, NotSupported

ROOT_DISK, CONFIG_DISK = "root.qcow2", "config.raw"
SERIAL_LOG, CONSOLE_LOG = "serial.log", "console.log"
_SETTINGS = "settings.json"

#: ``kernel=`` in boot.conf that boots what the disk itself holds
BOOT_FROM_DISK = "disk"
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Base:
    """What a machine is made from: an image of nfio's, or somebody's disk image."""

    disk: Path
    image: Image | None


def find_base(name: str) -> Base:
    """What ``vm.image`` says. HypervisorError (EIO) if it is not there."""
    if not name.startswith("/"):
        image = find_image(name)
        return Base(store_dir(image.store) / DISK, image)
    disk = Path(name)
    if not disk.is_file():
        raise HypervisorError(f"no such disk image: {name}")
    return Base(disk, None)


def kernel_of(base: Base, boot: BootOptions, kind: str) -> Kernel | None:
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
    if boot.kernel is not None:
        kernel, initrd = boot.kernel, boot.initrd or ""
    else:
        directory = base.disk.parent
        kernel, initrd = str(directory / KERNEL), boot.initrd or str(directory / INITRD)
    for file in (kernel, initrd):
        if file and not (file.startswith("/") and Path(file).is_file()):
            raise HypervisorError(f"boot.conf: there is no file {file}; kernel and initrd are absolute paths")
    return Kernel(kernel, initrd, " ".join(words))


def make_root_disk(base: Base, directory: Path) -> Path:
    """A disk of the machine's own, over its image, which is never written to."""
    place = directory / ROOT_DISK
    described = json.loads(_qemu_img("info", "-U", "--output=json", str(base.disk)))
    # The format is said and never guessed again: a guest could write another one's header.
    _qemu_img(
        *("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "-F", described["format"]),
        *("-b", str(base.disk), str(place)),
    )
    place.chmod(0o600)
    return place


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


# -- configuration --------------------------------------------------------------------------


def save_settings(vnf_id: str, spec: VnfSpec) -> None:
    """Keep what the machine's init is told at each start."""
    settings = {
        "config_dir": None if spec.config_dir is None else str(spec.config_dir),
        "machine": {
            "hostname": spec.instance,
            "sysctls": "".join(f"{key} = {value}\n" for key, value in spec.sysctls.items()),
            "user": "" if spec.user is None else f"{spec.user}\n",
        },
    }
    (machine_dir(vnf_id) / _SETTINGS).write_text(json.dumps(settings))


def config_archive(vnf_id: str, config_dir: Path | None = None) -> bytes:
    """The tar file that a machine's init reads, with the present files of its configuration."""
    settings = json.loads((machine_dir(vnf_id) / _SETTINGS).read_text())
    directory = config_dir or (settings["config_dir"] and Path(settings["config_dir"]))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in settings["machine"].items():
            _add(tar, f"machine/{name}", text.encode())
        if directory:
            for path in sorted(directory.iterdir()):
                if path.is_file():
                    _add(tar, f"config/{path.name}", path.read_bytes())
    return archive.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def write_config_disk(vnf_id: str) -> Path:
    """Write a machine's configuration to the disk that it reads when it starts."""
    place = machine_dir(vnf_id) / CONFIG_DISK
    # Rewritten in place: a machine may have it open, and its owner is QEMU while one has.
    with place.open("r+b" if place.exists() else "xb") as disk:
        disk.truncate(0)
        disk.write(config_archive(vnf_id))
    place.chmod(0o600)
    return place
