"""Root file systems of the Native driver: unpacked images, and the host's own root.

::

    images/<id>/root/           an unpacked image; <id> is new with every import
    images/<id>/image.json      its name, first program, labels, size and age
    layers/<hash>/              what stands above the host's root: what is hidden of it, and what
                                a type's recipe prepares
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from hypervisor.hypervisor_base import Function, ImageInfo
from hypervisor.native_runtime import last_line, mount_overlay, run, unmount
from hypervisor.native_store import Guest, NativeStore
from nfio.errors import Busy, HypervisorError, NotFound

#: the image name that stands for the host's own root file system
HOST = "host"
INIT = "/usr/lib/nfio/init"
_UNPACK_TIMEOUT_S = 300.0
_COPY_TIMEOUT_S = 10.0

#: of the host's root a guest sees the programs and their configuration, and nothing of what
#: people and services keep there
_SHOWN = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc"})
_HIDDEN = ("etc/machine-id", "usr/local", "usr/src")
_MADE = ("dev", "proc", "sys", "run", "tmp", "root", "home", "var", "etc/nfio", "usr/lib/nfio")
_VAR = ("cache", "lib", "log", "run", "spool", "tmp", "www")


@dataclass(frozen=True)
class Image:
    """An unpacked image."""

    root: Path
    name: str
    command: tuple[str, ...]
    labels: dict[str, str]
    size_bytes: int
    created: float


class NativeImages:
    """The images of a store."""

    def __init__(self, store: NativeStore) -> None:
        self._store = store

    def all(self) -> dict[str, Image]:
        """By name; of two of a name, as an import leaves them for a moment, the newer one."""
        found: dict[str, Image] = {}
        for entry in self._entries():
            try:
                told = json.loads((entry / "image.json").read_text())
            except FileNotFoundError:
                continue  # removed meanwhile
            command, labels = tuple(told["command"]), dict(told["labels"])
            image = Image(entry / "root", told["name"], command, labels, told["size_bytes"], told["created"])
            if image.name not in found or found[image.name].created < image.created:
                found[image.name] = image
        return found

    def _entries(self) -> list[Path]:
        try:
            return [path for path in self._store.images.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []

    def get(self, name: str) -> Image:
        """Raises HypervisorError (EIO) if there is none of that name."""
        image = self.all().get(name)
        if image is None:
            raise HypervisorError(
                f"no image {name}: `nfio image build TYPE --for native` makes one, `nfio image list` "
                f"shows what there is; `{HOST}` is this host's own root file system"
            )
        return image

    def add(self, name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
        """Unpack an image; one of that name is replaced."""
        self._store.prepare()
        draft = self._store.images / f".{uuid.uuid4().hex}"
        root = draft / "root"
        root.mkdir(parents=True)
        try:
            options = ["--numeric-owner", "--xattrs", "--xattrs-include=*"]
            done = run(["tar", "-x", "-p", *options, "-f", str(tarball), "-C", str(root)], _UNPACK_TIMEOUT_S)
            if done.returncode:
                raise HypervisorError(f"tar: {last_line(done.stderr)}")
            root.chmod(0o755)
            told = {
                "name": name,
                "command": command,
                "labels": labels,
                "size_bytes": size_of(root),
                "created": time.time(),
            }
            (draft / "image.json").write_text(json.dumps(told))
            draft.rename(draft.with_name(draft.name[1:]))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self.collect()

    def remove(self, name: str) -> None:
        image = self.all().get(name)
        if image is None:
            raise NotFound(f"no image {name}")
        with self._store.locked():
            users = [guest.name for guest in self._store.all() if str(image.root) in guest.layers]
            if users:
                raise Busy(f"{name} is used by {', '.join(sorted(users)[:5])}: destroy them first")
            self._drop(image.root.parent)
        self.collect()

    def collect(self) -> None:
        """Remove what no guest uses and no name stands for: replaced images, old layers, drafts."""
        with self._store.locked():
            used = {layer for guest in self._store.all() for layer in guest.layers}
            named = {image.root.parent for image in self.all().values()}
            for entry in self._entries():
                if entry not in named and str(entry / "root") not in used:
                    self._drop(entry)
            for layer in self._store.layers.iterdir():
                if str(layer) not in used:
                    self._drop(layer)

    @staticmethod
    def _drop(path: Path) -> None:
        grave = path.with_name(f".gone-{path.name}")
        os.rename(path, grave)
        shutil.rmtree(grave, ignore_errors=True)

    def infos(self) -> list[ImageInfo]:
        return [
            ImageInfo(image.name, image.size_bytes, image.created, image.labels.get("io.nfio.recipe", ""))
            for image in self.all().values()
        ]

    # -- the host's own root ----------------------------------------------------------------

    def host_layers(self, function: Function, timeout_s: float) -> tuple[str, ...]:
        """The layers of a guest on the host's root: what hides and adds, above the root itself.

        Raises:
            HypervisorError (EIO): the host lacks the function's programs.
        """
        for program in function.programs:
            if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
                packages = " ".join(function.packages)
                raise HypervisorError(f"this host has no {program}: apt-get install {packages}")
        self._store.prepare()
        hidden = (*_HIDDEN, *_secrets())
        text = json.dumps([function.init, function.setup, hidden])
        layer = self._store.layers / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not layer.exists():
            with self._store.locked():
                if not layer.exists():
                    self._make_layer(layer, function, hidden, timeout_s)
        return str(layer), "/"

    @staticmethod
    def stack(guest: Guest, bundle: Path) -> tuple[str, ...]:
        """The layers that a guest's root file system is stacked from, below its ``upper``."""
        layers = guest.layers
        if layers[-1] == "/":
            # overlayfs refuses a layer that lies in another one, but for the uppermost. So what is
            # above the host's root is copied there, whole or not at all: it hides secrets.
            upper, draft = bundle / "upper", bundle / "upper.new"
            if not any(upper.iterdir()):
                shutil.rmtree(draft, ignore_errors=True)
                done = run(["cp", "-a", "--", layers[0], str(draft)], _COPY_TIMEOUT_S)
                if done.returncode:
                    raise HypervisorError(f"cp: {last_line(done.stderr)}")
                draft.rename(upper)
            layers = layers[1:]
        return layers

    def _make_layer(self, layer: Path, function: Function, hidden: tuple[str, ...], timeout_s: float) -> None:
        draft = layer.with_name(f".{uuid.uuid4().hex}")
        for part in ("upper", "work", "rootfs"):
            (draft / part).mkdir(parents=True)
        try:
            upper = draft / "upper"
            upper.chmod(0o755)
            _hide(upper, hidden)
            mount_overlay(("/",), draft)
            try:
                root = draft / "rootfs"
                if function.init:
                    (root / INIT.lstrip("/")).write_text(function.init)
                    (root / INIT.lstrip("/")).chmod(0o755)
                if function.setup:
                    script = "\n".join(["set -e", *function.setup])
                    done = run(["chroot", str(root), "/bin/sh", "-c", script], timeout_s)
                    if done.returncode:
                        raise HypervisorError(f"the host's root could not be prepared: {done.stderr.strip()}")
            finally:
                unmount(draft / "rootfs")
            upper.rename(layer)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _secrets() -> list[str]:
    """What in /etc not everybody may read: a guest's root is the same user as the host's."""
    found = []
    for directory, directories, files in os.walk("/etc"):
        for name in (*directories, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and not mode & stat.S_IROTH:
                found.append(str(path)[1:])
        directories[:] = [name for name in directories if str(Path(directory, name))[1:] not in found]
    return sorted(found)


def _hide(upper: Path, hidden: tuple[str, ...]) -> None:
    """Cover what a guest is not to see: by whiteouts, and by directories of their own content."""
    for place in _MADE:
        _own_directory(upper, place)
    for place in _VAR:
        _own_directory(upper, f"var/{place}")
    (upper / "tmp").chmod(0o1777)
    (upper / "var/tmp").chmod(0o1777)
    (upper / "root").chmod(0o700)
    for entry in os.scandir("/"):
        if entry.name not in _SHOWN and not (upper / entry.name).exists():
            os.mknod(upper / entry.name, stat.S_IFCHR, 0)  # overlayfs: a whiteout
    for place in hidden:
        if os.path.lexists(f"/{place}"):
            for parent in reversed(Path(place).parents[:-1]):
                _same_directory(upper, str(parent))
            os.mknod(upper / place, stat.S_IFCHR, 0)


def _own_directory(upper: Path, place: str) -> None:
    """A directory that shows nothing of the host's of that name."""
    for parent in reversed(Path(place).parents[:-1]):
        if not (upper / parent).exists():
            _same_directory(upper, str(parent))
    (upper / place).mkdir(mode=0o755)
    os.setxattr(upper / place, "trusted.overlay.opaque", b"y")


def _same_directory(upper: Path, place: str) -> None:
    """A directory that shows what the host's of that name holds."""
    path = upper / place
    if not path.exists():
        path.mkdir()
        found = os.stat(f"/{place}")
        os.chmod(path, stat.S_IMODE(found.st_mode))
        os.chown(path, found.st_uid, found.st_gid)


def size_of(root: Path) -> int:
    """Bytes on disk of all below a directory."""
    done = subprocess.run(["du", "-s", "-B1", "--", str(root)], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[0]) if done.stdout else 0
