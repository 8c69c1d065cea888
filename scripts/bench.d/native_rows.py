"""What is measured on Native, against what, and the bar of each."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench import COUNTER, Bench, Row, at_most, limit
from places import Reads, act, run, seconds

READY = "nfio: ready"
MANY = 500
STORE = Path("/var/lib/nfio/native")
NAMESPACE = "nfiobench"


def guest_of(instance: Path) -> Path:
    """The directory that Native keeps a deployed instance in."""
    uuid = (instance / "uuid").read_text().strip()
    for place in STORE.glob("guests/*/guest.json"):
        if json.loads(place.read_text())["uuid"] == uuid:
            return place.parent
    raise SystemExit(f"{instance} is not deployed")


@contextmanager
def namespace(bridge: str, address: str, gateway: str) -> Iterator[None]:
    """A network namespace made by hand, plugged into a bridge as a guest is."""
    outside = f"""\
netns add {NAMESPACE}
link add nfiobench0 type veth peer name eth0 netns {NAMESPACE}
link set nfiobench0 master {bridge} up
"""
    inside = f"""\
link set lo up
addr add {address}/16 dev eth0
link set eth0 up
route add default via {gateway}
"""
    try:
        run("ip", "-batch", "-", input=outside)
        run("ip", "-n", NAMESPACE, "-batch", "-", input=inside)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], capture_output=True, check=False)


class BareRunc:
    """`runc run -d` of the bundle of a guest that nfio made: the same root, limits and program."""

    def __init__(self, instance: Path, directory: Path) -> None:
        guest = guest_of(instance)
        made = json.loads((guest / "guest.json").read_text())
        self.network = json.loads((STORE / "network.json").read_text())
        self.address = f"{made['address'].rpartition('.')[0]}.250"
        self.bundle = directory
        config = json.loads((guest / "config.json").read_text())
        config["linux"]["cgroupsPath"] = "/nfio/bench"
        for space in config["linux"]["namespaces"]:
            if space["type"] == "network":
                space["path"] = f"/run/netns/{NAMESPACE}"
        for part in ("rootfs", "upper", "work"):
            (directory / part).mkdir(parents=True)
        (root,) = (mount for mount in config["mounts"] if mount["type"] == "overlay")
        root["options"] = [option.replace(f"{guest}/", f"{directory}/") for option in root["options"]]
        (directory / "config.json").write_text(json.dumps(config))

    def round(self) -> tuple[float, float, float]:
        """Seconds for the link, for runc, and from then on until it is ready."""
        log = self.bundle / "console"
        try:
            begun = time.perf_counter()
            with (
                namespace(self.network["bridge"], self.address, self.network["gateway"].partition("/")[0]),
                log.open("w") as output,
            ):
                linked = time.perf_counter()
                subprocess.run(
                    ["runc", "--root", "/run/nfio-bench", "run", "-d", "--bundle", str(self.bundle), "bench"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=True,
                )
                ran = time.perf_counter()
                while READY not in log.read_text():
                    time.sleep(0.001)
                ready = time.perf_counter()
        finally:
            subprocess.run(["runc", "--root", "/run/nfio-bench", "delete", "-f", "bench"], check=False)
        return linked - begun, ran - linked, ready - ran


def activate(bench: Bench) -> list[Row]:
    """`echo activate` on Native, on Docker by hand, and of the same bundle by runc alone."""
    instance = bench.native.make("firewall", "activate")
    act(instance, "activate")
    bare = BareRunc(instance, bench.directory / "bare")
    act(instance, "destroy")
    docker = ["docker", "run", "-d", "--name=nfio-bench", "--cap-drop=ALL", "--cap-add=NET_ADMIN"]
    docker += ["--security-opt=no-new-privileges", "--sysctl=net.ipv4.ip_forward=1"]
    docker += [
        f"--mount=type=bind,source={bench.firewall_config()},target=/etc/nfio,readonly",
        "nfio/firewall",
    ]
    ours: list[float] = []
    theirs: list[float] = []
    rounds: list[tuple[float, float, float]] = []
    for _ in range(bench.times(30, 10)):
        ours.append(seconds(lambda: act(instance, "activate")))
        act(instance, "destroy")
        try:
            theirs.append(seconds(lambda: run(*docker)))
        finally:
            subprocess.run(["docker", "rm", "-f", "nfio-bench"], capture_output=True, check=False)
        rounds.append(bare.round())
    mine, dockers = (statistics.median(values) * 1e3 for values in (ours, theirs))
    link, runc, ready = (statistics.median(values) * 1e3 for values in zip(*rounds, strict=True))
    faster = dockers / mine
    detail = (
        f"link by `ip -batch` {link:.0f} ms, runc {runc:.0f} ms, its program until it is ready {ready:.0f} ms"
    )
    what = "echo activate on Native, against docker run -d (times faster)"
    whole = link + runc + ready
    return [
        Row("native-activate", what, mine, dockers, "ms", faster, "≥ 4", faster >= 4),
        at_most(
            "native-activate", "  … against veth and runc run -d, until ready", mine, whole, "ms", 1.5, detail
        ),
        Row("native-activate", "  … against runc run -d alone", mine, runc, "ms", mine / runc),
    ]


def idle_mb(instance: Path) -> float:
    """Memory that a VNF takes: its control group's, and what its conmon shares with nobody or in part."""
    conmon = (guest_of(instance) / "conmon.pid").read_text()
    rollup = Path(f"/proc/{conmon}/smaps_rollup").read_text().splitlines()
    pss = int(next(line for line in rollup if line.startswith("Pss:")).split()[1]) * 1024
    return (pss + int((instance / "stats/memory_bytes").read_text())) / 1e6


def many(bench: Bench) -> list[Row]:
    """500 firewalls, one after the other; then what reading costs among them."""
    count = bench.times(MANY, 100)
    few = bench.native.make("firewall", "few")
    act(few, "activate")
    reads = {}
    spent = []
    for number in range(count):
        instance = bench.native.make("firewall", f"many{number:03}")
        spent.append(seconds(lambda instance=instance: act(instance, "activate")))  # type: ignore[misc]
        if number == 9:
            reads["few"] = Reads()
            for _ in range(bench.times(40, 8)):
                reads["few"].add(bench.peer.read(few / COUNTER, 500))
    reads["many"] = Reads()
    for _ in range(bench.times(40, 8)):
        reads["many"].add(bench.peer.read(few / COUNTER, 500))
    path = bench.native.path / "metrics" / "nfio.prom"
    text = path.read_text()
    up = sum(line.startswith("nfio_vnf_up") and line.endswith(" 1") for line in text.splitlines())
    if up < count or "nfio_scrape_errors 0" not in text:
        raise SystemExit(f"nfio.prom has {up} VNFs up, not {count}, or errors")
    scrapes = [seconds(path.read_bytes) * 1e3 for _ in range(bench.times(50, 10))]
    first, last = (statistics.median(part) * 1e3 for part in (spent[:50], spent[-50:]))
    memory = idle_mb(bench.native.path / "nf-types/firewall/many050")
    what = f"{count} Native firewalls: activating the last 50, against the first 50"
    detail = (
        f"{memory:.1f} MB of memory for one that idles; nfio itself has {bench.native.memory_mb():.0f} MB"
    )
    return [
        at_most("native-many", what, last, first, "ms", 1.3, detail),
        at_most(
            "native-many",
            f"{count} running: read of one rx_bytes, against 10 running",
            reads["many"].p50_us,
            reads["few"].p50_us,
            "µs",
            1.2,
        ),
        limit("native-many", f"{count} running: metrics/nfio.prom", statistics.median(scrapes), "ms", 50),
    ]


def throughput(bench: Bench) -> list[Row]:
    """iperf3 from this host to a server on the bridge, routed through a firewall or a namespace."""
    instance = bench.native.make("firewall", "through")
    act(instance, "activate")
    guest = guest_of(instance)
    network = json.loads((STORE / "network.json").read_text())
    gateway = network["gateway"].partition("/")[0]
    prefix = gateway.rpartition(".")[0]
    ours = (instance / "machine/vm.ip").read_text().strip()
    hand, server = f"{prefix}.251", f"{prefix}.252"
    made = ["nfiohand", "nfioserver"]
    try:
        for name, address in zip(made, (hand, server), strict=True):
            run("ip", "netns", "add", name)
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", name, "master", network["bridge"], "up")
            for words in ("link set lo up", f"addr add {address}/16 dev eth0", "link set eth0 up"):
                run("ip", "-n", name, *words.split())
            run("ip", "-n", name, "route", "add", "default", "via", gateway)
        run("ip", "netns", "exec", "nfiohand", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        rules = Path(json.loads((guest / "guest.json").read_text())["config_dir"])
        text = (rules / "nfio-ruleset.nft").read_text().replace("/etc/nfio/", f"{rules}/")
        run("ip", "netns", "exec", "nfiohand", "nft", "-f", "-", input=text)
        with subprocess.Popen(
            ["ip", "netns", "exec", "nfioserver", "iperf3", "-s"], stdout=subprocess.DEVNULL
        ) as process:
            try:
                figures = _transfers(bench, server, (ours, hand))
            finally:
                process.terminate()
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    mine, theirs = (statistics.median(values) for values in figures)
    what = "iperf3 through a Native firewall, against a namespace made by hand"
    return [
        Row("native-throughput", what, mine, theirs, "Gbit/s", mine / theirs, "≥ 0.97", mine / theirs >= 0.97)
    ]


def _transfers(bench: Bench, server: str, ways: tuple[str, str]) -> list[list[float]]:
    figures: list[list[float]] = [[], []]
    for _ in range(bench.times(8, 3)):
        for way, values in zip(ways, figures, strict=True):
            run("ip", "route", "replace", server, "via", way)
            try:
                deadline = time.monotonic() + 10
                while True:
                    with suppress(SystemExit):
                        report = json.loads(run("iperf3", "-J", "-t", "2", "-c", server))
                        break
                    if time.monotonic() > deadline:
                        raise SystemExit(f"no iperf3 answers at {server} through {way}")
                    time.sleep(0.2)
                values.append(report["end"]["sum_received"]["bits_per_second"] / 1e9)
            finally:
                run("ip", "route", "del", server)
    return figures


ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "native-activate": activate,
    "native-many": many,
    "native-throughput": throughput,
}
