"""What there is in the tree: which node a path leads to, and what a directory lists."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from enum import Enum, auto

from middleboxes import Directory, Stream
from nfio.errors import NotADirectory, NotFound
from nfio.orchestrator import Orchestrator
from nfio.paths import NF_TYPES, is_temporary, locate, split
from nfio.store import RECORD
from nfio.tree import DIRECTORIES, FILES, WRITABLE, FileSpec
from nfio.type_files import Own, declared, entries_of, find
from nfio.vnf import Vnf

STREAM = "/pipes/.events"
TOP = {
    "/": (NF_TYPES, "metrics", "events", "pipes", "version"),
    "/metrics": ("nfio.prom",),
    "/pipes": ("events",),
}
TOP_FILES = ("/metrics/nfio.prom", "/events", "/version", STREAM)
#: A recursive client (grep -r, cp -a, rsync) reads every file but follows no link, so that the
#: stream, which never ends, does not hold it. Its target is not listed.
TOP_LINKS = {"/pipes/events": ".events"}


class Place(Enum):
    """What kind of place a path leads to."""

    TOP_DIR = auto()
    TOP_FILE = auto()
    LINK = auto()  # one that nfio makes
    TYPE = auto()
    INSTANCE = auto()
    INSTANCE_DIR = auto()
    FILE = auto()  # one that every instance or every instance of the type has
    ENTRY = auto()  # a directory that a user made among the type's own files
    PLAIN = auto()  # a user's file in config/, or a temporary one


@dataclass(slots=True)
class Node:
    """What a path leads to; whether a PLAIN file is there only its stored file tells.

    Attributes:
        own: it is one of the type's own.
        target: where a LINK leads.
    """

    place: Place
    vnf: Vnf | None = None
    file: str = ""
    spec: FileSpec | None = None
    own: Own | None = None
    target: str = ""


class Nodes:
    """The nodes of a tree."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator

    def resolve(self, path: str) -> Node:
        """Raises NotFound (ENOENT), NotADirectory (ENOTDIR)."""
        location = locate(path) if path.startswith("/nf-types/") else None
        if location is None or location.type is None:
            if path in TOP or path == "/nf-types":
                return Node(Place.TOP_DIR)
            if path in TOP_FILES:
                return Node(Place.TOP_FILE)
            if path in TOP_LINKS:
                return Node(Place.LINK, target=TOP_LINKS[path])
            raise NotFound(path)
        if location.instance is None:
            if self._has_type(location.type):
                return Node(Place.TYPE)
            raise NotFound(path)
        vnf = self._orchestrator.vnfs.get((location.type, location.instance))
        if vnf is None:
            raise NotFound(path)
        if location.file is None:
            return Node(Place.INSTANCE, vnf)
        return self._resolve_file(path, vnf, location.file)

    def _resolve_file(self, path: str, vnf: Vnf, file: str) -> Node:
        spec = FILES.get(file)
        if spec is not None:
            return Node(Place.FILE, vnf, file, spec)
        if file in DIRECTORIES:
            return Node(Place.INSTANCE_DIR, vnf, file)
        directory, name = split(file)
        own = self._own(vnf, file)
        if own is not None:
            return self._own_node(vnf, own)
        if (stream := self._stream(vnf, file)) is not None:
            return Node(Place.FILE, vnf, file, stream.spec, stream)
        if name != RECORD and (
            directory == "config" or (is_temporary(name) and self._writable(vnf, directory))
        ):
            return Node(Place.PLAIN, vnf, file)
        raise NotFound(path)

    def _own(self, vnf: Vnf, file: str) -> Own | None:
        return find(self._orchestrator.modules.get(vnf.type), vnf.path, file)

    def _own_node(self, vnf: Vnf, own: Own) -> Node:
        if isinstance(own.file, Directory):
            return Node(Place.ENTRY if own.made else Place.INSTANCE_DIR, vnf, own.path, own=own)
        if isinstance(own.file, Stream):
            return Node(Place.LINK, vnf, own.path, own=own, target=f".{split(own.path)[1]}")
        return Node(Place.FILE, vnf, own.path, own.spec, own)

    def _stream(self, vnf: Vnf, file: str) -> Own | None:
        """What the link of a stream leads to."""
        directory, name = split(file)
        own = self._own(vnf, f"{directory}/{name[1:]}".lstrip("/")) if name.startswith(".") else None
        return own if own is not None and isinstance(own.file, Stream) else None

    def _writable(self, vnf: Vnf, directory: str) -> bool:
        """Whether clients may make temporary files there."""
        if directory in WRITABLE:
            return True
        own = self._own(vnf, directory)
        return own is not None and isinstance(own.file, Directory)

    def entry(self, path: str) -> tuple[Vnf, Own] | None:
        """The entry that may be made at a path; None if there is none such, or its place is not."""
        location = locate(path)
        if location is None or location.file is None or location.type is None or location.instance is None:
            return None
        vnf = self._orchestrator.vnfs.get((location.type, location.instance))
        own = None
        if vnf is not None:
            own = declared(self._orchestrator.modules.get(vnf.type), location.file)
        if vnf is None or own is None or not own.made or self._own(vnf, split(location.file)[0]) is None:
            return None
        return vnf, own

    def _has_type(self, name: str) -> bool:
        return name in self._orchestrator.modules.types() or any(
            kind == name for kind, _ in self._orchestrator.vnfs
        )

    @staticmethod
    def defaults(node: Node) -> tuple[int, int]:
        """Kind and permissions of what has no stored file yet."""
        if node.spec is not None:
            return stat.S_IFREG, node.spec.mode
        if node.place is Place.TOP_FILE:
            return stat.S_IFREG, 0o444
        if node.place is Place.LINK:
            return stat.S_IFLNK, 0o777
        if node.place is Place.PLAIN:
            return stat.S_IFREG, 0o644
        return stat.S_IFDIR, 0o755

    def names_in(self, path: str) -> list[str]:
        node = self.resolve(path)
        if node.place is Place.TOP_DIR:
            if path == "/nf-types":
                return sorted({*self._orchestrator.modules.types(), *(k for k, _ in self._orchestrator.vnfs)})
            return list(TOP[path])
        if node.place is Place.TYPE:
            kind = path.rpartition("/")[2]
            return [name for found, name in list(self._orchestrator.vnfs) if found == kind]
        if node.vnf is None or node.place not in (Place.INSTANCE, Place.INSTANCE_DIR, Place.ENTRY):
            raise NotADirectory(path)
        return self.list_instance(node.vnf, node.file)

    def list_instance(self, vnf: Vnf, directory: str) -> list[str]:
        names = self.fixed_names(vnf, directory)
        if directory == "config" or self._writable(vnf, directory):
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(vnf.path / directory):
                    if name != RECORD and (directory == "config" or is_temporary(name)):
                        names.add(name)
        own = self._own(vnf, directory) if directory else None
        if own is not None and isinstance(own.file, Directory):
            names.update(entries_of(own.file, vnf.path / directory))
        return sorted(names)

    def fixed_names(self, vnf: Vnf, directory: str) -> set[str]:
        """What is in a directory of an instance by itself."""
        names = {name for place, name in map(split, FILES) if place == directory}
        if directory == "":
            names.update(DIRECTORIES)
            middlebox = self._orchestrator.modules.get(vnf.type)
            names.update(middlebox.files if middlebox is not None else ())
        elif (own := self._own(vnf, directory)) is not None and isinstance(own.file, Directory):
            names.update(own.file.files)
        return names
