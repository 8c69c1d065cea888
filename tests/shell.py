"""Scripts as users write them, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from mount import Vnf


def sh(
    script: str,
    cwd: Path,
    check: bool = True,
    timeout: float = 30,
    uid: int | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script in bash; AssertionError if it fails.

    Args:
        uid: user and group to run it as, with no other groups; None is this user.
    """
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )
    assert not check or done.returncode == 0, f"{script}: {done.stderr}"
    return done


def stored(vnf: Vnf) -> dict[str, tuple[int, int, int, int, str]]:
    """All that is kept of a VNF's files: mode, owner, time and content."""
    found = {}
    for file in (*(vnf.path / "config").iterdir(), *(vnf.path / "machine").iterdir()):
        if file.name == "vm.ip":
            continue
        at = file.lstat()
        content = os.readlink(file) if file.is_symlink() else file.read_text()
        found[file.name] = (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns, content)
    return found
