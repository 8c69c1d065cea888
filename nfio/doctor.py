"""``nfio doctor``: what is missing on this machine, and the command that mends it."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from pathlib import Path

from hypervisor.hypervisor_base import Finding
from hypervisor.hypervisor_factory import HypervisorFactory
from nfio.modules import ModuleRoot, resolve
from nfio.mounting import dead_mounts

_PROGRAMS = {
    "fusermount": ("unmounting", "fuse3"),
    "nsenter": ("live files of a running VNF", "util-linux"),
    "nft": ("live files of firewalls", "nftables"),
    "mmdebstrap": ("nfio image build", "mmdebstrap"),
}


def findings(module_root: str) -> list[Finding]:
    """Everything that was looked at. Changes nothing."""
    found = [
        Finding(
            "user", os.geteuid() == 0, f"uid {os.geteuid()}", "run nfio as root: it enters network namespaces"
        ),
        Finding(
            "/dev/fuse",
            os.access("/dev/fuse", os.R_OK | os.W_OK),
            "can be opened" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "cannot be opened",
            "modprobe fuse",
        ),
    ]
    library = ctypes.util.find_library("fuse")
    found.append(
        Finding("libfuse 2", bool(library), library or "is not installed", "apt-get install libfuse2")
    )
    for program, (purpose, package) in _PROGRAMS.items():
        path = shutil.which(program)
        found.append(
            Finding(
                program,
                bool(path),
                path or f"is not installed; {purpose} needs it",
                f"apt-get install {package}",
            )
        )
    HypervisorFactory("Docker")
    found += HypervisorFactory.get_hypervisor_instance().check()
    for mountpoint in dead_mounts():
        found.append(
            Finding(
                mountpoint,
                False,
                "its nfio was killed",
                f"nfio mount ROOT {mountpoint}, or: nfio umount {mountpoint}",
            )
        )
    modules = ModuleRoot(resolve(module_root))
    types = modules.types()
    found.append(
        Finding(
            "VNF types", bool(types), ", ".join(sorted(types)) or "none", f"look into {modules.directory}"
        )
    )
    found += [
        Finding(
            f"module {name or Path(module_root).name}",
            False,
            why,
            "mend the file; it is read again when it changes",
        )
        for name, why in sorted(modules.broken.items())
    ]
    return found


def report(module_root: str) -> int:
    """Print the findings. Returns 1 if something is missing, else 0."""
    missing = False
    for finding in findings(module_root):
        print(f"{'ok      ' if finding.ok else 'MISSING '} {finding.what}: {finding.detail}")
        if not finding.ok:
            missing = True
            print(f"         -> {finding.mend}")
    return int(missing)
