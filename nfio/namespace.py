"""The file tree that users see, without FUSE: names, attributes, and what changes them.

Paths are absolute and inside the mount. Errors are NfioErrors, or OSErrors of the stored files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from middleboxes import Directory, Knob, Stream
from nfio import __version__, metrics
from nfio.attributes import Attributes
from nfio.errors import (
    AccessDenied,
    AlreadyExists,
    Busy,
    InvalidValue,
    IsADirectory,
    NfioError,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
)
from nfio.handles import (
    GuestStreamHandle,
    Handle,
    JournalHandle,
    OrderHandle,
    SnapshotHandle,
    StoredHandle,
    StreamHandle,
    ValueHandle,
)
from nfio.nodes import STREAM, Node, Place
from nfio.paths import check_file_name, check_name, is_temporary, locate, split
from nfio.tree import FileSpec, Kind
from nfio.type_files import Own
from nfio.vnf import Vnf
from nfio.vnfs_operations import VNFSOperations


class Namespace(Attributes):
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
        super().__init__(operations.orchestrator, operations.store, caller)
        self._operations = operations
        self._orchestrator = operations.orchestrator
        self._files = operations.files
        self._own = operations.own
        self._cancelled = cancelled

    # -- looking ----------------------------------------------------------------------------

    def readdir(self, path: str) -> list[str]:
        return self._nodes.names_in(path)

    def readlink(self, path: str) -> str:
        node = self._nodes.resolve(path)
        if node.place is Place.LINK:
            return node.target
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
            if node.own is not None:
                if isinstance(node.own.file, Stream):
                    return GuestStreamHandle(vnf, node.own.file.path, self._cancelled)
                return SnapshotHandle(self._own.read_live(vnf, node.own))
            return SnapshotHandle(self._files.read(vnf, node.file))
        anew = writing and self._undelete.made(f"/nf-types/{vnf.label}/{node.file}", self._caller)
        if spec.kind is Kind.CONTROL:
            if not writing:
                return SnapshotHandle(b"" if node.own is not None else self._files.read(vnf, node.file))
            return OrderHandle(self._files, vnf, node.file, node.own)
        settle = partial(self._settle, node, vnf)
        if writing and not (spec.kind is Kind.VALUE and anew):
            settle(True)
        if spec.kind is Kind.VALUE:
            append = bool(flags & os.O_APPEND)
            handle = ValueHandle(self._files, vnf, node.file, node.own, append=append, settled=settle)
            if flags & os.O_TRUNC:
                handle.truncate(0)
            return handle
        return StoredHandle(str(vnf.path / node.file), flags | os.O_CREAT)

    def _settle(self, node: Node, vnf: Vnf, accepted: bool) -> None:
        """What was unlinked before is put back, and in force, if what takes its place is refused."""
        if self._undelete.settle(vnf, node.file, accepted) and node.own is not None:
            self._own.renew(vnf)

    def create(self, path: str, flags: int, mode: int) -> Handle:
        """Make a file where users may: in ``config/``, and temporary ones beside writable files."""
        check_file_name(path.rpartition("/")[2])
        try:
            node = self._nodes.resolve(path)
        except NotFound:
            if not self._make_entry(path):
                raise AccessDenied(f"{path}: no files are made here; config/ is the place for them") from None
            node = self._nodes.resolve(path)
        if node.place is not Place.PLAIN or node.vnf is None:
            return self.open(path, flags | os.O_TRUNC)
        self._undelete.settle(node.vnf, node.file, True)
        handle = StoredHandle(self._stored(path), flags | os.O_CREAT, mode & 0o777)
        uid, gid, _ = self._caller()
        os.fchown(handle.fd, uid, gid)
        return handle

    def _make_entry(self, path: str) -> bool:
        """Make an empty file among the type's own; False if none may be made there."""
        entry = self._nodes.entry(path)
        if entry is None or not isinstance(entry[1].file, Knob):
            return False
        self._own.set_value(*entry, entry[1].default, make=True)
        self._undelete.settle(entry[0], entry[1].path, True)
        uid, gid, _ = self._caller()
        os.chown(self._stored(path), uid, gid)
        return True

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
        entry = self._nodes.entry(path)
        if entry is not None and isinstance(entry[1].file, Directory):
            self._own.make_directory(*entry, mode, (uid, gid))
        else:
            self._operations.vnfs_create_vnf_instance(path, mode, (uid, gid))

    @contextmanager
    def _removing(self, vnf: Vnf, file: str) -> Iterator[None]:
        """Part of what `rm -r` does, which never comes to its rmdir if this part is refused."""
        self._undelete.begin(vnf, file, self._caller)
        try:
            yield
        except NfioError:
            if self._undelete.refused(vnf, self._caller):
                self._own.renew(vnf)
            raise

    def rmdir(self, path: str) -> None:
        node = self._nodes.resolve(path)
        if node.place is Place.INSTANCE and node.vnf is not None:
            try:
                self._orchestrator.undefine(node.vnf)
            except Busy:
                if self._undelete.restore(node.vnf, self._caller):
                    self._own.renew(node.vnf)
                raise
            self._undelete.drop(node.vnf)
        elif node.place is Place.INSTANCE_DIR and node.vnf is not None:
            # Part of every instance: `rm -r` removes it on its way to the instance itself.
            known = self._nodes.fixed_names(node.vnf, node.file)
            if set(self._nodes.list_instance(node.vnf, node.file)) - known:
                raise NotEmpty(path)
        elif node.place is Place.ENTRY and node.vnf is not None and node.own is not None:
            with self._removing(node.vnf, node.file):
                self._own.remove(node.vnf, node.own)
        elif node.place in (Place.TOP_DIR, Place.TYPE):
            raise NotPermitted(f"{path} is part of every nfio")
        else:
            raise NotADirectory(path)

    # -- names ------------------------------------------------------------------------------

    def unlink(self, path: str) -> None:
        """Remove a user's file; reset one of the tree's to what it held after mkdir."""
        node = self._nodes.resolve(path)
        if node.vnf is not None and node.place is Place.LINK:
            return  # part of every instance, as live files are
        if node.vnf is None or node.place not in (Place.FILE, Place.PLAIN):
            raise NotPermitted(f"{path} is part of every nfio")
        if node.place is Place.PLAIN and is_temporary(split(node.file)[1]):
            os.unlink(self._stored(path))
            return
        with self._removing(node.vnf, node.file):
            self._unlink(path, node, node.vnf)

    def _unlink(self, path: str, node: Node, vnf: Vnf) -> None:
        if node.place is Place.PLAIN:
            self._undelete.keep(vnf, node.file, self._caller)
            return
        if node.own is not None and isinstance(node.own.file, Knob):
            self._unlink_knob(vnf, node.own)
            if node.own.made:
                return
        elif node.spec is not None and not node.spec.live:
            if node.file == "machine/ip" and vnf.host and vnf.vnf_id is not None:
                raise Busy(f"{vnf.label} is deployed on {vnf.host}")
            default = self._orchestrator.default_of(vnf, node.file)
            self._undelete.keep(vnf, node.file, self._caller)
            vnf.store.write(vnf.path / node.file, default)
            if node.file == "machine/ip":
                vnf.host = ""
        self._undelete.set_absent(path, self._caller)

    def _unlink_knob(self, vnf: Vnf, own: Own) -> None:
        keep = partial(self._undelete.keep, vnf, own.path, self._caller)
        if own.made:
            self._own.remove(vnf, own, keep)
        elif self._files.value(vnf, own.path, own) != own.default:
            self._own.set_value(vnf, own, own.default, keep)

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
            is_file = source.vnf is not None and source.place in (Place.FILE, Place.PLAIN)
            if is_file and self._make_entry(new):
                try:
                    self._move_content(old, new, False)
                except BaseException:
                    if (entry := self._nodes.entry(new)) is not None:
                        self._own.remove(*entry)
                    raise
                return
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
