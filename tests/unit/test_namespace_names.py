"""Names in the tree: files made, renamed, linked and removed, and the attributes they keep."""

from __future__ import annotations

import os
import stat

import pytest
from world import World, errno_of

from nfio.states import State


def test_files_are_made_in_config_and_temporary_ones_beside_writable_files(world: World) -> None:
    world.define()
    for file in ("config/mine", "config/.nf_conf.aB3xYz", ".action.swp", "machine/sedAbCdEf", "4913"):
        world.tree.create(world.path(file), os.O_WRONLY, 0o640).close()
        assert stat.S_IMODE(world.tree.getattr(world.path(file))["st_mode"]) == 0o640
    for file in ("mine", "machine/mine", "stats/.x.swp", "stats/mine", ".nfio.json"):
        expected = "EACCES"
        assert errno_of(lambda file=file: world.tree.create(world.path(file), os.O_WRONLY, 0o644)) == expected
    for path in ("/mine", "/nf-types/mine", "/nf-types/plain/mine", "/metrics/mine"):
        assert errno_of(lambda path=path: world.tree.create(path, os.O_WRONLY, 0o644)) == "EACCES"
    world.tree.unlink(world.path("config/mine"))
    assert errno_of(lambda: world.tree.getattr(world.path("config/mine"))) == "ENOENT"


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\udcff", "x" * 256])
def test_a_file_needs_a_name(world: World, name: str) -> None:
    world.define()
    path = world.path(f"config/{name}")
    assert errno_of(lambda: world.tree.create(path, os.O_WRONLY, 0o644)) == "EINVAL"
    assert errno_of(lambda: world.tree.symlink(path, "nf_conf")) == "EINVAL"
    assert errno_of(lambda: world.tree.rename(world.path("config/nf_conf"), path)) == "EINVAL"


def test_a_rename_onto_a_file_of_the_tree_is_a_write_of_its_content(world: World) -> None:
    vnf = world.define()

    def prepare(file: str, content: bytes) -> str:
        handle = world.tree.create(world.path(file), os.O_WRONLY, 0o644)
        handle.write(content, 0)
        handle.close()
        return world.path(file)

    world.tree.rename(prepare(".action.aB3xYz", b"activate\n"), world.path("action"))
    assert vnf.state is State.RUNNING
    world.tree.rename(prepare("machine/.vm.memory.aB3xYz", b"64M\n"), world.path("machine/vm.memory"))
    assert world.read(world.path("machine/vm.memory")) == b"64M\n"
    world.tree.rename(prepare("config/.nf_conf.aB3xYz", b"new\n"), world.path("config/nf_conf"))
    assert world.read(world.path("config/nf_conf")) == b"new\n"
    for file, content, error in (
        ("state", b"nowhere\n", "EINVAL"),
        ("action", b"activate x\n", "EINVAL"),
        ("uuid", b"mine\n", "EACCES"),
        ("machine/vm.vcpu", b"nan\n", "EINVAL"),
    ):
        directory = os.path.dirname(file)
        draft = prepare(os.path.join(directory, f".{os.path.basename(file)}.aB3xYz"), content)
        assert errno_of(lambda draft=draft, file=file: world.tree.rename(draft, world.path(file))) == error
    assert vnf.state is State.RUNNING and world.read(world.path("machine/vm.vcpu")) == b""


def test_nothing_of_the_tree_can_be_moved_out_of_its_place(world: World) -> None:
    world.define()
    world.define("b")
    for old, new, error in (
        ("/nf-types/plain", "/nf-types/other", "EACCES"),
        ("/version", world.path("config/version"), "EPERM"),
        (world.path("stats"), world.path("config/stats"), "EPERM"),
        (world.path("config/nf_conf"), "/version", "EPERM"),
        (world.path("config/nf_conf"), "/mine", "EACCES"),
        (world.path(""), "/nf-types/other/a", "EPERM"),
        (world.path(""), world.path("", "b"), "EEXIST"),
        (world.path(""), "/nf-types/plain/-x", "EINVAL"),
        (world.path(""), world.path("config/x", "b"), "EPERM"),
    ):
        assert errno_of(lambda old=old, new=new: world.tree.rename(old, new)) == error, (old, new)
    assert set(world.orchestrator.vnfs) == {("plain", "a"), ("plain", "b")}


def test_links_lead_to_files_beside_them_only(world: World) -> None:
    world.define()
    world.tree.symlink(world.path("config/link"), "nf_conf")
    assert world.tree.readlink(world.path("config/link")) == "nf_conf"
    assert stat.S_ISLNK(world.tree.getattr(world.path("config/link"))["st_mode"])
    for path, target in (
        ("config/evil", "/etc/passwd"),
        ("config/evil", "../../../.nfio/root-id"),
        ("config/evil", ".."),
        ("config/evil", ""),
        ("link", "action"),
        ("machine/.x.swp", "ip"),
    ):
        call = lambda path=path, target=target: world.tree.symlink(world.path(path), target)  # noqa: E731
        assert errno_of(call) == "EPERM"
    assert errno_of(lambda: world.tree.symlink("/link", "version")) == "EPERM"
    assert errno_of(lambda: world.tree.readlink(world.path("config/nf_conf"))) == "EINVAL"


def test_what_is_part_of_every_nfio_cannot_be_removed(world: World) -> None:
    world.define()
    for path in ("/", "/nf-types", "/nf-types/plain", "/metrics", "/pipes"):
        assert errno_of(lambda path=path: world.tree.rmdir(path)) == "EPERM"
    for path in ("/version", "/events", "/metrics/nfio.prom", "/pipes/events", "/nf-types", world.path("")):
        assert errno_of(lambda path=path: world.tree.unlink(path)) == "EPERM"
    assert errno_of(lambda: world.tree.rmdir(world.path("action"))) == "ENOTDIR"
    world.tree.create(world.path("config/mine"), os.O_WRONLY, 0o644).close()
    assert errno_of(lambda: world.tree.rmdir(world.path("config"))) == "ENOTEMPTY"


# -- attributes -------------------------------------------------------------------------------


def test_modes_last_on_live_files_too(world: World) -> None:
    world.define()
    for file in ("action", "uuid", "stats/rx_bytes", "config/nf_conf", "machine/ip", "config", "greeting"):
        world.tree.chmod(world.path(file), 0o640)
        world.tree.chown(world.path(file), -1, -1)
    world.tree.chmod(world.path(""), 0o711)
    world.tree.chmod("/metrics/nfio.prom", 0o600)
    world.again()
    for file in ("action", "uuid", "stats/rx_bytes", "config/nf_conf", "machine/ip", "config", "greeting"):
        assert stat.S_IMODE(world.tree.getattr(world.path(file))["st_mode"]) == 0o640, file
    assert stat.S_IMODE(world.tree.getattr(world.path(""))["st_mode"]) == 0o711
    assert stat.S_IMODE(world.tree.getattr("/metrics/nfio.prom")["st_mode"]) == 0o600
    assert world.read(world.path("state")) == b"DEFINED\n"


def test_times_can_be_set_wherever_unix_lets_one(world: World) -> None:
    world.define()
    for path in ("/", "/version", world.path(""), world.path("action"), world.path("config/nf_conf")):
        world.tree.utimens(path, None)
        world.tree.utimens(path, (1_000_000_007, 2_000_000_009))
    found = world.tree.getattr(world.path("config/nf_conf"))
    assert (found["st_atime"], found["st_mtime"]) == (1_000_000_007, 2_000_000_009)
