"""``nfio doctor``: what is missing on this machine, and the command that mends it."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from dataclasses import replace
from pathlib import Path

from hypervisor.hypervisor_base import Finding
from hypervisor.hypervisor_factory import DRIVERS, make_driver
from nfio.modules import ModuleRoot, resolve
from nfio.mounting import dead_mounts

_PROGRAMS = {
    "fusermount": ("unmounting", "fuse3"),
    "nsenter": ("live files of a running VNF", "util-linux"),
    "nft": ("live files of firewalls", "nftables"),
    "conntrack": ("connections of firewalls and of nat", "conntrack"),
    "tc": ("live files of shapers", "iproute2"),
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
    found += _engines()
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


def _engines() -> list[Finding]:
    """What each engine's driver says. One is enough: where one is well, the others are offers."""
    found = {name: make_driver(name).check() for name in sorted(DRIVERS)}
    well = [name for name, findings in found.items() if all(finding.ok for finding in findings)]
    summary = f"{', '.join(well)}: ready" if well else "none is ready"
    return [
        Finding("engines", bool(well), summary, "scripts/setup makes Native ready, which needs no daemon"),
        *(
            replace(finding, what=f"{name}: {finding.what}", optional=bool(well))
            for name, findings in found.items()
            for finding in findings
        ),
    ]


def report(module_root: str) -> int:
    """Print the findings. Returns 1 if something is missing that nfio cannot do without, else 0."""
    missing = False
    for finding in findings(module_root):
        word = "ok" if finding.ok else "absent" if finding.optional else "MISSING"
        print(f"{word:<8} {finding.what}: {finding.detail}")
        if not finding.ok:
            missing = missing or not finding.optional
            print(f"         -> {finding.mend}")
    return int(missing)
