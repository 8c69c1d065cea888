"""Attributes of what is in the tree: what stat(2) shows, what chmod, chown and utimens keep."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from functools import partial

from nfio.errors import NotFound, NotPermitted
from nfio.nodes import Node, Nodes, Place
from nfio.orchestrator import Orchestrator
from nfio.store import Store
from nfio.tree import LIVE_SIZE
from nfio.type_files import make_parents
from nfio.undelete import Undelete


class Attributes:
    """The nodes of a tree with their attributes.

    Args:
        caller: uid, gid and pid of the process being served.
    """

    def __init__(
        self, orchestrator: Orchestrator, store: Store, caller: Callable[[], tuple[int, int, int]]
    ) -> None:
        self._nodes = Nodes(orchestrator)
        self._root = str(store.root)
        self._caller = caller
        self._undelete = Undelete(store)

    def _stored(self, path: str) -> str:
        """Where a path's attributes, and the content of stored files, are kept."""
        return self._root + path

    def _keeper(self, node: Node, path: str) -> str:
        """The path by which its attributes are kept: of a stream's link it is what the link leads to."""
        is_stream = node.place is Place.LINK and node.vnf is not None
        return f"{path.rpartition('/')[0]}/{node.target}" if is_stream else path

    def getattr(self, path: str) -> dict[str, int]:
        """Attributes as in stat(2), times in nanoseconds. Speaks to no hypervisor."""
        node = self._nodes.resolve(path)
        if self._undelete.is_absent(path, self._caller):
            raise NotFound(path)
        kind, mode = self._nodes.defaults(node)
        times = 0
        found_none = False
        try:
            found = os.lstat(self._stored(self._keeper(node, path)))
            mode = mode if node.place is Place.LINK else stat.S_IMODE(found.st_mode)
            if node.place is Place.PLAIN:
                kind = stat.S_IFMT(found.st_mode)
        except FileNotFoundError:
            if node.place is Place.PLAIN:
                raise
            found_none = True
            found = os.lstat(self._root if node.vnf is None else node.vnf.path)
            if node.vnf is not None:
                times = node.vnf.changed_ns
        size = found.st_size
        if node.spec is not None:
            if node.spec.live:
                size = LIVE_SIZE
            elif found_none and node.own is not None:
                size = len(node.own.default)
            elif node.vnf is not None and node.file in node.vnf.emptied:
                size = 0
        elif node.place is Place.TOP_FILE:
            size = LIVE_SIZE
            times = time.time_ns()  # as in procfs: node_exporter reports how old what it reads is
        elif node.place is Place.LINK:
            size = len(node.target)
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
                if node.vnf is not None:
                    make_parents(node.vnf.path, node.file)
                os.makedirs(os.path.dirname(stored), exist_ok=True)
                with open(stored, "xb", opener=partial(os.open, mode=0o600)) as file:
                    file.write(b"" if node.own is None else node.own.default)
            os.chmod(stored, stat.S_IMODE(now["st_mode"]))
            os.chown(stored, now["st_uid"], now["st_gid"])
        return stored

    def chmod(self, path: str, mode: int) -> None:
        stored = self._attributed(path)
        if not os.path.islink(stored):
            os.chmod(stored, stat.S_IMODE(mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._attributed(self._keeper(self._nodes.resolve(path), path)), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None) -> None:
        node = self._nodes.resolve(path)
        if os.path.lexists(self._stored(path)):
            if times is None:
                now = time.time_ns()
                times = (now, now)
            os.utime(self._stored(path), ns=times, follow_symlinks=False)
        elif node.place is Place.PLAIN:
            raise NotFound(path)
