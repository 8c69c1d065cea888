"""The adapter to FUSE and nf.io's Python API, without a mount."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_driver import MemoryDriver
from world import PLAIN_TYPE

from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode
from nfio import Nfio, VNFSOperations
from nfio._fuse import FileInfo, FuseOSError
from nfio.errors import Busy, NetworkDown, NotFound, NotPermitted
from nfio.states import State

A = "/nf-types/plain/a"


@pytest.fixture
def nfio(tmp_path: Path, driver: MemoryDriver) -> Iterator[Nfio]:
    types = tmp_path / "types"
    types.mkdir()
    (types / "plain.py").write_text(PLAIN_TYPE)
    made = Nfio(str(tmp_path / "root"), "/mnt", "Memory", str(types), mount=False)
    made.init("/")
    yield made
    made.destroy("/")
    driver.engine("").close_streams()


def errno_of(call: Callable[[], object]) -> str:
    with pytest.raises(FuseOSError) as found:
        call()
    return errno.errorcode[found.value.errno]


def opened(nfio: Nfio, path: str, flags: int = os.O_RDWR) -> FileInfo:
    info = FileInfo()
    info.flags = flags
    assert nfio("open", path, info) == 0
    return info


def test_a_vnf_is_made_run_read_and_removed_by_calling_operations(nfio: Nfio) -> None:
    assert nfio("mkdir", A, 0o755) == 0
    info = opened(nfio, f"{A}/action")
    assert nfio("write", f"{A}/action", b"activate\n", 0, info) == 9
    assert nfio("flush", f"{A}/action", info) == nfio("release", f"{A}/action", info) == 0
    info = opened(nfio, f"{A}/stats/rx_bytes", os.O_RDONLY)
    assert nfio("read", f"{A}/stats/rx_bytes", 100, 0, info) == b"1000\n"
    assert nfio("read", f"{A}/stats/rx_bytes", 2, 2, info) == b"00"
    nfio("release", f"{A}/stats/rx_bytes", info)
    assert errno_of(lambda: nfio("rmdir", A)) == "EBUSY"
    nfio("truncate", f"{A}/state", 0)
    info = opened(nfio, f"{A}/state")
    nfio("write", f"{A}/state", b"DEFINED", 0, info)
    nfio("fsync", f"{A}/state", 0, info)
    nfio("release", f"{A}/state", info)
    assert nfio("rmdir", A) == 0
    assert nfio("readdir", "/nf-types/plain", 0) == [".", ".."]


def test_every_operation_answers(nfio: Nfio) -> None:
    nfio("mkdir", A, 0o755)
    found = nfio("getattr", f"{A}/uuid")
    assert found["st_size"] == 1000 and stat.S_ISREG(found["st_mode"])
    assert {"st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid"} <= set(
        found
    )
    assert nfio("access", f"{A}/uuid", os.R_OK) == 0
    assert nfio("chmod", f"{A}/uuid", 0o400) == 0
    assert nfio("chown", f"{A}/uuid", -1, -1) == 0
    assert nfio("utimens", f"{A}/uuid", (1, 2)) == nfio("utimens", f"{A}/uuid") == 0
    assert nfio("statfs", "/")["f_bsize"] > 0
    assert nfio("readlink", "/pipes/events") == ".events"
    assert nfio("symlink", f"{A}/config/link", "nf_conf") == 0
    info = FileInfo()
    info.flags = os.O_WRONLY | os.O_CREAT
    assert nfio("create", f"{A}/config/mine", 0o600, info) == 0
    assert nfio("write", None, b"x", 0, info) == 1
    assert nfio("truncate", None, 0, info) == 0
    assert stat.S_ISREG(nfio("getattr", None, info)["st_mode"])
    assert nfio("release", None, info) == nfio("release", None, info) == 0
    assert nfio("mknod", f"{A}/config/node", stat.S_IFREG | 0o644, 0) == 0
    assert nfio("rename", f"{A}/config/mine", f"{A}/config/other") == 0
    assert nfio("unlink", f"{A}/config/other") == 0


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_devices_fifos_sockets_and_hard_links_are_eperm(nfio: Nfio, kind: int) -> None:
    nfio("mkdir", A, 0o755)
    assert errno_of(lambda: nfio("mknod", f"{A}/config/node", kind | 0o644, 0)) == "EPERM"
    assert errno_of(lambda: nfio("link", f"{A}/config/hard", f"{A}/config/nf_conf")) == "EPERM"


def test_every_error_reaches_fuse_as_an_errno(nfio: Nfio, caplog: pytest.LogCaptureFixture) -> None:
    assert errno_of(lambda: nfio("getattr", "/none")) == "ENOENT"
    assert errno_of(lambda: nfio("mkdir", "/none", 0o755)) == "EPERM"
    assert errno_of(lambda: nfio("readdir", "/version", 0)) == "ENOTDIR"
    assert not caplog.records
    # A mistake of nfio's own: reported with its traceback, and the mount goes on.
    assert errno_of(lambda: nfio("read", "/version", 1, 0, FileInfo())) == "EIO"
    assert "Traceback" in caplog.text


def test_a_stored_files_own_error_reaches_fuse(nfio: Nfio) -> None:
    nfio("mkdir", A, 0o755)
    assert errno_of(lambda: nfio("rename", f"{A}/config/none", f"{A}/config/x")) == "ENOENT"


@pytest.mark.parametrize("name", [b"\xff\xfe", "ä".encode(), b"caf\xc3\xa9", b"a\xffb"])
def test_names_come_as_bytes_and_only_utf8_is_taken(nfio: Nfio, name: bytes) -> None:
    nfio("mkdir", A, 0o755)
    path = f"{A}/config/" + name.decode("latin-1")
    info = FileInfo()
    info.flags = os.O_WRONLY | os.O_CREAT
    try:
        name.decode()
    except UnicodeDecodeError:
        assert errno_of(lambda: nfio("create", path, 0o644, info)) == "EINVAL"
        assert errno_of(lambda: nfio("getattr", path)) == "ENOENT"
    else:
        nfio("create", path, 0o644, info)
        nfio("release", path, info)
        assert name.decode("latin-1") in nfio("readdir", f"{A}/config", 0)
    assert errno_of(lambda: nfio("mkdir", "/nf-types/plain/" + name.decode("latin-1"), 0o755)) == "EINVAL"


def test_a_root_is_held_until_it_is_let_go(nfio: Nfio) -> None:
    with pytest.raises(Busy, match="is mounted already at /mnt"):
        Nfio(nfio.root, "/mnt2", "Memory", nfio.module_root, mount=False)
    nfio.destroy("/")
    again = Nfio(nfio.root, "/mnt2", "Memory", nfio.module_root, mount=False)
    assert (again.root, again.mountpoint) == (nfio.root, "/mnt2")
    assert isinstance(again.vnfs_ops, VNFSOperations) and again.hypervisor is nfio.hypervisor


def test_an_unknown_hypervisor_makes_no_file_system(tmp_path: Path, driver: MemoryDriver) -> None:
    with pytest.raises(TypeError):
        Nfio(str(tmp_path / "root"), "/mnt", "Xen", mount=False)
    with pytest.raises(ValueError, match="Memory"):
        Nfio(str(tmp_path / "root"), "/mnt", "Docker", mount=False)
    assert not (tmp_path / "root").exists()


# -- nf.io's operations by path ---------------------------------------------------------------


def test_paths_are_taken_apart_as_nf_io_does(nfio: Nfio) -> None:
    ops = nfio.vnfs_ops
    path = "/mnt/vnfsroot/nf-types/firewall/fw-alpha/action"
    assert ops.vnfs_get_opcode(path) == ops.OP_NF == 0x01
    assert ops.vnfs_get_opcode("/mnt/vnfsroot/chns") == ops.OP_UNDEFINED == 0xFF
    assert ops.vnfs_get_nf_type(path) == "firewall"
    assert ops.vnfs_get_file_name(path) == "action"
    assert ops.vnfs_get_file_name("/mnt/vnfsroot/nf-types/") == "nf-types"
    assert not ops.vnfs_is_nf_instance(path)
    assert ops.vnfs_is_nf_instance(os.path.dirname(path))
    assert not ops.vnfs_is_nf_instance("/mnt/vnfsroot/nf-types/firewall")
    with pytest.raises(NotFound):
        ops.vnfs_get_nf_type("/mnt/vnfsroot/nf-types")


def test_a_vnf_lives_by_nf_ios_operations(nfio: Nfio) -> None:
    ops = nfio.vnfs_ops
    owner = (os.getuid(), os.getgid())
    assert ops.vnfs_create_vnf_instance(f"/mnt{A}", 0o755, owner) is SUCCESS
    assert ops.vnfs_get_instance_configuration(A) == ("a", "plain", "", "nfio/plain")
    assert ops.vnfs_get_status(A) == "undeployed"
    with pytest.raises(NetworkDown):
        ops.vnfs_get_rx_bytes(A)
    assert ops.vnfs_deploy_nf(A) is SUCCESS
    assert ops.vnf(A).state is State.RUNNING and ops.vnfs_get_status(A) == "running"
    assert (ops.vnfs_get_rx_bytes(A), ops.vnfs_get_tx_bytes(A), ops.vnfs_get_pkt_drops(A)) == (1000, 2000, 3)
    assert ops.vnfs_stop_vnf(A) is SUCCESS
    assert ops.vnfs_get_status(A) == "exited"


def test_operations_answer_with_a_code_and_keep_the_reason(nfio: Nfio, driver: MemoryDriver) -> None:
    ops = nfio.vnfs_ops
    ops.vnfs_create_vnf_instance(A, 0o755, (os.getuid(), os.getgid()))
    assert ops.vnfs_stop_vnf(A) is ReturnCode.FAILURE
    assert "stop is not allowed" in ops.vnf(A).record.error
    driver.engine("").images.clear()
    assert ops.vnfs_deploy_nf(A) is ReturnCode.FAILURE
    assert ops.vnf(A).record.error == "no such image: nfio/plain"
    for path in ("/nf-types/plain", "/nf-types/plain/a/config/x", "/chns/x", "/nf-types/none/a"):
        with pytest.raises(NotPermitted):
            ops.vnfs_create_vnf_instance(path, 0o755)
    with pytest.raises(NotFound):
        ops.vnf("/nf-types/plain/none")
