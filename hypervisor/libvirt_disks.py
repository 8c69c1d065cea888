"""Making a bootable disk from the tar file of a root file system, without mounting anything.

The disk has two partitions: a small one with a boot loader, the kernel and its initrd, and the
root file system. Kernel and initrd are kept beside the disk too, for direct kernel boot.
"""

from __future__ import annotations

import shutil
import stat
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from hypervisor.libvirt_guest import BOOT_MODULES, initrd_init, programs
from nfio.errors import HypervisorError

DISK, KERNEL, INITRD = "disk.qcow2", "vmlinuz", "initrd"

#: Program that shows that a package is there, and the package.
TOOLS = {
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "mcopy": "mtools",
    "syslinux": "syslinux",
}
#: The boot loader's first 440 bytes.
_MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
#: package of that file, which syslinux only recommends
_MBR_PACKAGE = "syslinux-common"

MIB = 1 << 20
_SECTOR = 512
_BOOT_START, _BOOT_SIZE = 1 * MIB, 40 * MIB
_ROOT_START = _BOOT_START + _BOOT_SIZE
_DISK_SIZE = 2048 * MIB
_TIMEOUT_S = 300

#: Parts of the kernel's modules that a virtual machine has a use for; the others are left out.
_KEPT_MODULES = (
    "arch",
    "crypto",
    "lib",
    "net",
    "drivers/acpi",
    "drivers/block",
    "drivers/char",
    "drivers/input",
    "drivers/misc/pvpanic",
    "drivers/net",
    "drivers/virtio",
    "fs/fat",
    "fs/fuse",
    "fs/nls",
    "fs/overlayfs",
)

_SIGNED = b"~Module signature appended~\n"

#: What every kernel of an image is told: where it writes, and what need not be waited for.
CMDLINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 cryptomgr.notests no_timer_check tsc=reliable edd=off "
    "i8042.noaux i8042.nokbd i8042.nopnp i8042.dumbkbd audit=0 random.trust_cpu=on noresume"
)
#: Beside it, where QEMU emulates the CPU: what protects one program of a real CPU from another is
#: no use there; and what only takes time: rewriting the kernel's code for the number of CPUs, and
#: measuring how fast a CPU is whose speed depends on what else its host does.
EMULATED_CMDLINE = "mitigations=off noreplace-smp lpj=4000000"


def missing_packages() -> list[str]:
    """Debian packages without which no disk can be made."""
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    return sorted(missing | (set() if _MBR.exists() else {_MBR_PACKAGE}))


def make_disk(tarball: Path, command: Sequence[str], directory: Path) -> None:
    """Make DISK, KERNEL and INITRD in a directory.

    Raises:
        HypervisorError (EIO): the root file system lacks what a machine needs, or a tool failed.
    """
    if missing := missing_packages():
        raise HypervisorError(f"making images needs: apt-get install {' '.join(missing)}")
    root = directory / "root"
    root.mkdir(mode=0o755)
    _run("tar", "-x", "-p", "--numeric-owner", "-f", str(tarball), "-C", str(root))
    release = _take_kernel(root, directory / KERNEL)
    _strip_modules(root / "lib/modules" / release / "kernel")
    for module in (root / "lib/modules" / release).rglob("*.ko"):
        _drop_signature(module)
    _run("depmod", "-b", str(root), release)
    _add_programs(root, command)
    (directory / INITRD).write_bytes(_initrd(root, release))
    raw = directory / "disk.raw"
    with raw.open("wb") as disk:
        disk.truncate(_DISK_SIZE)
        disk.write(_partition_table())
    _make_boot_partition(raw, directory)
    _run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-J", "size=8", "-m", "0", "-L", "nfio-root"),
        *("-E", f"offset={_ROOT_START},root_owner=0:0,nodiscard", "-d", str(root)),
        *(str(raw), f"{(_DISK_SIZE - _ROOT_START) // 1024}k"),
    )
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(directory / DISK))
    raw.unlink()
    shutil.rmtree(root)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HypervisorError(f"{command[0]}: {error}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise HypervisorError(f"{command[0]} failed: {words}")


def _take_kernel(root: Path, place: Path) -> str:
    """Move the newest kernel out of a root file system; its release."""
    releases = [path.name for path in (root / "lib/modules").glob("*") if (path / "kernel").is_dir()]
    kernels = {release: root / "boot" / f"vmlinuz-{release}" for release in releases}
    there = [release for release, path in kernels.items() if path.is_file()]
    if not there:
        raise HypervisorError("the root file system holds no kernel: add linux-image-cloud-amd64")
    release = max(there, key=lambda name: kernels[name].stat().st_mtime)
    shutil.move(kernels[release], place)
    place.chmod(0o644)
    shutil.rmtree(root / "boot")
    for other in set(releases) - {release}:
        shutil.rmtree(root / "lib/modules" / other)
    return release


def _strip_modules(kernel: Path) -> None:
    kept = {kernel / part for part in _KEPT_MODULES}
    on_the_way = {parent for part in kept for parent in part.parents}
    for part in _KEPT_MODULES:
        for parent in (kernel / part).relative_to(kernel).parents:
            for entry in (kernel / parent).iterdir() if (kernel / parent).is_dir() else ():
                if entry in kept or entry in on_the_way:
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _drop_signature(module: Path) -> None:
    """Cut a module's signature off: to check one takes an emulated CPU a fifth of a second.

    Whoever could change a module in the image could change all else in it. The signature stands
    at the end, before its length (the last 4 of 12 bytes) and the mark: linux/module_signature.h.
    """
    content = module.read_bytes()
    if content.endswith(_SIGNED):
        end = len(content) - len(_SIGNED)
        length = int.from_bytes(content[end - 4 : end], "big")
        module.write_bytes(content[: end - 12 - length])


def _add_programs(root: Path, command: Sequence[str]) -> None:
    for path, text in programs(command).items():
        place = root / path.lstrip("/")
        _make_directories(root, place.parent)
        place.unlink(missing_ok=True)
        place.write_text(text)
        place.chmod(0o755)
    for name in ("dev", "proc", "sys", "run", "tmp", "etc/nfio"):
        _make_directories(root, root / name)
    (root / "tmp").chmod(0o1777)


def _make_directories(root: Path, place: Path) -> None:
    """Directories of an image, through no link that leads out of it."""
    part = root
    for name in place.relative_to(root).parts:
        part = part / name
        if part.is_symlink() and not part.resolve().is_relative_to(root.resolve()):
            raise HypervisorError(f"{part.relative_to(root)} leads out of the root file system")
        if not part.is_dir():
            part.mkdir(mode=0o755)


# -- initrd ---------------------------------------------------------------------------------


def _initrd(root: Path, release: str) -> bytes:
    """A root file system that finds the real one: busybox and the modules of the disk."""
    busybox = root / "bin/busybox"
    if not busybox.is_file():
        raise HypervisorError("the root file system holds no /bin/busybox: add busybox-static")
    modules = _modules(root / "lib/modules" / release)
    names = [path.name for path in modules]
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "root")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    entries.append(("init", stat.S_IFREG | 0o755, initrd_init(names).encode()))
    entries += [(path.name, stat.S_IFREG | 0o644, path.read_bytes()) for path in modules]
    return _cpio(entries)


def _modules(directory: Path) -> list[Path]:
    """Files of the modules that find the root file system, each after those it needs."""
    needs: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    order: list[str] = []

    def add(path: str) -> None:
        if path not in order:
            for other in needs.get(path, []):
                add(other)
            order.append(path)

    for name in BOOT_MODULES:
        # One that is not there is built into the kernel.
        for path in needs:
            if Path(path).name.split(".")[0] == name:
                add(path)
    return [directory / path for path in order]


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive in the format newc, the only one that the kernel reads (initramfs docs)."""
    archive = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        header = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        archive += b"070701" + b"".join(b"%08X" % value for value in header) + encoded
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


# -- boot partition -------------------------------------------------------------------------


def _partition_table() -> bytes:
    """The first sector: a boot loader's first part and two partitions, the first one active."""

    def entry(active: bool, kind: int, start: int, size: int) -> bytes:
        # Addresses as cylinder, head and sector are those of a disk too large for them.
        far = b"\xfe\xff\xff"
        return struct.pack(
            "<B3sB3sII", 0x80 if active else 0, far, kind, far, start // _SECTOR, size // _SECTOR
        )

    table = entry(True, 0x0E, _BOOT_START, _BOOT_SIZE)
    table += entry(False, 0x83, _ROOT_START, _DISK_SIZE - _ROOT_START)
    code = _MBR.read_bytes()[:440].ljust(446, b"\0")
    return (code + table).ljust(510, b"\0") + b"\x55\xaa"


def _make_boot_partition(raw: Path, directory: Path) -> None:
    """A FAT file system with the boot loader, the kernel and the initrd."""
    config = directory / "syslinux.cfg"
    config.write_text(
        "SERIAL 0\nDEFAULT nfio\nPROMPT 0\nLABEL nfio\n"
        f"    KERNEL /{KERNEL}\n    INITRD /{INITRD}\n    APPEND {CMDLINE}\n"
    )
    place = f"{raw}@@{_BOOT_START}"
    heads, sectors = 64, 32
    cylinders = _BOOT_SIZE // (_SECTOR * heads * sectors)
    _run(
        *("mformat", "-i", place, "-v", "NFIO", "-H", str(_BOOT_START // _SECTOR)),
        *("-t", str(cylinders), "-h", str(heads), "-s", str(sectors), "::"),
    )
    _run(
        *("mcopy", "-i", place, str(directory / KERNEL), str(directory / INITRD), str(config), "::"),
    )
    _run("syslinux", "--install", "--offset", str(_BOOT_START), str(raw))
    config.unlink()
