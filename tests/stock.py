"""The images of types, built once for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess

import libvirt_view
import native_view
from mount import NFIO
from probes import need
from views import VIEWS

#: engines that are given the same root file systems: those are made once for all
_CONTAINERS = ("docker", "native")
_built: set[tuple[str, str]] = set()


def build(probe: str, kinds: tuple[str, ...] = ("firewall", "web"), *options: str) -> None:
    """Build the images of some types for an engine, and for those that are given the same.

    Args:
        options: further ones of ``nfio image build``.
    """
    need(probe, shutil.which("mmdebstrap") is not None, "mmdebstrap is not installed")
    kinds = tuple(kind for kind in kinds if (probe, kind) not in _built)
    if not kinds:
        return
    wanted = {probe}
    if probe in _CONTAINERS:
        wanted |= {view.name.lower() for view in VIEWS.values() if not view().missing()} & set(_CONTAINERS)
    command = [*NFIO, "image", "build", *kinds, "--for", ",".join(sorted(wanted)), *options]
    # Wherever tests keep their guests: the machine's own images are made once, and last.
    environment = {
        **os.environ,
        "NFIO_NATIVE_DIR": str(native_view.MACHINES_OWN),
        "NFIO_LIBVIRT_DIR": str(libvirt_view.MACHINES_OWN),
    }
    subprocess.run(command, check=True, timeout=600, env=environment)
    _built.update((engine, kind) for engine in wanted for kind in kinds)
