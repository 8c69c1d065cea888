"""The module root: every file in it that declares a ``MIDDLEBOX`` is a VNF type.

The directory is looked at again whenever it has changed, so that a file dropped in is a type
without a remount. A file that cannot be used is logged once, kept in ``broken`` and hurts no
other; a type whose file breaks while it is in use keeps its last good declaration.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import middleboxes
from middleboxes import Directory, File, Guest, Middlebox
from nfio.errors import NotPermitted
from nfio.paths import is_name
from nfio.tree import FILES

log = logging.getLogger(__name__)

DEFAULT = "middleboxes"

_Stamp = tuple[int, int, int]


def resolve(module_root: str) -> Path:
    """The directory of a module root; the default is the types that nfio comes with."""
    if module_root == DEFAULT:
        return Path(middleboxes.__file__).parent
    return Path(module_root).resolve()


class ModuleRoot:
    """The types of a module root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broken: dict[str, str] = {}
        self._types: dict[str, Middlebox] = {}
        self._stamps: dict[str, _Stamp] = {}
        self._lock = threading.Lock()

    def types(self) -> dict[str, Middlebox]:
        """Every usable type by name, as the directory is now."""
        with self._lock:
            self._refresh()
            return self._types

    def get(self, name: str) -> Middlebox | None:
        return self.types().get(name)

    def drops_of(self, name: str) -> Callable[[Guest], int] | None:
        """How a type counts what it drops on purpose; asked for so often that no directory is read."""
        found = self._types.get(name) or self.get(name)
        return None if found is None else found.drops

    def require(self, name: str) -> Middlebox:
        """Raises NotPermitted (EPERM) if no module implements the type."""
        found = self.get(name)
        if found is None:
            why = self.broken.get(name, f"there is no {name}.py in {self.directory}")
            raise NotPermitted(f"no module implements the type {name}: {why}")
        return found

    def _refresh(self) -> None:
        files = {}
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)
                    if suffix == ".py" and not stem.startswith(("_", ".")) and entry.is_file():
                        stat = entry.stat()
                        files[stem] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError as error:
            if not self.broken.get(""):
                log.error("module root %s: %s", self.directory, error.strerror)
            self.broken[""] = f"module root {self.directory}: {error.strerror}"
            return
        self.broken.pop("", None)
        if files == self._stamps:
            return
        types = {name: known for name, known in self._types.items() if name in files}
        for name in [name for name in self.broken if name not in files]:
            del self.broken[name]
        for name, stamp in sorted(files.items()):
            if self._stamps.get(name) != stamp:
                self._load(name, types)
        self._types = types
        self._stamps = files

    def _load(self, name: str, types: dict[str, Middlebox]) -> None:
        path = self.directory / f"{name}.py"
        try:
            # Compiled by hand: the import system would write its cache into the directory.
            module = ModuleType(f"nfio_type_{name}")
            module.__file__ = str(path)
            exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
            types[name] = _declaration(module, name)
        except (Exception, SystemExit) as error:
            self.broken[name] = f"{path}: {type(error).__name__}: {error}"
            log.error("this module is left out: %s", self.broken[name])
        else:
            self.broken.pop(name, None)
            log.info("type %s from %s", name, path)


def _declaration(module: ModuleType, name: str) -> Middlebox:
    found = getattr(module, "MIDDLEBOX", None)
    if not isinstance(found, Middlebox):
        raise TypeError("it does not assign a middleboxes.Middlebox to MIDDLEBOX")
    if found.type != name or not is_name(name):
        raise ValueError(f"its type {found.type!r} must be a name, and the file's")
    taken = {file.split("/")[0] for file in FILES} & set(found.files)
    wrong = taken or {name for name in _names(found.files) if not is_name(name)}
    if wrong:
        raise ValueError(f"its files need names of their own: {', '.join(sorted(wrong))}")
    return found


def _names(files: Mapping[str, File]) -> Iterator[str]:
    """Every name of a file that is declared, at any depth."""
    for name, file in files.items():
        yield name
        while isinstance(file, Directory):
            yield from _names(file.files)
            file = file.entries  # type: ignore[assignment]
