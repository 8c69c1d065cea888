"""libvirt-python, which an nfio without this driver does not need, and its event loop.

``libvirt`` is the module, or a stand-in whose every use raises HypervisorUnreachable and says
what to install.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

from nfio.errors import HypervisorUnreachable

INSTALL = "pip install libvirt-python (it needs the package libvirt-dev), or: pip install nfio[libvirt]"


class _Missing:
    """Stands in for libvirt-python where it is not installed."""

    class libvirtError(Exception):
        """Never raised; translate_errors catches it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("VIR_"):
            return -1
        raise HypervisorUnreachable(f"libvirt-python is not installed: {INSTALL}")


libvirt: Any
libvirt_qemu: Any
try:
    libvirt, libvirt_qemu = import_module("libvirt"), import_module("libvirt_qemu")
except ImportError:
    libvirt = libvirt_qemu = _Missing()

_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def is_installed() -> bool:
    """Whether libvirt-python is there."""
    return not isinstance(libvirt, _Missing)


def run_event_loop() -> None:
    """Start the one thread of this process that libvirt's events and keepalives need.

    It is started before the first connection is opened, since it serves those opened after.
    """
    global _loop
    with _loop_lock:
        if _loop is not None:
            return
        # Without a handler libvirt prints each error on stderr before it raises it.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        _loop = threading.Thread(target=_run, name="libvirt events", daemon=True)
        _loop.start()


def _run() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
