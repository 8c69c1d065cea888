"""The file tree that users see, without FUSE: names, attributes, and what changes them.

Paths are absolute and inside the mount. Errors are NfioErrors, or OSErrors of the stored files.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from functools import partial

from nfio import __version__, metrics
from nfio.errors import (
    AccessDenied,
    AlreadyExists,
    Busy,
    InvalidValue,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
)
from nfio.handles import (
    Handle,
    JournalHandle,
    OrderHandle,
    SnapshotHandle,
    StoredHandle,
    StreamHandle,
    ValueHandle,
)
from nfio.nodes import STREAM, TOP_LINKS, Node, Nodes, Place
from nfio.paths import check_file_name, check_name, is_temporary, locate, split
from nfio.tree import FILES, LIVE_SIZE, FileSpec, Kind
from nfio.undelete import Undelete
from nfio.vnf import Vnf
from nfio.vnfs_operations import VNFSOperations


class Namespace:
    """The tree over the operations on VNFs.

    Args:
        operations: what the files stand for.
        caller: uid, gid and pid of the process being served.
        cancelled: whether its system call was interrupted.
    """

    def __init__(
        self,
        operations: VNFSOperations,
        caller: Callable[[], tuple[int, int, int]],
        cancelled: Callable[[], bool],
    ) -> None:
        self._operations = operations
        self._orchestrator = operations.orchestrator
        self._files = operations.files
        self._nodes = Nodes(operations.orchestrator)
        self._root = str(operations.store.root)
        self._caller = caller
        self._cancelled = cancelled
        self._undelete = Undelete(operations.store)

    # -- resolving --------------------------------------------------------------------------

    def _stored(self, path: str) -> str:
        """Where a path's attributes, and the content of stored files, are kept."""
        return self._root + path

    # -- looking ----------------------------------------------------------------------------

    def getattr(self, path: str) -> dict[str, int]:
        """Attributes as in stat(2), times in nanoseconds. Speaks to no hypervisor."""
        node = self._nodes.resolve(path)
        if self._undelete.is_absent(path, self._caller):
            raise NotFound(path)
        kind, mode = self._nodes.defaults(node)
        times = 0
        try:
            found = os.lstat(self._stored(path))
            mode = stat.S_IMODE(found.st_mode)
            if node.place is Place.PLAIN:
                kind = stat.S_IFMT(found.st_mode)
        except FileNotFoundError:
            if node.place is Place.PLAIN:
                raise
            found = os.lstat(self._root if node.vnf is None else node.vnf.path)
            if node.vnf is not None:
                times = node.vnf.changed_ns
        size = found.st_size
        if node.spec is not None:
            if node.spec.live:
                size = LIVE_SIZE
            elif node.vnf is not None and node.file in node.vnf.emptied:
                size = 0
        elif node.place is Place.TOP_FILE:
            size = LIVE_SIZE
            times = time.time_ns()  # as in procfs: node_exporter reports how old what it reads is
        elif node.place is Place.TOP_LINK:
            size = len(TOP_LINKS[path])
        return {
            "st_mode": kind | mode,
            "st_nlink": 2 if kind == stat.S_IFDIR else 1,
            "st_uid": found.st_uid,
            "st_gid": found.st_gid,
            "st_size": size,
            "st_blocks": -(-size // 512),
            "st_atime": times or found.st_atime_ns,
            "st_mtime": times or found.st_mtime_ns,
            "st_ctime": times or found.st_ctime_ns,
        }

    def readdir(self, path: str) -> list[str]:
        return self._nodes.names_in(path)

    def readlink(self, path: str) -> str:
        node = self._nodes.resolve(path)
        if node.place is Place.TOP_LINK:
            return TOP_LINKS[path]
        if node.place is not Place.PLAIN:
            raise InvalidValue(f"{path} is not a symbolic link")
        return os.readlink(self._stored(path))

    def statfs(self) -> os.statvfs_result:
        return os.statvfs(self._root)

    def access(self, path: str, mode: int) -> None:
        """Whether anybody may; who exactly, the kernel decides from the attributes."""
        node = self._nodes.resolve(path)
        if mode & os.W_OK and node.spec is not None and node.spec.kind is Kind.LIVE:
            raise AccessDenied(f"{path} is read only")
        self.getattr(path)

    # -- opening ----------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> Handle:
        node = self._nodes.resolve(path)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if node.place is Place.PLAIN:
            return StoredHandle(self._stored(path), flags)
        if node.place is Place.TOP_FILE:
            if writing:
                raise AccessDenied(f"{path} is read only")
            return self._open_top(path)
        if node.place is not Place.FILE or node.vnf is None or node.spec is None:
            raise IsADirectory(path)
        return self._open_file(node, node.vnf, node.spec, flags, writing)

    def _open_top(self, path: str) -> Handle:
        if path == STREAM:
            return StreamHandle(self._orchestrator.journal, self._cancelled)
        if path == "/events":
            return JournalHandle(self._orchestrator.journal)
        if path == "/version":
            return SnapshotHandle(f"{__version__}\n".encode())
        return SnapshotHandle(metrics.render(list(self._orchestrator.vnfs.values()), self._files))

    def _open_file(self, node: Node, vnf: Vnf, spec: FileSpec, flags: int, writing: bool) -> Handle:
        if spec.kind is Kind.LIVE:
            if writing:
                raise AccessDenied(f"{node.file} is read only")
            if node.live is not None:
                return SnapshotHandle(self._files.read_live(vnf, node.live))
            return SnapshotHandle(self._files.read(vnf, node.file))
        anew = writing and self._undelete.made(f"/nf-types/{vnf.label}/{node.file}", self._caller)
        if spec.kind is Kind.CONTROL:
            if not writing:
                return SnapshotHandle(self._files.read(vnf, node.file))
            return OrderHandle(self._files, vnf, node.file)
        settle = partial(self._undelete.settle, vnf, node.file)
        if writing and not (spec.kind is Kind.VALUE and anew):
            settle(True)
        if spec.kind is Kind.VALUE:
            append = bool(flags & os.O_APPEND)
            handle = ValueHandle(self._files, vnf, node.file, append=append, settled=settle)
            if flags & os.O_TRUNC:
                handle.truncate(0)
            return handle
        return StoredHandle(str(vnf.path / node.file), flags | os.O_CREAT)

    def create(self, path: str, flags: int, mode: int) -> Handle:
        """Make a file where users may: in ``config/``, and temporary ones beside writable files."""
        check_file_name(path.rpartition("/")[2])
        try:
            node = self._nodes.resolve(path)
        except NotFound:
            raise AccessDenied(f"{path}: no files are made here; config/ is the place for them") from None
        if node.place is not Place.PLAIN or node.vnf is None:
            return self.open(path, flags | os.O_TRUNC)
        self._undelete.settle(node.vnf, node.file, True)
        handle = StoredHandle(self._stored(path), flags | os.O_CREAT, mode & 0o777)
        uid, gid, _ = self._caller()
        os.fchown(handle.fd, uid, gid)
        return handle

    def truncate(self, path: str, length: int) -> None:
        node = self._nodes.resolve(path)
        if node.place is Place.FILE and node.spec is not None and node.spec.kind is Kind.CONTROL:
            return
        handle = self.open(path, os.O_WRONLY)
        try:
            handle.truncate(length)
        finally:
            handle.close()

    # -- directories ------------------------------------------------------------------------

    def mkdir(self, path: str, mode: int) -> None:
        uid, gid, _ = self._caller()
        self._operations.vnfs_create_vnf_instance(path, mode, (uid, gid))

    def rmdir(self, path: str) -> None:
        node = self._nodes.resolve(path)
        if node.place is Place.INSTANCE and node.vnf is not None:
            try:
                self._orchestrator.undefine(node.vnf)
            except Busy:
                self._undelete.restore(node.vnf, self._caller)
                raise
            self._undelete.drop(node.vnf)
        elif node.place is Place.INSTANCE_DIR and node.vnf is not None:
            # Part of every instance: `rm -r` removes it on its way to the instance itself.
            known = {name for place, name in map(split, FILES) if place == node.file}
            if set(self._nodes.list_instance(node.vnf, node.file)) - known:
                raise NotEmpty(path)
        elif node.place in (Place.TOP_DIR, Place.TYPE):
            raise NotPermitted(f"{path} is part of every nfio")
        else:
            raise NotADirectory(path)

    # -- names ------------------------------------------------------------------------------

    def unlink(self, path: str) -> None:
        """Remove a user's file; reset one of the tree's to what it held after mkdir."""
        node = self._nodes.resolve(path)
        if node.vnf is None or node.place not in (Place.FILE, Place.PLAIN):
            raise NotPermitted(f"{path} is part of every nfio")
        if node.place is Place.PLAIN:
            if is_temporary(split(node.file)[1]):
                os.unlink(self._stored(path))
            else:
                self._undelete.keep(node.vnf, node.file, self._caller)
            return
        if node.spec is not None and not node.spec.live:
            if node.file == "machine/ip" and node.vnf.host and node.vnf.vnf_id is not None:
                raise Busy(f"{node.vnf.label} is deployed on {node.vnf.host}")
            default = self._orchestrator.default_of(node.vnf, node.file)
            self._undelete.keep(node.vnf, node.file, self._caller)
            node.vnf.store.write(node.vnf.path / node.file, default)
            if node.file == "machine/ip":
                node.vnf.host = ""
        self._undelete.set_absent(path, self._caller)

    def rename(self, old: str, new: str) -> None:
        """Onto a file of the tree: a write of the content. A VNF: another name for it."""
        source = self._nodes.resolve(old)
        if source.place is Place.INSTANCE and source.vnf is not None:
            self._rename_instance(source.vnf, new)
            return
        check_file_name(new.rpartition("/")[2])
        try:
            target = self._nodes.resolve(new)
        except NotFound:
            raise AccessDenied(f"{new}: no files are made here; config/ is the place for them") from None
        if source.vnf is None or source.place not in (Place.FILE, Place.PLAIN):
            raise NotPermitted(f"{old} cannot be renamed")
        if target.vnf is None or target.place not in (Place.FILE, Place.PLAIN):
            raise NotPermitted(f"{new} cannot be replaced")
        plain = target.place is Place.PLAIN or (target.spec is not None and target.spec.kind is Kind.TEXT)
        if source.place is Place.PLAIN and plain:
            if target.spec is not None and not stat.S_ISREG(os.lstat(self._stored(old)).st_mode):
                raise InvalidValue(f"{target.file} is a file, not a link")
            os.rename(self._stored(old), self._stored(new))
            self._undelete.made(new, self._caller)
            self._undelete.settle(target.vnf, target.file, True)
            return
        self._move_content(old, new, plain)

    def _move_content(self, old: str, new: str, plain: bool) -> None:
        reader = self.open(old, os.O_RDONLY)
        try:
            content = bytearray()
            while chunk := reader.read(1 << 20, len(content)):
                content += chunk
        finally:
            reader.close()
        flags = os.O_WRONLY | os.O_TRUNC
        writer = self.create(new, flags, 0o644) if plain else self.open(new, flags)
        try:
            writer.write(bytes(content), 0)
        finally:
            writer.close()
        # What was moved keeps its time, by which rsync knows it again.
        times = self.getattr(old)
        self.utimens(new, (times["st_atime"], times["st_mtime"]))
        self.unlink(old)

    def _rename_instance(self, vnf: Vnf, new: str) -> None:
        location = locate(new)
        if location is None or location.type != vnf.type or not location.instance or location.file:
            raise NotPermitted(f"{vnf.label} can be renamed inside nf-types/{vnf.type}/ only")
        if (vnf.type, location.instance) in self._orchestrator.vnfs:
            raise AlreadyExists(new)
        self._orchestrator.rename(vnf, check_name(location.instance))

    def symlink(self, path: str, target: str) -> None:
        try:
            node = self._nodes.resolve(path)
        except NotFound:
            node = None
        if node is None or node.place is not Place.PLAIN or not node.file.startswith("config/"):
            raise NotPermitted(f"{path}: links are made in config/ only")
        if "/" in target or target in ("", ".", ".."):
            raise NotPermitted(f"{target}: links in config/ lead to files in it")
        check_file_name(path.rpartition("/")[2])
        os.symlink(target, self._stored(path))
        uid, gid, _ = self._caller()
        os.lchown(self._stored(path), uid, gid)

    # -- attributes -------------------------------------------------------------------------

    def _attributed(self, path: str) -> str:
        """The stored file that keeps a path's attributes, made if there is none yet."""
        node = self._nodes.resolve(path)
        stored = self._stored(path)
        if node.place is not Place.PLAIN and not os.path.lexists(stored):
            now = self.getattr(path)
            if stat.S_ISDIR(now["st_mode"]):
                os.makedirs(stored, exist_ok=True)
            elif stat.S_ISLNK(now["st_mode"]):
                raise NotPermitted(f"{path} is part of every nfio")
            else:
                os.makedirs(os.path.dirname(stored), exist_ok=True)
                os.close(os.open(stored, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(stored, stat.S_IMODE(now["st_mode"]))
            os.chown(stored, now["st_uid"], now["st_gid"])
        return stored

    def chmod(self, path: str, mode: int) -> None:
        stored = self._attributed(path)
        if not os.path.islink(stored):
            os.chmod(stored, stat.S_IMODE(mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._attributed(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None) -> None:
        node = self._nodes.resolve(path)
        if os.path.lexists(self._stored(path)):
            if times is None:
                now = time.time_ns()
                times = (now, now)
            os.utime(self._stored(path), ns=times, follow_symlinks=False)
        elif node.place is Place.PLAIN:
            raise NotFound(path)
