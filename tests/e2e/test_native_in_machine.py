"""Native on a host of another kind than this one may be: on a machine of Libvirt's.

It has control groups of version 2, with which crun works too, and a kernel with netem.
"""

from __future__ import annotations

import base64
import http.server
import importlib.metadata
import re
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from engine import wait_until
from engine_view import EngineView
from mount import Vnf, mounted
from stock import build

pytestmark = pytest.mark.engines("Libvirt")

PROJECT = Path(__file__).parents[2]
TYPES = PROJECT / "tests/types"
STEP_S = 280
MIB = 1 << 20

PREPARE = """\
mkdir -p /opt/nfio /mnt/nfio
wget -q -O - http://{server}/nfio.tar | tar x -C /opt/nfio
modprobe -a fuse overlay veth bridge nf_tables
mount -t cgroup2 none /sys/fs/cgroup
"""

ENVIRONMENT = """\
cd /opt/nfio
export PYTHONPATH=/opt/nfio FUSE_LIBRARY_PATH=/lib/x86_64-linux-gnu/libfuse.so.2 NFIO_NATIVE_RUNTIME={runtime}
nfio() {{ (cd /opt/nfio && python3 -m nfio "$@"); }}
say() {{ echo "$1=$(shift; "$@" 2>&1 | tr '\\n' ' ')"; }}
define() {{
    nfio mount /var/lib/nfio/root /mnt/nfio --hypervisor Native
    instance=/mnt/nfio/nf-types/$1/it
    mkdir $instance
    cd $instance
    echo host > machine/vm.image
}}
remove() {{
    echo destroy > action
    cd /
    rmdir $instance
    nfio umount /mnt/nfio
    say trouble grep -E "ERROR nfio|Traceback" /var/lib/nfio/root/.nfio/nfio.log
    rm -rf /var/lib/nfio/root
}}
"""

# The function's programs are the machine's own: vm.image is `host`.
BEGIN = """\
define firewall
echo 64M > machine/vm.memory
echo 0.5 > machine/vm.vcpu
echo activate > action
say activated cat state error
say runtime sh -c 'tr "\\0" " " < /proc/$(cat /var/lib/nfio/native/guests/*/conmon.pid)/cmdline'
group=/sys/fs/cgroup/nfio/$(ls /var/lib/nfio/native/guests)
say limits cat $group/memory.max $group/memory.swap.max $group/cpu.max $group/pids.max
echo pause > action
say paused cat state $group/cgroup.freeze
echo resume > action
echo > machine/vm.vcpu
echo 96M > machine/vm.memory
say scaled cat $group/memory.max $group/cpu.max
"""
CHANGES = """\
ping -q -c 5 -i 0.2 $(cat machine/vm.ip) > /dev/null
say received cat stats/rx_packets
say memory cat stats/memory_bytes
say current cat $group/memory.current
echo 1 > $group/cgroup.freeze
sleep 2
say frozen cat state
echo 0 > $group/cgroup.freeze
sleep 2
say thawed cat state
echo 'dd if=/dev/zero of=/dev/null bs=150M count=1' > command
say eaten cat command state
echo 'table inet filter { chain input { type filter hook input priority 0; icmp type echo-request drop; }; }' > config/nf_conf
echo reload > action
ping -q -c 5 -i 0.2 -W 1 $(cat machine/vm.ip) > /dev/null
say dropped cat stats/pkt_drops
first=$(cat /var/lib/nfio/native/guests/*/pid)
cd /
nfio umount /mnt/nfio
nfio mount /var/lib/nfio/root /mnt/nfio
cd $instance
say adopted cat state
[ $first = $(cat /var/lib/nfio/native/guests/*/pid) ] && say same echo yes
kill -9 $first
sleep 2
say killed cat state error
echo RUNNING > state
say back cat state
"""
END = """\
echo stop > action
echo start > action
say started cat state
remove
say left sh -c 'find /sys/fs/cgroup/nfio -mindepth 1 -type d; ls /sys/class/net; nft list tables'
"""
SHAPER = """\
define shaper
echo activate > action
say activated cat state error
pings() { ping -q -i 0.02 -W 2 "$@" $(cat machine/vm.ip); }
# The machine is slow while much else runs here: what took too long is tried again.
turn() { for attempt in 1 2 3 4 5; do echo "$1" > $2 && return; cat error; done; }
ping -q -c 2 $(cat machine/vm.ip) > /dev/null
turn 200ms delay
say delayed pings -c 10
turn '' delay
turn 100% loss
say lost pings -c 5
turn 40% loss
say halved pings -c 100
echo 101% > loss
say refused cat error loss
turn '' loss
say free pings -c 10
remove
"""


def add_needed(name: str, known: set[str]) -> None:
    """Add a distribution and those that it needs, as far as they are here."""
    if name in known:
        return
    try:
        needed = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        return
    known.add(name)
    for line in needed:
        if "extra ==" not in line:
            add_needed(re.split(r"[^\w.-]", line)[0], known)


def pack(place: Path) -> None:
    """nfio and what it imports, as they are here."""
    known: set[str] = set()
    add_needed("nfio", known)
    with tarfile.open(place, "w") as archive:
        for part in ("nfio", "hypervisor", "middleboxes"):
            archive.add(PROJECT / part, part)
        for name in sorted(known - {"nfio"}):
            for file in importlib.metadata.files(name) or ():
                if ".." not in file.parts and Path(str(file.locate())).exists():
                    archive.add(str(file.locate()), str(file))


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(directory: Path, address: str) -> Iterator[str]:
    """A directory by HTTP; yields where."""
    handler = partial(Files, directory=str(directory))
    server = http.server.ThreadingHTTPServer((address, 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{address}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(machine: Vnf, script: str) -> str:
    """Output of a shell script in a machine, which may take longer than a command may."""
    text = base64.b64encode(script.encode()).decode()
    done = "/run/script.done"
    machine.write("command", f"rm -f {done}; echo {text} | base64 -d > /run/script")
    machine.write(
        "command",
        f"(setsid sh /run/script > /run/script.out 2>&1; touch {done}) > /dev/null 2>&1 < /dev/null &",
    )

    def output() -> str | None:
        machine.write("command", f"cat /run/script.out; [ ! -e {done} ] || echo script-done")
        return machine.read("command")

    wait_until(lambda: "script-done" in (output() or ""), STEP_S, "the script has ended")
    return (output() or "").replace("script-done\n", "")


@pytest.fixture(scope="module")
def machine(view: EngineView) -> Iterator[Vnf]:
    """A running machine with nfio in it."""
    build(view.probe, ("host",), "--module-root", str(TYPES))
    view.stock()
    with mounted(view, "--module-root", str(TYPES)) as nfio, tempfile.TemporaryDirectory() as place:
        made = nfio.make("host", "h0")
        made.write("machine/vm.memory", "1G\n")
        made.write("machine/vm.vcpu", "2\n")
        made.act("activate")
        pack(Path(place) / "nfio.tar")
        made.write("command", "ip route show default\n")
        gateway = made.read("command").split()[2]
        with served(Path(place), gateway) as server:
            said = run(made, PREPARE.format(server=server))
        assert said == "", said
        yield made
        made.write("state", "DEFINED\n")


def live(machine: Vnf, runtime: str, *parts: str) -> dict[str, str]:
    """What a VNF's life says at each step."""
    said = run(machine, "".join((ENVIRONMENT.format(runtime=runtime), *parts)))
    lines = (line.split("=", 1) for line in said.splitlines() if re.match(r"\w+=", line))
    found = {name: value.strip() for name, value in lines} | {"all": said}
    assert (found["activated"], found["trouble"]) == ("RUNNING", ""), said
    return found


def check_limits(found: dict[str, str], runtime: str) -> None:
    """The kernel has them as they were written."""
    assert f"/{runtime} " in found["runtime"]
    assert found["limits"] == f"{64 * MIB} 0 50000 100000 4096"
    assert found["paused"] == "PAUSED 1"
    assert found["scaled"] == f"{96 * MIB} max 100000"
    assert (found["started"], found["left"]) == ("RUNNING", "eth0 lo")


def test_the_life_of_a_vnf_of_crun_on_control_groups_of_version_2(machine: Vnf) -> None:
    found = live(machine, "crun", BEGIN, CHANGES, END)
    check_limits(found, "crun")
    assert int(found["received"]) >= 5
    assert 0 < int(found["memory"]) < 64 * MIB and abs(int(found["memory"]) - int(found["current"])) < MIB
    assert (found["frozen"], found["thawed"]) == ("PAUSED", "RUNNING")
    assert "Killed" in found["eaten"] and found["eaten"].endswith("RUNNING")
    assert found["dropped"] == "5"
    assert (found["adopted"], found["same"]) == ("RUNNING", "yes")
    assert found["killed"].startswith("ERROR it ended with exit code 137")
    assert found["back"] == "RUNNING"


def test_runc_keeps_to_control_groups_of_version_2_too(machine: Vnf) -> None:
    check_limits(live(machine, "runc", BEGIN, END), "runc")


def test_a_shaper_delays_and_loses_where_the_kernel_has_netem(machine: Vnf) -> None:
    found = live(machine, "runc", SHAPER)

    def loss(step: str) -> int:
        """Percent of the packets."""
        return int(re.search(r"(\d+)% packet loss", found[step])[1])  # type: ignore[index]

    def fastest_ms(step: str) -> float:
        return float(re.search(r"= ([\d.]+)/", found[step])[1])  # type: ignore[index]

    assert loss("delayed") == loss("free") == 0, found["all"]
    assert fastest_ms("delayed") >= 200 > fastest_ms("free"), found["all"]
    assert loss("lost") == 100
    assert 20 <= loss("halved") <= 60  # four standard deviations
    assert found["refused"].endswith("40%") and "101%" in found["refused"]
