"""The persistent root: the authority on what is defined.

::

    ROOT/
    ├── nf-types/<type>/<instance>/     the stored files, in the places the mount shows them
    │   └── .nfio.json                  uuid, intent, last action and error
    └── .nfio/
        ├── lock                        held while mounted
        ├── root-id  root-inode         name this root to hypervisors; tell it from a copy of it
        ├── hypervisor                  type of the one that ran its VNFs last
        ├── events.jsonl                the journal
        ├── changing/<uuid>             a knob of it is being turned
        ├── guests/<uuid>/              what the guest sees in its configuration directory
        ├── new/                        instances and files being made; renamed into place when whole
        └── trash/                      instances and files being removed

A live file has a place here only once its mode or owner was changed. Everything that must
not be seen half-done is made beside its place and renamed into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nfio.errors import AlreadyExists, Busy
from nfio.paths import NF_TYPES, is_temporary
from nfio.tree import DIRECTORIES

RECORD = ".nfio.json"


@dataclass
class Record:
    """What nfio itself remembers of an instance.

    Attributes:
        uuid: the entity's.
        intent: name of the state that it was last brought to on purpose; DEFINED means that
            the hypervisor has nothing of it.
        action: the last word that was carried out.
        error: why the last operation failed; empty if it did not.
    """

    uuid: str
    intent: str = "DEFINED"
    action: str = ""
    error: str = ""


def hypervisor_of(root: Path) -> str | None:
    """Type of the hypervisor that ran a root's VNFs last; None if it was never mounted."""
    try:
        return (root / ".nfio" / "hypervisor").read_text().strip()
    except OSError:
        return None


class Store:
    """The files of a root directory. One process at a time may hold it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.types = self.root / NF_TYPES
        self.own = self.root / ".nfio"
        self._lock_fd: int | None = None
        self.root_id = ""

    # -- opening ----------------------------------------------------------------------------

    def acquire(self, mountpoint: str) -> None:
        """Take the root for this process, and clear what an earlier one left half-done.

        Raises:
            Busy (EBUSY): another process has it, or it is a copy of another root.
        """
        for directory in (self.types, self.own, self.own / "guests", self.own / "changing"):
            directory.mkdir(parents=True, exist_ok=True)
        self.own.chmod(0o700)
        fd = os.open(self.own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 4096).decode(errors="replace").strip()
            os.close(fd)
            raise Busy(f"{self.root} is mounted already{f' at {holder}' if holder else ''}") from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{mountpoint} by process {os.getpid()}\n".encode())
        self._lock_fd = fd
        for name in ("new", "trash"):
            shutil.rmtree(self.own / name, ignore_errors=True)
            (self.own / name).mkdir()
        try:
            self.root_id = self._read_root_id()
        except BaseException:
            self.release()
            raise
        self._clear_temporaries()

    def release(self) -> None:
        if self._lock_fd is not None:
            os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)
            self._lock_fd = None

    def _read_root_id(self) -> str:
        """This root's name to hypervisors, made at its first use.

        A copy of the directory would have the same name, and each of the two would take the
        other's VNFs for orphans and remove them. A copy is known by its inode.
        """
        path, inode_path = self.own / "root-id", self.own / "root-inode"
        inode = str(self.own.stat().st_ino)
        if not path.exists():
            inode_path.unlink(missing_ok=True)
            self.write(path, f"{uuid.uuid4()}\n".encode())
        if not inode_path.exists():
            self.write(inode_path, f"{inode}\n".encode())
        if inode_path.read_text().strip() != inode:
            raise Busy(
                f"{self.root} was copied or restored from another root. If that one is still in use: "
                f"rm {path}, and this one begins without its VNFs; if this one takes its place: rm {inode_path}"
            )
        return path.read_text().strip()

    def keep_hypervisor(self, kind: str) -> None:
        """Note which type of hypervisor runs the VNFs.

        Raises:
            Busy (EBUSY): another one has some of them. It would not be asked for them any more.
        """
        before = hypervisor_of(self.root)
        if before not in (None, kind):
            held = [
                f"{type_name}/{name}"
                for type_name, name in self.instances()
                if self.read_record(type_name, name).intent != "DEFINED"
            ]
            if held:
                more = f" and {len(held) - 3} more" if len(held) > 3 else ""
                raise Busy(
                    f"{before} runs VNFs of {self.root} ({', '.join(held[:3])}{more}): mount it with "
                    f"--hypervisor {before}, and destroy them before another takes over"
                )
        self.write(self.own / "hypervisor", f"{kind}\n".encode())

    def _clear_temporaries(self) -> None:
        for kind, name in self.instances():
            for directory, _, files in os.walk(self.instance(kind, name)):
                for file in files:
                    if is_temporary(file):
                        os.unlink(os.path.join(directory, file))

    def changing(self, instance_uuid: str) -> Path:
        """A file that is there while what its guest was told and what is stored may differ."""
        return self.own / "changing" / instance_uuid

    # -- instances --------------------------------------------------------------------------

    def instance(self, kind: str, name: str) -> Path:
        return self.types / kind / name

    def guest_dir(self, instance_uuid: str) -> Path:
        return self.own / "guests" / instance_uuid

    def instances(self) -> Iterator[tuple[str, str]]:
        """Type and name of everything that is defined."""
        for kind in sorted(os.listdir(self.types)):
            with contextlib.suppress(NotADirectoryError):
                for name in sorted(os.listdir(self.types / kind)):
                    if (self.types / kind / name / RECORD).exists():
                        yield kind, name

    def type_dir(self, kind: str) -> Path:
        """The directory of a type, made at its first use."""
        path = self.types / kind
        path.mkdir(exist_ok=True)
        return path

    def create_instance(
        self, kind: str, name: str, mode: int, owner: tuple[int, int], files: dict[str, bytes]
    ) -> Record:
        """Define an instance, whole or not at all.

        Raises:
            AlreadyExists (EEXIST): it is defined already.
        """
        record = Record(str(uuid.uuid4()))
        draft = self.own / "new" / record.uuid
        draft.mkdir()
        try:
            for directory in DIRECTORIES:
                (draft / directory).mkdir()
            for file, content in files.items():
                (draft / file).parent.mkdir(parents=True, exist_ok=True)
                (draft / file).write_bytes(content)
            made = list(draft.rglob("*"))
            (draft / RECORD).write_text(json.dumps(asdict(record)))
            for path in made:
                os.chown(path, *owner)
                os.chmod(path, mode & 0o777 if path.is_dir() else 0o644)
            os.chown(draft, *owner)
            os.chmod(draft, mode & 0o777)
            self.type_dir(kind)
            place = self.instance(kind, name)
            if place.exists():
                raise AlreadyExists(f"{kind}/{name} exists")
            os.rename(draft, place)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return record

    def remove_instance(self, kind: str, name: str, instance_uuid: str) -> None:
        """Remove an instance, whole or not at all."""
        grave = self.own / "trash" / str(uuid.uuid4())
        os.rename(self.instance(kind, name), grave)
        shutil.rmtree(grave, ignore_errors=True)
        shutil.rmtree(self.guest_dir(instance_uuid), ignore_errors=True)
        self.changing(instance_uuid).unlink(missing_ok=True)

    def read_record(self, kind: str, name: str) -> Record:
        return Record(**json.loads((self.instance(kind, name) / RECORD).read_text()))

    def write_record(self, kind: str, name: str, record: Record) -> None:
        self.write(self.instance(kind, name) / RECORD, json.dumps(asdict(record)).encode())

    # -- files ------------------------------------------------------------------------------

    @staticmethod
    def read(path: Path) -> bytes:
        """Content of a stored file, b"" if there is none. A link is not followed."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def write(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """Replace the content of a stored file at once; its mode and owner stay as they were."""
        draft = self.own / "new" / uuid.uuid4().hex  # where nobody sees it who lists the directory
        around: os.stat_result | None = None
        try:
            with open(draft, "xb") as file:
                file.write(content)
                try:
                    old = os.lstat(path)
                    around = os.stat(path.parent)
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                    os.fchmod(file.fileno(), old.st_mode & 0o7777)
                except FileNotFoundError:
                    parent = os.stat(path.parent)
                    os.fchown(file.fileno(), parent.st_uid, parent.st_gid)
                    os.fchmod(file.fileno(), mode)
            os.rename(draft, path)
            if around is not None:
                # A file that is written to does not change its directory: rsync counts on it.
                os.utime(path.parent, ns=(around.st_atime_ns, around.st_mtime_ns))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            raise
