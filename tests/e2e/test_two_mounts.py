"""Several VNFs of one name on one engine: of two roots, of two types, of names that look alike."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import wait_until
from engine_view import EngineView
from mount import Mount, errno_of

MODULE = """\
import dataclasses
from middleboxes.firewall import MIDDLEBOX as FIREWALL

MIDDLEBOX = dataclasses.replace(FIREWALL, type={type!r})
"""


@pytest.fixture
def mounts(stocked: EngineView, directory: Path) -> Iterator[tuple[Mount, Mount]]:
    one, other = Mount(directory / "one", stocked), Mount(directory / "other", stocked)
    try:
        for mount in (one, other):
            mount.mount()
        yield one, other
    finally:
        for mount in (one, other):
            mount.close()


def names(mount: Mount) -> list[str]:
    """The engine's names of a root's guests."""
    return [seen.name for seen in mount.engine.seen(mount.root_id)]


def test_two_roots_run_vnfs_of_one_name_beside_each_other(mounts: tuple[Mount, Mount]) -> None:
    one, other = mounts
    first, second = one.make("firewall", "fw0"), other.make("firewall", "fw0")
    for vnf in (first, second):
        vnf.act("activate")
        assert (vnf.state, vnf.error) == ("RUNNING", "")
    (of_one,), (of_other,) = one.guests(), other.guests()
    assert of_one != of_other
    for mount in mounts:
        (name,) = names(mount)
        assert name.startswith("root-firewall-fw0")
    assert first.address != second.address and first.value("uuid") != second.value("uuid")

    one.engine.kill(of_one)
    wait_until(lambda: first.state == "ERROR", 0.5, "its own is seen")
    assert second.state == "RUNNING" and second.error == ""
    assert '"RUNNING", "to": "ERROR"' not in (other.path / "events").read_text()
    first.path.rmdir()
    assert one.guests() == [] and other.guests() == [of_other]
    assert second.state == "RUNNING" and second.number("stats/rx_bytes") >= 0
    # The name that is free again can be had again.
    again = one.make("firewall", "fw0")
    again.act("activate")
    assert again.state == "RUNNING" and other.guests() == [of_other]


def test_a_root_that_is_mounted_again_clears_its_own_orphans_only(mounts: tuple[Mount, Mount]) -> None:
    one, other = mounts
    for mount in mounts:
        for name in ("kept", "lost"):
            mount.make("firewall", name).act("activate")
    others = set(other.guests())
    kept_uuid = one.vnf("firewall", "kept").value("uuid")
    for leave in (one.umount, one.kill):
        leave()
        shutil.rmtree(one.root / "nf-types" / "firewall" / "lost", ignore_errors=True)
        one.mount()
        wait_until(lambda: len(one.guests()) == 1, 10, "the orphan is removed")
        assert [seen.uuid for seen in one.engine.seen(one.root_id)] == [kept_uuid]
        assert one.vnf("firewall", "kept").state == "RUNNING"
        assert set(other.guests()) == others
    for name in ("kept", "lost"):
        assert other.vnf("firewall", name).state == "RUNNING"


def test_guests_that_are_not_of_nfio_are_never_touched(mounts: tuple[Mount, Mount]) -> None:
    one, _ = mounts
    stranger = one.engine.make_stranger("root-firewall-x")
    try:
        one.make("firewall", "fw0").act("activate")
        one.umount()
        one.mount()
        assert one.vnf("firewall", "fw0").state == "RUNNING"
        assert one.engine.exists(stranger)
    finally:
        one.engine.clear(stranger)


def test_instances_of_one_name_under_two_types_are_two_vnfs(nfio: Mount) -> None:
    firewall, web = nfio.make("firewall", "edge"), nfio.make("web", "edge")
    for vnf in (firewall, web):
        vnf.act("activate")
    assert len(nfio.guests()) == 2
    firewall.act("stop")
    assert (firewall.state, web.state) == ("CONFIGURED", "RUNNING")
    firewall.path.rmdir()
    assert web.state == "RUNNING" and len(nfio.guests()) == 1
    assert errno_of(web.path.rmdir) == "EBUSY"


def test_names_whose_dashes_would_make_one_name_of_two_are_two_vnfs(
    stocked: EngineView, directory: Path
) -> None:
    modules = directory / "modules"
    modules.mkdir()
    for kind in ("a", "a-b"):
        (modules / f"{kind}.py").write_text(MODULE.format(type=kind))
    nfio = Mount(directory, stocked, options=("--module-root", str(modules)))
    nfio.mount()
    try:
        vnfs = [nfio.make("a-b", "c"), nfio.make("a", "b-c")]
        for vnf in vnfs:
            vnf.write("machine/vm.image", "nfio/firewall\n")
            vnf.act("activate")
            assert (vnf.state, vnf.error) == ("RUNNING", "")
        assert len(set(names(nfio))) == 2
        assert vnfs[0].address != vnfs[1].address
        # Their second life meets the other's name again.
        for vnf in vnfs:
            vnf.act("destroy")
            vnf.act("activate")
        assert [vnf.state for vnf in vnfs] == ["RUNNING", "RUNNING"]
        assert len(nfio.guests()) == 2
        vnfs[0].act("stop")
        vnfs[0].path.rmdir()
        assert vnfs[1].state == "RUNNING" and len(nfio.guests()) == 1
    finally:
        nfio.close()
