"""Mounting what cannot be mounted, and names that no log can print: said in one line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from engine_view import EngineView
from mount import Mount, errno_of


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of words that a command fails with."""
    assert done.returncode == 1, done
    assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done
    return done.stderr


def test_a_root_is_mounted_once(mount: Mount, directory: Path) -> None:
    second = directory / "second"
    second.mkdir()
    line = failure(mount.nfio("mount", str(mount.root), str(second), check=False))
    assert "is mounted already" in line and str(mount.path) in line
    (directory / "link").symlink_to(mount.root)
    failure(mount.nfio("mount", str(directory / "link"), str(second), check=False))
    failure(mount.nfio("mount", str(mount.root), str(mount.path), check=False))
    failure(mount.nfio("mount", str(directory / "other-root"), str(mount.path), check=False))
    assert os.listdir(second) == [] and mount.vnf("web", "x").path.parent.is_dir()


def test_what_cannot_be_mounted_is_said_in_one_line(view: EngineView, directory: Path) -> None:
    mount = Mount(directory, view)
    (directory / "file").write_text("")
    (directory / "full").mkdir()
    (directory / "full" / "file").write_text("")
    (directory / "types").write_text("")
    root, good = str(mount.root), str(mount.path)
    for arguments, words in (
        ((root, str(directory / "file")), "not a directory"),
        ((root, str(directory / "full")), "not empty"),
        ((root, str(directory / "none")), "does not exist"),
        ((str(directory / "file"), good), "directory"),
        ((str(directory / "file" / "x"), good), "directory"),
        (("/proc/no-such-root", good), "/proc"),
        ((good, good), ""),
        ((str(mount.path / "root"), good), ""),
    ):
        line = failure(mount.nfio("mount", *arguments, check=False))
        assert words in line, (arguments, line)
        assert not mount.is_mounted
        assert list(mount.path.iterdir()) == []
    for arguments in (
        (root,),
        (root, good, "more"),
        (root, good, "--hypervisor", "Xen"),
        (root, good, "--fly"),
    ):
        done = mount.nfio("mount", *arguments, check=False)
        assert done.returncode == 2 and "usage:" in done.stderr and "Traceback" not in done.stderr


def test_what_is_not_mounted_cannot_be_unmounted(view: EngineView, directory: Path) -> None:
    mount = Mount(directory, view)
    for place in (mount.path, directory / "none", Path("/"), Path("/proc")):
        assert "is not mounted" in failure(mount.nfio("umount", str(place), check=False))


def test_names_that_are_no_utf8_do_not_disturb_the_most_talkative_log(
    view: EngineView, directory: Path
) -> None:
    mount = Mount(directory, view, options=("--log-level", "debug"))
    mount.mount()
    try:
        place = os.fsencode(mount.path)
        for path in (b"/\xff", b"/nf-types/\xff", b"/nf-types/web/\xff/\xfe", b"/a\nb"):
            assert errno_of(lambda path=path: os.stat(place + path)) == "ENOENT"
            assert errno_of(lambda path=path: os.mkdir(place + path)) in ("EPERM", "EINVAL", "ENOENT")
        assert (mount.path / "version").read_text()
    finally:
        mount.close()
