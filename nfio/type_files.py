"""A type's own files: where a path leads to among them, and what they say together.

Knobs, and the entries that users make, are stored in the instance's directory, in the places
where the mount shows them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from middleboxes import Directory, File, Knob, LiveFile, Middlebox, Order, Settings, Stream
from nfio.errors import InvalidValue
from nfio.paths import is_name, is_temporary
from nfio.tree import FileSpec, Kind

#: what a type's own file is to the tree
SPECS: dict[type[File], FileSpec] = {
    LiveFile: FileSpec(Kind.LIVE, 0o444, "the type's own"),
    Stream: FileSpec(Kind.LIVE, 0o444, "the type's own"),
    Knob: FileSpec(Kind.VALUE, 0o644, "the type's own"),
    Order: FileSpec(Kind.CONTROL, 0o644, "the type's own"),
}


@dataclass(frozen=True)
class Own:
    """What a path leads to among a type's own files.

    Attributes:
        path: inside the instance.
        file: its declaration.
        entries: names of the entries on the way, and its own if it is one.
        made: it is an entry: users make and remove it.
    """

    path: str
    file: File
    entries: tuple[str, ...] = ()
    made: bool = False

    @property
    def spec(self) -> FileSpec | None:
        """How it answers; None for a directory."""
        return SPECS.get(type(self.file))

    @property
    def default(self) -> bytes:
        """What it holds until somebody writes to it."""
        return default_of(self.file)


def default_of(file: File) -> bytes:
    """What a file holds until somebody writes to it."""
    return f"{file.default}\n".encode() if isinstance(file, Knob) and file.default else b""


def declared(middlebox: Middlebox | None, path: str) -> Own | None:
    """What may be at a path, whether its entries are there or not; None if nothing is declared."""
    if middlebox is None:
        return None
    here: File = Directory("", middlebox.files)
    entries: tuple[str, ...] = ()
    made = False
    for name in path.split("/"):
        if not isinstance(here, Directory):
            return None
        inner = here.files.get(name)
        made = inner is None
        if inner is None:
            if here.entries is None or name.startswith(".") or is_temporary(name):
                return None
            inner, entries = here.entries, (*entries, name)
        here = inner
    return Own(path, here, entries, made)


def find(middlebox: Middlebox | None, place: Path, path: str) -> Own | None:
    """What is at a path of the instance whose directory is ``place``."""
    own = declared(middlebox, path)
    if own is None or not own.entries:
        return own
    # The last entry on the way is there or not; what it holds by itself is there if it is.
    there = path if own.made else path[: path.rindex(f"{own.entries[-1]}/") + len(own.entries[-1])]
    return own if os.path.lexists(place / there) else None


def check_entry(middlebox: Middlebox, own: Own) -> None:
    """Raises InvalidValue (EINVAL) if an entry may not have its name."""
    name = own.entries[-1]
    if isinstance(own.file, Directory) and not is_name(name):
        raise InvalidValue(
            f"{name[:70]!r} is not a name: 1 to 63 of a-z A-Z 0-9 . _ -, beginning with a letter or digit"
        )
    around = declared(middlebox, own.path.rpartition("/")[0])
    if around is not None and isinstance(around.file, Directory):
        in_words(around.file.check, name, own.path.rpartition("/")[0])


def in_words(check: Callable[[str], object], text: str, what: str) -> None:
    """Call what a type checks a text with; its ValueError is InvalidValue (EINVAL)."""
    try:
        check(text)
    except ValueError as error:
        raise InvalidValue(f"{what}: {error}") from None


def entries_of(directory: Directory, place: Path) -> tuple[str, ...]:
    """Names of the entries that users have made in a directory, sorted."""
    if directory.entries is None:
        return ()
    try:
        with os.scandir(place) as found:
            wanted = isinstance(directory.entries, Directory)
            return tuple(
                sorted(
                    entry.name
                    for entry in found
                    if entry.is_dir(follow_symlinks=False) is wanted
                    and entry.name not in directory.files
                    and not entry.name.startswith(".")
                    and not is_temporary(entry.name)
                )
            )
    except FileNotFoundError:
        return ()


def make_parents(instance: Path, path: str) -> None:
    """Make the directories that a file of the type's own is in; they belong to the instance's owner."""
    if not (instance / path).parent.exists():
        make_parents(instance, path.rpartition("/")[0])
        made, owner = (instance / path).parent, instance.stat()
        made.mkdir(exist_ok=True)
        made.chmod(0o755)
        os.chown(made, owner.st_uid, owner.st_gid)


def settings_of(
    middlebox: Middlebox,
    place: Path,
    drops: int = 0,
    changed: Mapping[str, bytes] | None = None,
    without: str = "",
) -> Settings:
    """What a configuration is made from.

    Args:
        place: the instance's directory.
        changed: content of knobs that is not stored yet; an entry that is not made yet is an
            empty directory's path with a slash behind it.
        without: path of an entry that is there still.
    """
    values: dict[str, str] = {}
    made: dict[str, tuple[str, ...]] = {}
    changes = changed or {}

    def value(path: str, knob: Knob) -> str:
        content = changes.get(path)
        if content is None:
            try:
                content = (place / path).read_bytes()
            except FileNotFoundError:
                content = default_of(knob)
        return content.decode(errors="replace").strip()

    def walk(path: str, directory: Directory) -> None:
        before = f"{path}/" if path else ""
        inner = dict(directory.files)
        if directory.entries is not None:
            names = {*entries_of(directory, place / path)}
            for change in changes:
                if change.startswith(before) and (name := change[len(before) :].partition("/")[0]):
                    names.add(name)
            names -= {*directory.files, without.removeprefix(before)}
            made[path] = tuple(sorted(names))
            inner |= dict.fromkeys(made[path], directory.entries)
        for name, file in inner.items():
            if isinstance(file, Knob):
                values[before + name] = value(before + name, file)
            elif isinstance(file, Directory):
                walk(before + name, file)

    walk("", Directory("", middlebox.files))
    return Settings(values, made, drops)
