"""Machines on another host: a libvirtd that only ssh leads to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import wait_until
from engine_view import EngineView
from libvirt_host import LibvirtHost
from mount import Mount, Vnf, errno_of, seconds
from probes import need

pytestmark = [pytest.mark.libvirt, pytest.mark.engines("Libvirt")]

GONE = ("EHOSTUNREACH", "ETIMEDOUT")
IN_TIME_S = 20


@pytest.fixture(scope="module")
def host(stocked: EngineView) -> Iterator[LibvirtHost]:
    need("libvirt", shutil.which("sshd") is not None, "openssh-server is not installed")
    need("libvirt", shutil.which("ssh") is not None, "openssh-client is not installed")
    with tempfile.TemporaryDirectory(prefix="nfio-") as place, LibvirtHost(Path(place)) as made:
        yield made


@pytest.fixture
def nfio(stocked: EngineView, host: LibvirtHost, directory: Path) -> Iterator[Mount]:
    made = Mount(directory, stocked, variables=host.variables)
    made.mount()
    yield made
    made.close()


def place(nfio: Mount, kind: str, name: str, address: str) -> Vnf:
    """Define a VNF on another host."""
    vnf = nfio.make(kind, name)
    vnf.write("machine/ip", f"{address}\n")
    return vnf


def copies(host: LibvirtHost) -> dict[str, int]:
    """Disks of images on the other host: their names, and the numbers of their files."""
    return {
        name: int(host.run("stat", "-c", "%i", path))
        for name, path in host.volumes().items()
        if name.startswith("image.") and name.endswith(".qcow2")
    }


def get(host: LibvirtHost, vnf: Vnf) -> str:
    return host.run("curl", "-s", "-m", "5", f"http://{vnf.address}/", check=False)


def test_the_life_of_a_machine_on_another_host(nfio: Mount, host: LibvirtHost) -> None:
    web = place(nfio, "web", "www", host.address)

    # An image for which there is no room leaves nothing there, and the next try goes through.
    host.run("mount", "-o", "remount,size=60m", "/var/lib/nfio")
    assert errno_of(lambda: web.act("deploy")) == "EIO"
    assert "No space left" in web.error
    assert (web.state, host.volumes(), host.guests()) == ("DEFINED", {}, [])
    host.run("mount", "-o", "remount,size=2g", "/var/lib/nfio")

    web.act("activate")
    assert (web.state, web.status, web.error) == ("RUNNING", "running", "")
    (guest,) = host.guests()
    assert guest == web.value("uuid") and nfio.guests() == []
    sent = copies(host)
    assert len(sent) == 1
    assert "nfio: ready" in web.read("log")
    assert "nfio web" in get(host, web)
    before = web.number("stats/rx_packets")
    for _ in range(5):
        get(host, web)
    wait_until(lambda: web.number("stats/rx_packets") >= before + 20, 5, "what it received is counted")
    assert web.number("stats/tx_bytes") > 0 and web.number("stats/memory_bytes") > 0
    with (web.path / "command").open("r+b", buffering=0) as file:
        file.write(b"cat /proc/sys/kernel/hostname\n")
        assert file.read(100) == b"www\n"
    changed = web.read("config/nf_conf").replace("root /var/www/html;", "return 200 another;")
    web.write("config/nf_conf", changed)
    web.act("reload")
    assert "another" in get(host, web)
    web.write("machine/vm.memory", "128M\n")
    wait_until(lambda: f"{128 << 10} KiB" in host.virsh("dominfo", guest), 10, "its balloon is blown up")
    web.act("pause")
    assert (web.state, host.virsh("domstate", guest)) == ("PAUSED", "paused")
    web.act("resume")

    # A mount after a crash adopts it; the second machine of an image takes the copy that is there.
    nfio.kill()
    nfio.mount()
    assert web.state == "RUNNING" and host.guests() == [guest]
    other = place(nfio, "web", "other", host.address)
    assert seconds(lambda: other.act("deploy")) < 5
    assert other.state == "CONFIGURED" and copies(host) == sent
    other.path.rmdir()

    web.act("stop")
    assert (web.state, web.status, web.error) == ("CONFIGURED", "shut off", "")
    assert errno_of(lambda: web.read("stats/rx_bytes")) == "ENETDOWN"
    web.act("start")
    assert "another" in get(host, web)
    assert web.read("log").count("nfio: ready") == 2

    # A cable that is cut is noticed, holds nobody up, and changes nothing.
    here = nfio.make("web", "here")
    host.cut()
    wait_until(lambda: errno_of(lambda: web.read("state")) in GONE, IN_TIME_S, "it is noticed")
    assert seconds(lambda: here.write("machine/vm.memory", "128M\n")) < 1
    number: list[str] = []
    assert seconds(lambda: number.append(errno_of(lambda: web.act("stop")))) < IN_TIME_S
    assert number[0] in GONE
    host.mend()
    wait_until(lambda: errno_of(lambda: web.read("state")) == "", IN_TIME_S, "it is seen again")
    host.virsh("destroy", guest)
    wait_until(lambda: web.state == "ERROR", IN_TIME_S, "events are followed")
    web.path.rmdir()
    assert host.guests() == [] and not [name for name in host.volumes() if guest in name]
    assert copies(host) == sent


def test_a_host_that_nobody_answers_for_is_unreachable(nfio: Mount, host: LibvirtHost) -> None:
    web = place(nfio, "web", "www", "127.0.0.9")
    assert errno_of(lambda: web.act("activate")) == "EHOSTUNREACH"
    assert "127.0.0.9" in web.error and web.state == "DEFINED"
