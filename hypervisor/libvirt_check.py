"""What ``nfio doctor`` says of libvirt on this host."""

from __future__ import annotations

import grp
import os
from typing import Any

from hypervisor.hypervisor_base import Finding
from hypervisor.libvirt_connection import Connections
from hypervisor.libvirt_disks import missing_packages
from hypervisor.libvirt_kvm import probe
from hypervisor.libvirt_library import INSTALL, is_installed
from hypervisor.libvirt_network import NETWORK
from nfio.errors import NfioError

_KVM = "/dev/kvm"
_START = (
    "scripts/libvirt-engine start; where it is not installed: "
    "apt-get install libvirt-daemon-system qemu-system-x86 dnsmasq-base"
)


def findings(connections: Connections, uri: str, timeout_s: float) -> list[Finding]:
    """Everything that a machine needs, one line each. Raises nothing."""
    if not is_installed():
        return [Finding("libvirt-python", False, "it is not installed", INSTALL)]
    what = f"libvirt at {uri}"
    try:
        connections.ping("", timeout_s)
        with connections.borrow("", timeout_s) as connection:
            found = _of_daemon(connection, what)
    except NfioError as error:
        return [Finding(what, False, error.line, _START)]
    device = _device()
    return [*found, *([device] if device else []), _tools()]


def _of_daemon(connection: Any, what: str) -> list[Finding]:
    found = [Finding(what, True, f"version {_dotted(connection.getLibVersion())}")]
    found.append(Finding("QEMU", True, f"version {_dotted(connection.getVersion())}"))
    seen = probe(connection)
    chosen = os.environ.get("NFIO_LIBVIRT_DOMAIN") or "auto"
    found.append(Finding("KVM", True, f"{seen.words} (NFIO_LIBVIRT_DOMAIN={chosen})"))
    names = [network.name() for network in connection.listAllNetworks()]
    state = "is there" if NETWORK in names else "is made with the first VNF"
    found.append(Finding(f"network {NETWORK}", True, state))
    return found


def _device() -> Finding | None:
    """Whether QEMU's user gets at /dev/kvm; None where there is none, or libvirt has no say in it."""
    try:
        found, group = os.stat(_KVM), grp.getgrnam("kvm")
    except (OSError, KeyError):
        return None
    if found.st_mode & 0o006 == 0o006 or (found.st_gid == group.gr_gid and found.st_mode & 0o060 == 0o060):
        return None
    return Finding(
        _KVM,
        False,
        "QEMU's user may not use it, so libvirt asks QEMU anew at each call what it can do: seconds each time",
        f"chgrp kvm {_KVM} && chmod 660 {_KVM}",
    )


def _tools() -> Finding:
    what = "tools that make images"
    missing = missing_packages()
    if missing:
        return Finding(what, False, f"missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")
    return Finding(what, True, "all there")


def _dotted(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
