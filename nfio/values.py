"""The values that files of ``machine/`` and ``config/boot.conf`` accept."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from hypervisor.hypervisor_base import BootOptions
from nfio.errors import InvalidValue

_MEMORY = re.compile(r"([0-9]{1,18})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_HOST = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?:[A-Za-z0-9][A-Za-z0-9.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)"
)
_IMAGE = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._/:@+-]{0,254}")

MAX_BYTES = 64 << 10


def _text(data: bytes, what: str) -> str:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidValue(f"{what} is ASCII text") from None
    text = text.strip(" \t\n")
    if any(not character.isprintable() for character in text):
        raise InvalidValue(f"{what} is one line of printable text")
    return text


def parse_memory(data: bytes) -> int | None:
    """Bytes of ``64M``, ``1G``, ``67108864``; None for no limit."""
    text = _text(data, "vm.memory")
    if not text:
        return None
    found = _MEMORY.fullmatch(text)
    if found is None or (value := int(found[1]) * _UNITS[found[2].upper()]) == 0:
        raise InvalidValue(f"{text[:40]!r} is not an amount of memory: write 64M, 1G or bytes, or nothing")
    return value


def parse_vcpu(data: bytes) -> float | None:
    """A positive number of CPUs; None for no limit."""
    text = _text(data, "vm.vcpu")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0.01 <= value <= 4096):
        raise InvalidValue(f"{text[:40]!r} is not a number of CPUs: write 0.5, 1, 2, or nothing")
    return value


def parse_host(data: bytes) -> str:
    """The machine that runs a VNF; ``""`` is this one."""
    text = _text(data, "machine/ip")
    if text and (len(text) > 253 or not _HOST.fullmatch(text)):
        raise InvalidValue(f"{text[:40]!r} is not a host: write an IP address, a host name, or nothing")
    return "" if text == "localhost" else text


def parse_image(data: bytes) -> str:
    """An image name; ``""`` where none is set."""
    text = _text(data, "vm.image")
    if text and not _IMAGE.fullmatch(text):
        raise InvalidValue(f"{text[:40]!r} is not an image name")
    return text


@dataclass(frozen=True)
class BootConfig:
    """``config/boot.conf``.

    Attributes:
        autostart: the VNF is run whenever nfio is mounted.
        restart: it is started again when it has ended in ERROR.
        options: how it boots, if it is a machine.
    """

    autostart: bool = False
    restart: bool = False
    options: BootOptions = field(default_factory=BootOptions)


_SWITCHES = {
    "autostart": {"yes": True, "no": False},
    "restart": {"on-failure": True, "no": False},
}
_BOOT_KEYS = ("kernel", "initrd", "cmdline")


def parse_boot_conf(data: bytes) -> BootConfig:
    """Lines of ``key=value``; empty lines and those that begin with # are passed over."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InvalidValue("boot.conf is UTF-8 text") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        if key not in (*_SWITCHES, *_BOOT_KEYS) or not equals:
            raise InvalidValue(
                f"boot.conf, line {number}: {text[:40]!r} is none of: autostart=yes|no, "
                "restart=on-failure|no, kernel=, initrd=, cmdline="
            )
        if key in _SWITCHES and value not in _SWITCHES[key]:
            words = " or ".join(_SWITCHES[key])
            raise InvalidValue(f"boot.conf, line {number}: {key} is {words}, not {value[:40]!r}")
        is_file = key == "initrd" or (key == "kernel" and value != "disk")
        if is_file and value and not value.startswith("/"):
            raise InvalidValue(f"boot.conf, line {number}: {key} is an absolute path, not {value[:40]!r}")
        found[key] = value
    options = BootOptions(*(found.get(key) or None for key in _BOOT_KEYS))
    autostart, restart = (words[found.get(key, "no")] for key, words in _SWITCHES.items())
    return BootConfig(autostart, restart, options)


#: stored files whose content is checked when it is written
CHECKS: dict[str, Callable[[bytes], object]] = {
    "machine/ip": parse_host,
    "machine/vm.image": parse_image,
    "machine/vm.vcpu": parse_vcpu,
    "machine/vm.memory": parse_memory,
    "config/boot.conf": parse_boot_conf,
}

#: those of several lines; the others hold one value
LINES = frozenset({"config/boot.conf"})


def check(file: str, data: bytes) -> None:
    """Raises InvalidValue (EINVAL) if a file does not accept that content."""
    if len(data) > MAX_BYTES:
        raise InvalidValue(f"{file} takes at most {MAX_BYTES} bytes")
    CHECKS[file](data)
