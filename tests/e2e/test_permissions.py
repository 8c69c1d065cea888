"""Other users: what modes and owners let them do, and that it stays so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_view import EngineView
from mount import Mount, Vnf, errno_of
from shell import sh

NOBODY = 65534


@pytest.fixture
def open_mount(stocked: EngineView, directory: Path) -> Iterator[Mount]:
    """nfio, mounted for all users."""
    made = Mount(directory, stocked, options=("--allow-other",))
    made.mount()
    yield made
    made.close()


@pytest.fixture
def firewall(open_mount: Mount) -> Vnf:
    """A firewall of root's that runs."""
    made = open_mount.make("firewall", "fw0")
    made.act("activate")
    return made


def may(script: str, place: Path) -> bool:
    """Whether another user's shell can do it. If not, then for want of permission and nothing else."""
    done = sh(script, place, check=False, uid=NOBODY)
    if done.returncode == 0:
        return True
    assert "Permission denied" in done.stderr or "Operation not permitted" in done.stderr, done.stderr
    return False


def mode(path: Path) -> tuple[int, int, int]:
    at = path.stat()
    return at.st_uid, at.st_gid, at.st_mode & 0o7777


def test_another_user_may_look_and_not_touch(open_mount: Mount, firewall: Vnf) -> None:
    for file in ("state", "status", "error", "stats/rx_bytes", "rules", "config/nf_conf", "machine/vm.ip"):
        assert may(f"cat {file}", firewall.path), file
    assert may("cat metrics/nfio.prom events version", open_mount.path)
    assert not may("cat command", firewall.path)
    for file in ("command", "action", "state", "config/nf_conf", "config/new", "machine/vm.memory", "uuid"):
        assert not may(f"echo x > {file}", firewall.path), file
        assert not may(f"echo x >> {file}", firewall.path), file
    assert not may("sed -i s/table/chair/ config/nf_conf", firewall.path)
    assert not may("echo RUNNING > .state.swp && mv .state.swp state", firewall.path)
    assert not may("rm -f config/nf_conf", firewall.path)
    assert not may("ln -s nf_conf config/link", firewall.path)
    assert not may("chmod 666 action", firewall.path)
    assert not may(f"chown {NOBODY} action", firewall.path)
    assert not may(f"chgrp {NOBODY} action", firewall.path)
    assert not may("touch -d yesterday config/nf_conf", firewall.path)
    assert not may("rmdir fw0", firewall.path.parent)
    assert not may("mv fw0 fw1", firewall.path.parent)
    assert not may("mkdir mine", firewall.path.parent)
    assert (firewall.state, firewall.error, firewall.value("action")) == ("RUNNING", "", "activate")
    assert not (firewall.path.parent / "mine").exists()


def test_a_mount_that_is_not_shared_lets_nobody_else_in(nfio: Mount) -> None:
    assert not may("ls mnt", nfio.path.parent)
    assert not may("cat mnt/version", nfio.path.parent)


def test_a_group_may_be_let_in_and_stays_in(open_mount: Mount, firewall: Vnf) -> None:
    (guest,) = open_mount.guests()
    sh(
        f"chgrp {NOBODY} action command config/nf_conf && chmod 660 action command config/nf_conf",
        firewall.path,
    )
    for _ in range(2):
        assert may("exec 3<>command; echo 'echo here' >&3; test $(cat <&3) = here", firewall.path)
        assert may("echo '# mine' > config/nf_conf && echo reload > action", firewall.path)
        assert not may("echo CONFIGURED > state", firewall.path)
        assert not may("chmod 666 state action", firewall.path)
        for file in ("action", "command", "config/nf_conf"):
            assert mode(firewall.path / file) == (0, NOBODY, 0o660), file
        assert mode(firewall.path / "state") == (0, 0, 0o644)
        open_mount.umount()
        open_mount.mount()
    assert firewall.read("config/nf_conf") == "# mine\n"
    assert open_mount.guests() == [guest]
    sh("chmod 600 action command", firewall.path)
    assert not may("echo stop > action", firewall.path)
    assert not may("cat command", firewall.path)


def test_a_vnf_may_be_given_away(open_mount: Mount, firewall: Vnf) -> None:
    sh(f"chown -R {NOBODY}:{NOBODY} fw0", firewall.path.parent)
    assert may("sed -i 's/[$]POLICY/drop/' config/nf_conf && echo reload > action", firewall.path)
    assert "policy drop" in firewall.read("rules")
    assert may("echo 64M > machine/vm.memory; ln -s nf_conf config/link; echo x > config/x", firewall.path)
    assert may("echo 'true' > command && echo CONFIGURED > state && chmod 600 log", firewall.path)
    assert may("rm config/x config/link machine/vm.memory", firewall.path)
    assert not may("echo x > uuid", firewall.path)
    assert not may("rmdir fw0", firewall.path.parent)  # the directory it is in is not his
    open_mount.umount()
    open_mount.mount()
    for place in (firewall.path, *firewall.path.rglob("*")):
        assert mode(place)[:2] == (NOBODY, NOBODY), place
    assert mode(firewall.path / "log")[2] == 0o600
    assert may("echo RUNNING > state", firewall.path)
    assert firewall.state == "RUNNING"


def test_who_makes_a_vnf_owns_it(open_mount: Mount) -> None:
    others = open_mount.make("web", "others")
    types = open_mount.path / "nf-types"
    assert not may("mkdir web/mine", types)
    sh("chmod 1777 web", types)
    open_mount.umount()
    open_mount.mount()
    assert mode(types / "web") == (0, 0, 0o1777)
    assert may("umask 027 && mkdir web/mine", types)
    mine = open_mount.vnf("web", "mine")
    assert mode(mine.path) == (NOBODY, NOBODY, 0o750)
    for place in mine.path.rglob("*"):
        assert mode(place)[:2] == (NOBODY, NOBODY), place
    assert mode(mine.path / "command") == (NOBODY, NOBODY, 0o600)
    assert may("echo activate > web/mine/action && cat web/mine/stats/rx_bytes", types)
    (seen,) = open_mount.engine.seen(open_mount.root_id)
    assert seen.name.startswith("nobody-web-mine")
    assert not may("rmdir web/others", types)  # for that is what the sticky bit says
    assert not may("rm -rf web/others", types)
    assert may("echo stop > web/mine/action && rm -rf web/mine", types)
    assert not mine.path.exists() and open_mount.guests() == []
    assert others.path.exists() and others.state == "DEFINED"
    assert not may("mkdir firewall/mine", types)
    assert errno_of(others.path.mkdir) == "EEXIST"
