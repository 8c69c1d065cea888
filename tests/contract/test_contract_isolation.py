"""What a guest may do, and what it sees: read from the kernel, not from the engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from guests import HOST, Guests
from subjects import Subject

from hypervisor.hypervisor_base import CONFIG_DIR, HypervisorBase

#: linux/capability.h
CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13, "NET_BIND_SERVICE": 10}

SYSCTL = "net.ipv4.ip_unprivileged_port_start"
SYSCTL_HERE = Path(f"/proc/sys/{SYSCTL.replace('.', '/')}")


def of_process(pid: int, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:"))


@pytest.mark.containers
@pytest.mark.parametrize("names", [(), ("NET_ADMIN",), ("NET_ADMIN", "NET_RAW")], ids=str)
def test_a_guest_has_the_declared_capabilities_and_no_others(guests: Guests, names: tuple[str, ...]) -> None:
    pid = guests.pid(guests.run(capabilities=names))
    wanted = sum(1 << CAPABILITIES[name] for name in names)
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert int(of_process(pid, kind), 16) == wanted, kind


@pytest.mark.containers
def test_commands_in_a_guest_have_no_more_than_the_guest(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.run(capabilities=("NET_ADMIN",))
    text = driver.execute_in_guest(HOST, vnf_id, ["cat", "/proc/self/status"]).output.decode()
    found = dict(line.split(":", 1) for line in text.splitlines())
    assert int(found["CapBnd"], 16) == 1 << CAPABILITIES["NET_ADMIN"]
    assert int(found["NoNewPrivs"]) == 1


@pytest.mark.containers
def test_a_guest_is_never_privileged_and_gains_no_privileges(subject: Subject, guests: Guests) -> None:
    vnf_id = guests.run(capabilities=("NET_ADMIN",))
    assert not subject.is_privileged(vnf_id)
    pid = guests.pid(vnf_id)
    assert of_process(pid, "NoNewPrivs") == "1"
    assert of_process(pid, "Seccomp") == "2"
    for kind in ("net", "pid", "mnt", "ipc"):
        assert Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()


@pytest.mark.containers
def test_a_guest_runs_as_the_user_that_its_type_names(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.run(user=33)
    pid = guests.pid(vnf_id)
    assert set(of_process(pid, "Uid").split()) == {"33"}
    assert int(of_process(pid, "CapEff"), 16) == 0
    assert driver.execute_in_guest(HOST, vnf_id, ["id", "-u"]).output == b"33\n"


@dataclass
class Dressed:
    """A guest with a sysctl and a configuration. On a machine its function runs as a user."""

    vnf_id: str
    config: Path
    sysctl_before: str


@pytest.fixture(scope="module")
def dressed(subject: Subject, driver: HypervisorBase) -> Iterator[Dressed]:
    guests = Guests(subject, driver)
    with tempfile.TemporaryDirectory(prefix="nfio-") as place:
        config = Path(place)
        config.chmod(0o755)
        (config / "nf_conf").write_text("first\n")
        before = SYSCTL_HERE.read_text()
        user = None if subject.shares_kernel else 33  # in a container commands have its user's rights
        vnf_id = guests.run(sysctls={SYSCTL: "79"}, config_dir=config, user=user)
        yield Dressed(vnf_id, config, before)
        guests.remove()


def test_sysctls_are_set_in_the_guest_alone(driver: HypervisorBase, dressed: Dressed) -> None:
    assert driver.execute_in_guest(HOST, dressed.vnf_id, ["sysctl", "-n", SYSCTL]).output == b"79\n"
    assert SYSCTL_HERE.read_text() == dressed.sysctl_before


def test_a_guest_sees_its_configuration_as_it_changes_and_cannot_write_it(
    driver: HypervisorBase, dressed: Dressed
) -> None:
    vnf_id, directory = dressed.vnf_id, dressed.config

    def seen() -> bytes:
        return driver.execute_in_guest(HOST, vnf_id, ["cat", f"{CONFIG_DIR}/nf_conf"]).output

    assert seen() == b"first\n"
    (directory / "draft").write_text("second\n")
    (directory / "draft").rename(directory / "nf_conf")
    driver.push_config(HOST, vnf_id, directory)
    assert seen() == b"second\n"
    for command in (f"echo third > {CONFIG_DIR}/nf_conf", f"touch {CONFIG_DIR}/new"):
        assert driver.execute_in_guest(HOST, vnf_id, ["sh", "-c", command]).exit_code != 0
    assert sorted(path.name for path in directory.iterdir()) == ["nf_conf"]
    assert (directory / "nf_conf").read_text() == "second\n"


def test_a_guest_without_configuration_has_nothing_of_the_host(driver: HypervisorBase, shared: str) -> None:
    assert driver.execute_in_guest(HOST, shared, ["test", "-e", f"{CONFIG_DIR}/nf_conf"]).exit_code == 1


@pytest.mark.machines
def test_a_machine_is_emulated_without_the_hosts_rights(
    driver: HypervisorBase, subject: Subject, dressed: Dressed
) -> None:
    assert not subject.is_privileged(dressed.vnf_id)
    script = "for p in /proc/[0-9]*; do grep -qs started $p/cmdline && sed -n 's/^Uid://p' $p/status; done"
    found = driver.execute_in_guest(HOST, dressed.vnf_id, ["sh", "-c", script]).output.decode().split()
    assert "33" in found
