"""The file system as FUSE calls it: every operation handed to the tree, every error given its errno."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
from collections.abc import Callable
from typing import Any

from hypervisor.hypervisor_factory import HypervisorFactory
from nfio import _fuse
from nfio._fuse import FileInfo, FuseOSError, Operations
from nfio.errors import NfioError
from nfio.handles import Handle
from nfio.modules import DEFAULT
from nfio.namespace import Namespace
from nfio.vnfs_operations import VNFSOperations

log = logging.getLogger(__name__)


class Nfio(Operations):  # type: ignore[misc]  # fusepy has no types
    """The nfio file system.

    Args:
        root: the root directory; it stores persistent state about the system.
        mountpoint: where the file system is mounted.
        hypervisor: the type of hypervisor to use for deploying VNFs.
        module_root: root directory of the middlebox modules.
        mount: mount at ``mountpoint`` and serve until it is unmounted, as nf.io's constructor
            does. False only makes the object, whose operations can then be called.
        allow_other: let other users in, as far as modes and owners allow.
        on_ready: called once the kernel has the mount.

    Raises:
        Busy (EBUSY): the root is mounted already; another hypervisor runs VNFs of it.
        TypeError, ValueError: see HypervisorFactory.
    """

    def __init__(
        self,
        root: str,
        mountpoint: str,
        hypervisor: str = "Docker",
        module_root: str = DEFAULT,
        *,
        mount: bool = True,
        allow_other: bool = False,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        HypervisorFactory(hypervisor)
        self.root = root
        self.mountpoint = mountpoint
        self.hypervisor = HypervisorFactory.get_hypervisor_instance()
        self.module_root = module_root
        self.vnfs_ops = VNFSOperations(root, module_root)
        self._namespace = Namespace(self.vnfs_ops, _fuse.caller, _fuse.cancelled)
        self._on_ready = on_ready
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)
        self.vnfs_ops.store.acquire(mountpoint)
        try:
            self.vnfs_ops.store.keep_hypervisor(hypervisor)
            self.vnfs_ops.orchestrator.load()
            if mount:
                _fuse.serve(self, root, mountpoint, allow_other=allow_other)
        except BaseException:
            self.vnfs_ops.store.release()
            raise

    def __call__(self, op: str, *args: Any) -> Any:
        """Every call of FUSE's comes through here: the one place that catches everything."""
        try:
            return getattr(self, op)(*args)
        except NfioError as error:
            log.debug("%s: %s", op, error.line)
            raise FuseOSError(error.errno) from error
        except OSError as error:
            # Of a stored file: the disk is full, a name is too long. Its errno says it.
            raise FuseOSError(error.errno or errno.EIO) from error
        except Exception as error:
            log.exception("%s%r failed", op, args[:1])
            raise FuseOSError(errno.EIO) from error

    # -- the mount --------------------------------------------------------------------------

    def init(self, path: str) -> None:
        """The kernel has the mount. Threads start here, since the process no longer forks."""
        self.vnfs_ops.orchestrator.start()
        self._on_ready()

    def destroy(self, path: str) -> None:
        """The mount is gone. What runs goes on running."""
        self.vnfs_ops.orchestrator.stop()
        self.vnfs_ops.store.release()

    def statfs(self, path: str) -> dict[str, int]:
        found = self._namespace.statfs()
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    # -- attributes -------------------------------------------------------------------------

    def access(self, path: str, amode: int) -> int:
        self._namespace.access(_text(path), amode)
        return 0

    def getattr(self, path: str, fh: FileInfo | None = None) -> dict[str, int]:
        """Returns the file attributes of the file specified by path, as in stat(2).

        Times are in nanoseconds. For live files st_size is set to a constant 1000.
        """
        if path is None and fh is not None:
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 0}  # unlinked, and still open
        return self._namespace.getattr(_text(path))

    def chmod(self, path: str, mode: int) -> int:
        self._namespace.chmod(_text(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        self._namespace.chown(_text(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._namespace.utimens(_text(path), times)
        return 0

    # -- directories and names --------------------------------------------------------------

    def readdir(self, path: str, fh: int) -> list[str]:
        names = [".", "..", *self._namespace.readdir(_text(path))]
        return [os.fsencode(name).decode(_fuse.ENCODING) for name in names]

    def readlink(self, path: str) -> str:
        return os.fsencode(self._namespace.readlink(_text(path))).decode(_fuse.ENCODING)

    def mkdir(self, path: str, mode: int) -> int:
        """Defines a VNF instance when a directory is created under a VNF type; else EPERM."""
        self._namespace.mkdir(_text(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        self._namespace.rmdir(_text(path))
        return 0

    def unlink(self, path: str) -> int:
        self._namespace.unlink(_text(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        self._namespace.rename(_text(old), _text(new))
        return 0

    def symlink(self, target: str, source: str) -> int:
        """Makes the link ``target`` that leads to ``source`` (fusepy's names)."""
        self._namespace.symlink(_text(target), _text(source))
        return 0

    def link(self, target: str, source: str) -> int:
        """EPERM, as on every file system without hard links."""
        raise FuseOSError(errno.EPERM)

    def mknod(self, path: str, mode: int, dev: int) -> int:
        """Makes a regular file where ``create`` may; devices and FIFOs are EPERM."""
        if not stat.S_ISREG(mode):
            raise FuseOSError(errno.EPERM)
        self._namespace.create(_text(path), os.O_WRONLY | os.O_EXCL, mode).close()
        return 0

    # -- files ------------------------------------------------------------------------------

    def open(self, path: str, fi: FileInfo) -> int:
        self._keep(self._namespace.open(_text(path), fi.flags), fi)
        return 0

    def create(self, path: str, mode: int, fi: FileInfo) -> int:
        self._keep(self._namespace.create(_text(path), fi.flags, mode), fi)
        return 0

    def _keep(self, handle: Handle, fi: FileInfo) -> None:
        fi.fh = number = next(self._numbers)
        fi.direct_io = handle.direct
        fi.nonseekable = not handle.seekable
        self._handles[number] = handle

    def read(self, path: str, length: int, offset: int, fh: FileInfo) -> bytes:
        """Reads an open file: ``length`` bytes from ``offset`` on."""
        return self._handles[fh.fh].read(length, offset)

    def write(self, path: str, buf: bytes, offset: int, fh: FileInfo) -> int:
        """Writes to an open file. The errno is the result of the operation that it asked for.

        Returns:
            The number of bytes written, which is always all of them.
        """
        self._handles[fh.fh].write(buf, offset)
        return len(buf)

    def truncate(self, path: str, length: int, fh: FileInfo | None = None) -> int:
        if fh is not None:
            self._handles[fh.fh].truncate(length)
        else:
            self._namespace.truncate(_text(path), length)
        return 0

    def flush(self, path: str, fh: FileInfo) -> int:
        """Nothing is held back until close."""
        return 0

    def fsync(self, path: str, datasync: int, fh: FileInfo) -> int:
        self._handles[fh.fh].sync()
        return 0

    def release(self, path: str, fh: FileInfo) -> int:
        handle = self._handles.pop(fh.fh, None)
        if handle is not None:
            handle.close()
        return 0


def _text(path: str) -> str:
    """A path as Python's os module writes it; ASCII, as nearly all are, is that already."""
    return path if path.isascii() else os.fsdecode(path.encode(_fuse.ENCODING))
