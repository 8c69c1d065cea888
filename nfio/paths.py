"""The grammar of names and paths in the tree. Pure functions; nothing here looks at a disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from nfio.errors import InvalidValue

NF_TYPES = "nf-types"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COMPONENT_MAX = 255  # bytes; NAME_MAX of Linux file systems

# What editors, sed, rsync and Ansible make beside a file before they rename it.
_TEMPORARY = re.compile(
    r"\.ansible_tmp.+"  # Ansible's atomic move
    r"|sed[A-Za-z0-9]{6}"  # sed -i
    r"|4913|5036"  # vim tests whether it may write here
    r"|\..+\.sw[a-px]x?"  # vim's swap file, and its test whether names may be that long
    r"|.+~"  # backup copies
    r"|\..+\.[A-Za-z0-9]{6,8}"  # rsync, mktemp
    r"|#.+#|\.#.+"  # Emacs
)


def is_name(text: str) -> bool:
    """Whether it may name an instance, a chain or a network."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str) -> str:
    """Raises InvalidValue (EINVAL) if it may not name an instance."""
    if not is_name(text):
        raise InvalidValue(
            f"{text[:70]!r} is not a name: 1 to 63 of a-z A-Z 0-9 . _ -, beginning with a letter or digit"
        )
    return text


def is_temporary(name: str) -> bool:
    """Whether it is a name that a client gives a temporary file beside the one it replaces."""
    return _TEMPORARY.fullmatch(name) is not None


def check_file_name(name: str) -> str:
    """Raises InvalidValue (EINVAL) if no file may have that name."""
    # os.fsdecode makes surrogates of bytes that are not UTF-8.
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        raise InvalidValue(f"the name {name[:40]!r} is not UTF-8")
    if len(name.encode()) > _COMPONENT_MAX:
        raise InvalidValue(f"the name {name[:40]!r}… is longer than {_COMPONENT_MAX} bytes")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in name):
        raise InvalidValue(f"the name {name!r} has control characters")
    return name


@dataclass(frozen=True)
class Location:
    """Where a path leads below ``nf-types``: each part is None where the path ends before it.

    Attributes:
        type: the VNF type.
        instance: the instance.
        file: path inside the instance, ``stats/rx_bytes``.
    """

    type: str | None = None
    instance: str | None = None
    file: str | None = None


@lru_cache(maxsize=4096)
def locate(path: str) -> Location | None:
    """The place of a path in ``nf-types``; None if it is elsewhere.

    Whatever stands before the component ``nf-types`` (a mount point, say) is passed over.
    """
    parts = [part for part in path.split("/") if part]
    try:
        parts = parts[parts.index(NF_TYPES) + 1 :]
    except ValueError:
        return None
    return Location(
        type=parts[0] if parts else None,
        instance=parts[1] if len(parts) > 1 else None,
        file="/".join(parts[2:]) if len(parts) > 2 else None,
    )


def split(file: str) -> tuple[str, str]:
    """Directory and name of a path inside an instance; the directory is ``""`` at its top."""
    directory, _, name = file.rpartition("/")
    return directory, name
