"""Whether KVM really works here, which is more than that libvirt offers it.

On a machine that is itself virtual, /dev/kvm may be there and run a guest thousands of times
slower than QEMU's own emulation does: a kernel takes hours to unpack itself. So a tiny guest
is run that says how fast it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hypervisor.libvirt_images import make_home
from nfio.errors import InvalidValue

KVM, EMULATION = "kvm", "qemu"
#: How long the guest may take. Where KVM works it takes a quarter of a second, firmware included.
PROBE_S = 5.0
#: what QEMU exits with when the guest writes 0x10 to the port of isa-debug-exit: 2 * 0x10 + 1
_COUNTED = 33

# A boot sector that goes to 64-bit mode over paging, counts to 400 million there, and exits.
# That takes a real CPU about a tenth of a second, and one that is emulated instruction by
# instruction minutes.
_BOOT_SECTOR = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfcbf0010b90018f3abc70600100320c70600200330c706003083000f0116a87c0f20c00c"
    "010f22c0ea397c0800b8180000008ed88ed00f20e083c8200f22e0b8001000000f22d8b9800000c00f320d000100000f"
    "300f20c00d000000800f22c0ea737c00001000b90084d717ffc975fcbaf4000000b010eef4ebfd900000000000000000"
    "ffff0000009acf00ffff0000009aaf00ffff00000092cf001f00887c"
)


@dataclass(frozen=True)
class Probe:
    """What was seen of KVM: whether it works, and the words for it."""

    works: bool
    words: str


_lock = threading.Lock()
_known: dict[str, Probe] = {}


def kind_of(connection: Any, *, local: bool) -> str:
    """The kind of domain to make: what ``NFIO_LIBVIRT_DOMAIN`` says, else what really works.

    On another host KVM cannot be tried out: there it is used where libvirt offers it.
    """
    chosen = os.environ.get("NFIO_LIBVIRT_DOMAIN") or "auto"
    if chosen in (KVM, EMULATION):
        return chosen
    if chosen != "auto":
        raise InvalidValue(f"NFIO_LIBVIRT_DOMAIN is auto, kvm or qemu, not {chosen!r}")
    works = probe(connection).works if local else _is_offered(connection)
    return KVM if works else EMULATION


def probe(connection: Any) -> Probe:
    """What is to be said of KVM on this machine; tried out once per boot and version of QEMU."""
    if not _is_offered(connection):
        return Probe(False, "libvirt does not offer it (is there a /dev/kvm?)")
    key = f"{_boot_id()} {connection.getVersion()}"
    with _lock:
        if key not in _known:
            cache = make_home() / "kvm.json"
            _known[key] = _read(cache, key) or _try_and_write(cache, key)
        return _known[key]


def _is_offered(connection: Any) -> bool:
    capabilities = ElementTree.fromstring(connection.getCapabilities())
    kinds = capabilities.iterfind("guest/arch[@name='x86_64']/domain")
    return any(kind.get("type") == KVM for kind in kinds)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _read(cache: Path, key: str) -> Probe | None:
    try:
        kept = json.loads(cache.read_text())
        return Probe(**kept["probe"]) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _try_and_write(cache: Path, key: str) -> Probe:
    found = _try()
    with tempfile.NamedTemporaryFile("w", dir=cache.parent, prefix=".kvm", delete=False) as file:
        json.dump({"key": key, "probe": asdict(found)}, file)
    os.rename(file.name, cache)
    return found


def _try() -> Probe:
    """Run the guest in a QEMU of its own: what it does is the same below libvirt."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        return Probe(False, "qemu-system-x86_64 is not installed")
    with tempfile.NamedTemporaryFile(prefix="nfio-kvm-") as disk:
        disk.write(_BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa")
        disk.flush()
        command = [
            *(program, "-accel", KVM, "-cpu", "host", "-machine", "pc", "-m", "16", "-display", "none"),
            *("-nodefaults", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
            *("-drive", f"file={disk.name},format=raw,if=ide,snapshot=on"),
        ]
        begun = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_S)
        except subprocess.TimeoutExpired:
            return Probe(
                False,
                f"offered, but a guest hangs in it (a loop of a tenth of a second took more than {PROBE_S:g} s): "
                "QEMU's emulation is used",
            )
        except OSError as error:
            return Probe(False, str(error))
    if done.returncode == _COUNTED:
        return Probe(True, f"a guest ran in it, in {time.monotonic() - begun:.1f} s")
    words = done.stderr.strip().splitlines() or [f"QEMU ended with {done.returncode}"]
    return Probe(False, f"offered, but: {words[-1]}: QEMU's emulation is used")
