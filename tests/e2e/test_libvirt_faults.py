"""What users see while libvirtd is killed or stopped under machines that run, and afterwards."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engine import wait_until
from engine_view import EngineView
from faults import look_around
from inside import MountInside
from libvirt_host import OwnLibvirt
from mount import Vnf, errno_of, is_gone, seconds
from probes import need

pytestmark = pytest.mark.engines("Libvirt")

NOTICED_S = 15
BACK_S = 15


@pytest.fixture
def host(stocked: EngineView, directory: Path) -> Iterator[OwnLibvirt]:
    need("libvirt", shutil.which("virtlogd") is not None, "virtlogd is not installed")
    with OwnLibvirt(directory) as made:
        yield made


@pytest.fixture
def nfio(stocked: EngineView, host: OwnLibvirt, directory: Path) -> Iterator[MountInside]:
    made = MountInside(directory, stocked, host)
    made.mount()
    yield made
    made.close()


def pings(host: OwnLibvirt, address: str) -> bool:
    return ", 0% packet loss" in host.run("ping", "-q", "-c", "3", "-i", "0.1", address, check=False)


def is_back(vnf: Vnf) -> bool:
    return errno_of(lambda: vnf.read("state")) == ""


def test_machines_go_on_while_libvirtd_is_killed_and_are_seen_again(
    nfio: MountInside, host: OwnLibvirt
) -> None:
    survivor, victim = nfio.make("firewall", "survivor"), nfio.make("firewall", "victim")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda vnf: vnf.act("activate"), (survivor, victim)))
    assert (survivor.state, victim.state) == ("RUNNING", "RUNNING")
    pids = {vnf: host.pid(vnf.value("uuid")) for vnf in (survivor, victim)}
    address, served_by = survivor.address, nfio.pid

    for how in (signal.SIGTERM, signal.SIGKILL):
        host.end_libvirtd(how)
        wait_until(lambda: errno_of(lambda: survivor.read("state")) == "EHOSTUNREACH", NOTICED_S)
        before = survivor.number("stats/rx_packets")
        assert pings(host, address)
        assert survivor.number("stats/rx_packets") >= before + 3
        assert seconds(lambda: look_around(nfio, survivor)) < 1
        for word in ("stop", "pause", "destroy"):
            assert errno_of(lambda word=word: survivor.act(word)) == "EHOSTUNREACH"
            assert "cannot be reached" in survivor.error
        if how is signal.SIGKILL:
            os.kill(pids[victim], signal.SIGKILL)
            down = lambda: errno_of(lambda: victim.read("stats/rx_bytes")) == "ENETDOWN"  # noqa: E731
            wait_until(down, 0.5, "its end is seen")
        host.start_libvirtd()
        wait_until(lambda: is_back(survivor), BACK_S, "libvirtd is seen again")
        assert (survivor.state, survivor.status, survivor.address) == ("RUNNING", "running", address)
        assert host.pid(survivor.value("uuid")) == pids[survivor]

    assert victim.state == "ERROR" and victim.error
    survivor.write("command", "echo still here\n")
    assert survivor.read("command") == "still here\n"
    survivor.act("stop")
    assert (survivor.state, survivor.error) == ("CONFIGURED", "")
    assert is_gone(pids[survivor])
    for vnf in (survivor, victim):
        vnf.path.rmdir()
    assert host.guests() == [] and nfio.pid == served_by
