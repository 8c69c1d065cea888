"""Images, machines' files and logs, without a libvirt: what is kept where, and what is never left."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from pathlib import Path

import pytest

from hypervisor import libvirt_disks, libvirt_images, libvirt_kvm, libvirt_remote
from hypervisor.hypervisor_base import BootOptions, VnfSpec
from hypervisor.libvirt_console import Exit, Run, console_text, exit_of
from hypervisor.libvirt_guest import initrd_init, programs
from hypervisor.libvirt_local import LocalMachine
from hypervisor.libvirt_machine import Base, kernel_of
from hypervisor.libvirt_volumes import Pool
from nfio.errors import (
    Busy,
    ConfigurationRejected,
    HypervisorError,
    HypervisorUnreachable,
    InvalidValue,
    NotFound,
    NotSupported,
)

MACHINE = LocalMachine("2dd9c6dc-5b78-4b55-9baf-4e59e55c9322")
BAD_NAMES = ("nfio/../../etc", "../x", "..", "/", "a/b/../../../c", "x\0y", "", "nfio/" + "x" * 300)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NFIO_LIBVIRT_DIR", str(tmp_path / "libvirt"))
    return tmp_path / "libvirt"


@pytest.fixture
def fake_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images whose disk is a few bytes: what is looked at here is how they are kept."""

    def make(tarball: Path, command: object, directory: Path) -> None:
        (directory / "half-made").write_bytes(b"x")
        content = tarball.read_bytes()
        if content == b"bad":
            raise HypervisorError("it is bad")
        (directory / "half-made").unlink()
        for name in (libvirt_disks.DISK, libvirt_disks.KERNEL, libvirt_disks.INITRD):
            (directory / name).write_bytes(content)

    monkeypatch.setattr(libvirt_images, "make_disk", make)


def imported(home: Path, name: str, content: bytes = b"disk") -> libvirt_images.Image:
    tarball = home.parent / "root.tar"
    tarball.write_bytes(content)
    libvirt_images.import_image(name, tarball, ["/bin/true"], {"io.nfio.recipe": "r1"})
    return libvirt_images.find_image(name)


def stores(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "store").iterdir())


def test_an_image_is_found_by_the_name_it_was_given(home: Path, fake_disk: None) -> None:
    image = imported(home, "nfio/web")
    assert libvirt_images.find_image("nfio/web:latest") == image
    (info,) = map(libvirt_images.image_info, libvirt_images.images())
    assert (info.name, info.recipe) == ("nfio/web", "r1")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_never_leads_out_of_the_directory(home: Path, fake_disk: None, name: str) -> None:
    with pytest.raises(HypervisorError) as refusal:
        libvirt_images.find_image(name)
    assert "no such image" in refusal.value.reason
    with pytest.raises((HypervisorError, NotFound, OSError, ValueError)):
        libvirt_images.remove_image(name)
    assert [path.name for path in home.parent.iterdir()] == ["libvirt"]


def test_a_missing_image_of_nfios_says_how_it_is_made(home: Path) -> None:
    with pytest.raises(HypervisorError, match="nfio image build firewall --for libvirt"):
        libvirt_images.find_image("nfio/firewall")


def test_a_build_that_fails_leaves_nothing_and_the_old_image_stays(home: Path, fake_disk: None) -> None:
    old = imported(home, "nfio/web")
    with pytest.raises(HypervisorError, match="it is bad"):
        imported(home, "nfio/web", b"bad")
    assert stores(home) == [old.store]
    assert libvirt_images.find_image("nfio/web") == old


def test_what_a_killed_build_left_is_cleared_by_the_next(home: Path, fake_disk: None) -> None:
    libvirt_images.make_home()
    (home / "store" / "draft-killed").mkdir()
    assert libvirt_images.images() == []
    image = imported(home, "nfio/web")
    assert stores(home) == [image.store]


def test_a_machine_keeps_the_image_it_was_made_from(home: Path, fake_disk: None) -> None:
    vnf_id = str(uuid.uuid4())
    old = imported(home, "nfio/web", b"old")
    libvirt_images.make_machine(vnf_id, old.store)
    with pytest.raises(Busy):
        libvirt_images.remove_image("nfio/web")
    new = imported(home, "nfio/web", b"new")
    assert stores(home) == sorted([old.store, new.store])
    libvirt_images.remove_machine(vnf_id)
    assert stores(home) == [new.store]
    libvirt_images.remove_image("nfio/web")
    assert stores(home) == [] and libvirt_images.images() == []
    with pytest.raises(NotFound):
        libvirt_images.remove_image("nfio/web")


def test_a_machine_id_is_a_uuid_and_no_path(home: Path) -> None:
    with pytest.raises(ValueError):
        libvirt_images.machine_dir("../../etc")


# -- boot.conf ------------------------------------------------------------------------------


def base(home: Path, *, ours: bool = True) -> Base:
    if ours:
        return MACHINE.find_base(imported(home, "nfio/web").name)
    disk = home.parent / "disk.img"
    disk.write_bytes(b"x" * 512)
    return MACHINE.find_base(str(disk))


def test_an_image_of_nfios_boots_its_own_kernel(home: Path, fake_disk: None) -> None:
    kernel = kernel_of(MACHINE, base(home), BootOptions(cmdline="debug"), "kvm")
    assert kernel is not None
    assert Path(kernel.kernel).is_file() and Path(kernel.initrd).is_file()
    assert kernel.cmdline == f"{libvirt_disks.CMDLINE} debug"


def test_a_disk_boots_what_it_holds(home: Path, fake_disk: None) -> None:
    assert kernel_of(MACHINE, base(home), BootOptions(kernel="disk"), "qemu") is None
    assert kernel_of(MACHINE, base(home, ours=False), BootOptions(), "qemu") is None
    with pytest.raises(NotSupported):
        kernel_of(MACHINE, base(home, ours=False), BootOptions(cmdline="x"), "qemu")


def test_a_kernel_that_is_not_there_is_said(home: Path, fake_disk: None) -> None:
    for boot in (BootOptions(kernel="/nonexistent"), BootOptions(kernel="vmlinuz")):
        with pytest.raises(HypervisorError, match=r"boot\.conf"):
            kernel_of(MACHINE, base(home, ours=False), boot, "qemu")
    with pytest.raises(HypervisorError, match="no such disk image"):
        MACHINE.find_base("/nonexistent.qcow2")


# -- configuration --------------------------------------------------------------------------


def test_the_configuration_disk_holds_the_present_files(home: Path) -> None:
    directory = libvirt_images.make_machine(str(uuid.uuid4()), "")
    machine = LocalMachine(directory.name)
    config = home.parent / "config"
    config.mkdir()
    (config / "nf_conf").write_text("first\n")
    spec = VnfSpec(instance="fw0", sysctls={"net.ipv4.ip_forward": "1"}, user=33, config_dir=config)
    machine.save_settings(spec)
    disk = machine.write_config_disk()
    (config / "nf_conf").write_text("2\n")
    assert machine.write_config_disk() == disk and disk.parent == directory
    assert isinstance(disk, Path) and disk.stat().st_mode & 0o077 == 0
    with tarfile.open(fileobj=io.BytesIO(disk.read_bytes())) as tar:
        found = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert found == {
        "machine/hostname": b"fw0",
        "machine/sysctls": b"net.ipv4.ip_forward = 1\n",
        "machine/user": b"33\n",
        "config/nf_conf": b"2\n",
    }


def test_a_command_of_an_image_is_a_list_of_arguments() -> None:
    text = programs(["/bin/sh", "-c", "echo 'a b' $HOME; exit"])["/usr/lib/nfio/machine/command"]
    assert text == "#!/bin/sh\nexec /bin/sh -c 'echo '\"'\"'a b'\"'\"' $HOME; exit'\n"
    assert "'a b.ko'" in initrd_init(["a b.ko", "virtio.ko"])


# -- logs -----------------------------------------------------------------------------------


@pytest.fixture
def log_dir(home: Path) -> Path:
    """Where MACHINE's logs are."""
    MACHINE.directory.mkdir(parents=True)
    return MACHINE.directory


def test_the_end_of_a_log_goes_back_over_those_it_was_turned_over_to(log_dir: Path) -> None:
    log = log_dir / "console.log"
    assert MACHINE.tail("console.log", 100) == b""
    log.write_bytes(b"789")
    log.with_name("console.log.0").write_bytes(b"456")
    log.with_name("console.log.1").write_bytes(b"123")
    assert [MACHINE.tail("console.log", n) for n in (2, 3, 5, 9, 100)] == [
        b"89",
        b"789",
        b"56789",
        b"123456789",
        b"123456789",
    ]


@pytest.mark.parametrize(
    ("serial", "expected"),
    [
        ("nfio: started\r\nnfio: exit 4\r\n", Exit(4, False)),
        ("nfio: started\r\nnfio: exit 137 oom\r\n[    9.0] reboot: Power down\r\n", Exit(137, True)),
        ("nfio: started\r\n", None),
        ("it said nfio: exit 4\r\n", None),
        ("", None),
    ],
)
def test_how_a_function_ended_is_the_inits_own_word(
    log_dir: Path, serial: str, expected: Exit | None
) -> None:
    (log_dir / "serial.log").write_bytes(serial.encode())
    assert exit_of(MACHINE) == expected
    MACHINE.begin_log("serial.log")
    assert exit_of(MACHINE) is None


def test_the_log_of_a_machine_that_did_not_come_up_is_its_kernels(log_dir: Path) -> None:
    (log_dir / "serial.log").write_bytes(b"Kernel panic\n")
    assert console_text(MACHINE, ours=True, limit_bytes=100) == b"Kernel panic\n"
    (log_dir / "serial.log").write_bytes(b"nfio: started\n")
    assert console_text(MACHINE, ours=True, limit_bytes=100) == b""
    (log_dir / "console.log").write_bytes(b"words\n")
    assert console_text(MACHINE, ours=True, limit_bytes=100) == b"words\n"
    assert console_text(MACHINE, ours=False, limit_bytes=100) == b"nfio: started\n"


def test_the_word_of_the_run_before_is_not_taken_for_this_ones(log_dir: Path) -> None:
    log = log_dir / "console.log"
    log.write_text("nfio: ready\n")
    run = Run(MACHINE)
    assert not run.is_ready()
    with log.open("a") as file:
        file.write("words\nnfio: ready\n")
    assert run.is_ready()
    log.rename(log_dir / "console.log.0")
    log.write_text("nfio: ready\n")
    assert run.is_ready()


def test_why_a_start_failed(log_dir: Path) -> None:
    run = Run(MACHINE)
    (log_dir / "serial.log").write_text("nfio: exit 78\n")
    (log_dir / "console.log").write_text("nfio: rejected\nline 7: what is this?\n")
    failure = run.failure()
    assert isinstance(failure, ConfigurationRejected) and failure.reason == "line 7: what is this?"
    (log_dir / "console.log").write_text("no such luck\n")
    assert run.failure().reason == "its program ended at once with exit code 78: no such luck"


# -- images on other hosts ------------------------------------------------------------------


class Shelf(Pool):
    """A pool's volumes by name, and the file that each lies over."""

    def __init__(self, volumes: dict[str, str]) -> None:
        self.volumes = volumes

    def names(self) -> list[str]:
        return list(self.volumes)

    def delete(self, name: str) -> None:
        del self.volumes[name]

    def base_of(self, name: str) -> str:
        return self.volumes[name]


def test_images_on_another_host_go_when_nobody_wants_them_any_more(home: Path, fake_disk: None) -> None:
    named = imported(home, "nfio/web").store
    ours = f"image.{libvirt_remote._origin()}."
    kept = {
        f"{ours}{named}.disk.qcow2": "",
        f"{ours}{named}.whole": "",
        f"{ours}replaced-and-used.disk.qcow2": "",
        f"{ours}replaced-and-used.whole": "",
        f"{MACHINE.directory.name}.root.qcow2": f"/pool/{ours}replaced-and-used.disk.qcow2",
        "image.another-host.store.disk.qcow2": "",
        "a stranger's": "",
    }
    gone = {
        f"{ours}replaced.disk.qcow2": "",
        f"{ours}replaced.whole": "",
        f"{ours}interrupted.disk.qcow2": "",
    }
    shelf = Shelf({**gone, **kept})
    libvirt_remote._clear_images(shelf)
    assert shelf.volumes == kept
    del shelf.volumes[f"{ours}{named}.whole"]
    libvirt_remote._clear_images(shelf)
    assert f"{ours}{named}.disk.qcow2" not in shelf.volumes


# -- KVM ------------------------------------------------------------------------------------


class Host:
    """As much of a connection as says what libvirt offers."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def getVersion(self) -> int:
        return 7_002_022

    def getCapabilities(self) -> str:
        kinds = "".join(f"<domain type='{kind}'/>" for kind in self.kinds)
        return f"<capabilities><guest><arch name='x86_64'>{kinds}</arch></guest></capabilities>"


@pytest.fixture
def probes(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[libvirt_kvm.Probe]:
    """What the next tries will see; each try takes one."""
    monkeypatch.setattr(libvirt_kvm, "_known", {})
    coming: list[libvirt_kvm.Probe] = []
    monkeypatch.setattr(libvirt_kvm, "_try", lambda: coming.pop(0))
    monkeypatch.delenv("NFIO_LIBVIRT_DOMAIN", raising=False)
    return coming


def test_kvm_is_used_where_a_guest_ran_in_it_and_it_is_tried_once(
    probes: list[libvirt_kvm.Probe], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes.append(libvirt_kvm.Probe(True, "works"))
    for _ in range(2):
        assert libvirt_kvm.kind_of(Host("qemu", "kvm"), local=True) == "kvm"
    monkeypatch.setattr(libvirt_kvm, "_known", {})  # another process
    assert libvirt_kvm.kind_of(Host("qemu", "kvm"), local=True) == "kvm"
    kept = json.loads((home / "kvm.json").read_text())
    (home / "kvm.json").write_text(json.dumps({**kept, "key": "another boot"}))
    monkeypatch.setattr(libvirt_kvm, "_known", {})
    probes.append(libvirt_kvm.Probe(False, "hangs"))
    assert libvirt_kvm.kind_of(Host("qemu", "kvm"), local=True) == "qemu"
    assert probes == []


def test_a_broken_cache_is_no_answer(probes: list[libvirt_kvm.Probe], home: Path) -> None:
    libvirt_images.make_home()
    (home / "kvm.json").write_text("{")
    probes.append(libvirt_kvm.Probe(True, "works"))
    assert libvirt_kvm.probe(Host("kvm")).works


def test_where_libvirt_offers_no_kvm_it_is_not_tried(probes: list[libvirt_kvm.Probe]) -> None:
    assert libvirt_kvm.kind_of(Host("qemu"), local=True) == "qemu"
    assert libvirt_kvm.kind_of(Host("qemu"), local=False) == "qemu"
    assert libvirt_kvm.kind_of(Host("qemu", "kvm"), local=False) == "kvm"


@pytest.mark.parametrize("kind", ["kvm", "qemu"])
def test_the_setting_overrides_what_was_found(
    probes: list[libvirt_kvm.Probe], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("NFIO_LIBVIRT_DOMAIN", kind)
    assert libvirt_kvm.kind_of(Host("qemu"), local=True) == kind
    monkeypatch.setenv("NFIO_LIBVIRT_DOMAIN", "xen")
    with pytest.raises(InvalidValue):
        libvirt_kvm.kind_of(Host("qemu"), local=True)


# -- without libvirt-python -----------------------------------------------------------------


def test_without_libvirt_python_the_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypervisor import libvirt_connection, libvirt_library

    missing = libvirt_library._Missing()
    monkeypatch.setattr(libvirt_library, "libvirt", missing)
    monkeypatch.setattr(libvirt_library, "_loop", None)
    monkeypatch.setattr(libvirt_connection, "libvirt", missing)
    with pytest.raises(HypervisorUnreachable, match="pip install"):
        libvirt_connection.open_connection("qemu:///system", 1.0)
