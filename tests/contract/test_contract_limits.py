"""Limits of CPU and memory bind, while a guest runs too: seen from the kernel's own files."""

from __future__ import annotations

import time

import cgroup
import pytest
from engine import wait_until
from guests import HOST, Guests
from subjects import Subject

from hypervisor.hypervisor_base import PIDS_LIMIT, HypervisorBase, Phase, Resources
from hypervisor.hypervisor_return_codes import SUCCESS
from nfio.errors import NotSupported

MIB = 1 << 20


@pytest.mark.containers
def test_a_guest_has_no_limits_but_those_it_was_given(driver: HypervisorBase, guests: Guests) -> None:
    free = guests.pid(guests.run())
    assert (cgroup.vcpu_limit(free), cgroup.memory_limit(free)) == (None, None)
    bound = guests.pid(guests.limited(vcpu=0.5, memory_bytes=64 * MIB))
    assert (cgroup.vcpu_limit(bound), cgroup.memory_limit(bound)) == (0.5, 64 * MIB)


@pytest.mark.containers
def test_a_guest_has_a_limit_of_processes(driver: HypervisorBase, guests: Guests) -> None:
    assert cgroup.pids_limit(guests.pid(guests.run())) == PIDS_LIMIT


@pytest.mark.containers
def test_limits_change_while_a_guest_runs_and_can_be_taken_away(
    driver: HypervisorBase, guests: Guests
) -> None:
    vnf_id = guests.run()
    pid = guests.pid(vnf_id)
    for vcpu, memory in ((0.25, 64 * MIB), (1.5, 32 * MIB), (0.25, None), (None, 128 * MIB), (None, None)):
        assert driver.scale(HOST, vnf_id, Resources(vcpu, memory)) is SUCCESS
        assert (cgroup.vcpu_limit(pid), cgroup.memory_limit(pid)) == (vcpu, memory)
    assert guests.pid(vnf_id) == pid


@pytest.mark.containers
def test_limits_that_were_changed_hold_after_a_restart(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.limited(vcpu=1, memory_bytes=64 * MIB)
    driver.scale(HOST, vnf_id, Resources(0.5, None))
    driver.restart(HOST, vnf_id)
    pid = guests.pid(vnf_id)
    assert (cgroup.vcpu_limit(pid), cgroup.memory_limit(pid)) == (0.5, None)


@pytest.mark.containers
def test_limits_of_a_guest_that_does_not_run_hold_from_its_start(
    driver: HypervisorBase, guests: Guests
) -> None:
    vnf_id = guests.deploy()
    assert driver.scale(HOST, vnf_id, Resources(0.5, 64 * MIB)) is SUCCESS
    driver.start(HOST, vnf_id)
    pid = guests.pid(vnf_id)
    assert (cgroup.vcpu_limit(pid), cgroup.memory_limit(pid)) == (0.5, 64 * MIB)


def test_a_guest_that_takes_more_memory_than_it_has_is_killed_and_the_reason_says_so(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    vnf_id = guests.limited("eater", memory_bytes=subject.little_memory)
    assert driver.execute_in_guest(HOST, vnf_id, ["touch", "/eat"]).exit_code == 0
    status = wait_until(lambda: (s := driver.inspect(HOST, vnf_id)).phase is Phase.EXITED and s, 60)
    assert status.exit_code == 137
    assert "out of memory" in status.reason and "vm.memory" in status.reason


@pytest.mark.containers
def test_a_guest_that_was_killed_for_memory_has_no_such_reason_once_it_runs_again(
    driver: HypervisorBase, guests: Guests
) -> None:
    vnf_id = guests.limited("eater", memory_bytes=16 * MIB)
    driver.execute_in_guest(HOST, vnf_id, ["touch", "/eat"])
    wait_until(lambda: driver.inspect(HOST, vnf_id).phase is Phase.EXITED)
    driver.scale(HOST, vnf_id, Resources())
    driver.destroy(HOST, vnf_id)
    again = guests.limited("eater", memory_bytes=16 * MIB)
    assert (driver.inspect(HOST, again).phase, driver.inspect(HOST, again).reason) == (Phase.RUNNING, "")


@pytest.mark.containers
def test_a_busy_loop_takes_no_more_cpu_than_its_guest_has(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.limited(vcpu=0.2)
    loop = ["sh", "-c", "(while :; do :; done) </dev/null >/dev/null 2>&1 &"]
    assert driver.execute_in_guest(HOST, vnf_id, loop).exit_code == 0
    pid = guests.pid(vnf_id)
    wait_until(lambda: cgroup.cpu_seconds(pid) > 0.1, what="the loop runs")
    begun, before = time.monotonic(), cgroup.cpu_seconds(pid)
    wait_until(lambda: time.monotonic() - begun > 2, what="two seconds pass")
    share = (cgroup.cpu_seconds(pid) - before) / (time.monotonic() - begun)
    # The scheduler gives out CPU time in slices, and this machine may have none to spare.
    assert 0.1 < share < 0.3
    driver.scale(HOST, vnf_id, Resources())
    begun, before = time.monotonic(), cgroup.cpu_seconds(pid)
    wait_until(
        lambda: (cgroup.cpu_seconds(pid) - before) / (time.monotonic() - begun) > 0.3,
        what="the loop takes more without the limit",
    )


@pytest.mark.machines
def test_a_machine_has_the_memory_and_the_cpus_it_was_given_and_gives_memory_back(
    driver: HypervisorBase, guests: Guests
) -> None:
    vnf_id = guests.limited(vcpu=2, memory_bytes=256 * MIB)

    def inside(script: str) -> int:
        return int(driver.execute_in_guest(HOST, vnf_id, ["sh", "-c", script]).output)

    def total_mib() -> float:
        return inside("sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo") / 1024

    assert 180 < total_mib() <= 256
    assert inside("grep -c ^processor /proc/cpuinfo") == 2
    assert driver.scale(HOST, vnf_id, Resources(2, 160 * MIB)) is SUCCESS
    wait_until(lambda: total_mib() <= 160, 30, "the machine has given memory back")
    with pytest.raises(NotSupported, match="stop"):
        driver.scale(HOST, vnf_id, Resources(2, 1024 * MIB))
