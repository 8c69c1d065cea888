"""What is measured on Docker, against what, and the bar of each."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable

from bench import COUNTER, GUEST_COUNTER, Bench, Row, at_most, limit
from places import Reads, on_one_cpu, run, seconds


def read_against_c(bench: Bench) -> list[Row]:
    counter = bench.small.instance(0) / COUNTER
    ours, deep, flat = bench.alternate(counter, bench.peer.deep, bench.peer.flat)
    what = "open+read+close of rx_bytes, against C on libfuse"
    rows = [
        at_most("read", what, ours.p50_us, deep.p50_us, "µs", 2.5, f"ours: {ours.split}; C: {deep.split}"),
        Row("read", "  … a C file at its root", ours.p50_us, flat.p50_us, "µs", ours.p50_us / flat.p50_us),
    ]
    with on_one_cpu(bench.small.pid, bench.peer.pid) as cpu:
        ours, deep = bench.alternate(counter, bench.peer.deep, cpu=cpu)
    detail = f"no wake-ups of another CPU; ours: {ours.split}; C: {deep.split}"
    ratio = ours.p50_us / deep.p50_us
    rows.append(Row("read", "  … all on one CPU", ours.p50_us, deep.p50_us, "µs", ratio, detail=detail))
    return rows


def read_against_exec(bench: Bench) -> list[Row]:
    container = bench.small.container(0)["Id"]
    ours, execs = Reads(), []
    for _ in range(bench.times(20, 5)):
        ours.add(bench.peer.read(bench.small.instance(0) / COUNTER, 500))
        execs.append(seconds(lambda: run("docker", "exec", container, "cat", GUEST_COUNTER)))
    exec_us = statistics.median(execs) * 1e6
    ratio = exec_us / ours.p50_us
    what = "the same, against docker exec … cat (times faster)"
    return [Row("exec", what, ours.p50_us, exec_us, "µs", ratio, "≥ 200", ratio >= 200)]


def read_with_1000(bench: Bench) -> list[Row]:
    many, few = bench.alternate(bench.large.instance(0) / COUNTER, bench.small.instance(0) / COUNTER)
    what = "the same, 1,000 instances against 10"
    return [at_most("read-1000", what, many.p50_us, few.p50_us, "µs", 1.2)]


def activate(bench: Bench) -> list[Row]:
    """`echo activate` against `docker run -d` with everything that nfio gives its container."""
    number = 2  # a firewall that does not run
    instance = bench.small.instance(number)
    (instance / "machine/vm.memory").write_text("64M\n")
    (instance / "machine/vm.vcpu").write_text("0.5\n")
    (instance / "action").write_text("activate\n")
    made = bench.small.container(number)
    host = made["HostConfig"]
    command = ["docker", "run", "-d", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    command += [f"--cap-add={name}" for name in host["CapAdd"] or ()]
    command += [
        f"--mount=type=bind,source={mount['Source']},target={mount['Target']},readonly"
        for mount in host["Mounts"]
    ]
    command += [f"--memory={host['Memory']}", f"--memory-swap={host['MemorySwap']}"]
    command += [f"--cpu-period={host['CpuPeriod']}", f"--cpu-quota={host['CpuQuota']}"]
    command += [f"--sysctl={key}={value}" for key, value in (host["Sysctls"] or {}).items()]
    # As many labels, but not of this root: nfio clears away what is of its root and not defined.
    labels = {**made["Config"]["Labels"], "io.nfio.root": "bench"}
    command += [f"--label={key}={value}" for key, value in labels.items()]
    command += ["--name=nfio-bench", made["Config"]["Image"]]
    ours, theirs = [], []
    (instance / "action").write_text("destroy\n")
    for _ in range(bench.times(16, 8)):
        ours.append(seconds(lambda: run("sh", "-c", 'echo activate > "$1"', "sh", str(instance / "action"))))
        (instance / "action").write_text("destroy\n")
        # destroy cleared nothing of the configuration that both are given
        try:
            theirs.append(seconds(lambda: run(*command)))
        finally:
            subprocess.run(["docker", "rm", "-f", "nfio-bench"], capture_output=True, check=False)
    detail = "nfio's returns once the firewall has said that its rules are in force"
    medians = [statistics.median(values) * 1e3 for values in (ours, theirs)]
    return [at_most("activate", "echo activate, against docker run -d", *medians, "ms", 1.15, detail)]


def make_directories(bench: Bench) -> list[Row]:
    medians = []
    spent: list[list[float]] = [[], []]
    places = [(bench.large, 999), (bench.small, 9)]
    for mounted, number in places:
        mounted.instance(number).rmdir()
    for _ in range(bench.times(300, 60)):
        for (mounted, number), durations in zip(places, spent, strict=True):
            durations.append(seconds(mounted.instance(number).mkdir))
            mounted.instance(number).rmdir()
    for mounted, number in places:
        mounted.instance(number).mkdir()
    medians = [statistics.median(durations) * 1e3 for durations in spent]
    return [at_most("mkdir", "mkdir of the 1,000th instance, against the 10th", *medians, "ms", 1.2)]


def mount_1000(bench: Bench) -> list[Row]:
    large = bench.large
    spent = []
    for _ in range(bench.times(5, 3)):
        large.umount()
        spent.append(seconds(large.mount))
        os.listdir(large.path / "nf-types" / "web")
    run("find", str(large.path), "-ls")
    return [
        limit("mount", "nfio mount until ready, 1,000 instances", statistics.median(spent), "s", 1),
        limit("mount", "memory of the process, after find over all of it", large.memory_mb(), "MB", 100),
    ]


def prometheus(bench: Bench) -> list[Row]:
    bench.large.start(10)
    path = bench.large.path / "metrics" / "nfio.prom"
    text = path.read_text()
    up = sum(line.startswith("nfio_vnf_up") and line.endswith(" 1") for line in text.splitlines())
    known = sum(line.startswith("nfio_vnf_state{") for line in text.splitlines())
    if (up, known) != (10, 1000) or "nfio_scrape_errors 0" not in text:
        raise SystemExit(f"nfio.prom has {up} of {known} VNFs up, not 10 of 1,000, or errors")
    spent = [seconds(path.read_bytes) * 1e3 for _ in range(bench.times(100, 30))]
    what = "metrics/nfio.prom, 10 running among 1,000 defined"
    detail = f"p90 {statistics.quantiles(spent, n=10)[-1]:.1f} ms, {len(text) >> 10} KiB"
    return [limit("prom", what, statistics.median(spent), "ms", 10, detail)]


def counters(bench: Bench) -> list[Row]:
    """After 10,000 packets: nfio's counters and the VNF's own /proc/net/dev."""
    instance = bench.small.instance(0)
    container = bench.small.container(0)["Id"]
    packets = 10_000
    run("ping", "-q", "-f", "-c", str(packets), "-s", "500", (instance / "machine/vm.ip").read_text().strip())
    names = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets")

    def difference() -> int:
        text = run("docker", "exec", container, "cat", "/proc/net/dev")
        columns = next(line.split(":")[1].split() for line in text.splitlines() if "eth0:" in line)
        witness = [int(columns[i]) for i in (0, 1, 8, 9)]
        ours = [int((instance / "stats" / name).read_text()) for name in names]
        return sum(abs(a - b) for a, b in zip(ours, witness, strict=True))

    # The bridge's own neighbour discovery may come between the two looks: the best of several.
    found = min(difference() for _ in range(10))
    counted = int((instance / "stats" / "rx_packets").read_text())
    what = "counters off from the VNF's own, after 10,000 packets"
    ok = found == 0 and counted >= packets
    return [Row("counters", what, found, 0, "bytes", 0, "= 0", ok, f"{counted} packets received", True)]


ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "read": read_against_c,
    "exec": read_against_exec,
    "read-1000": read_with_1000,
    "activate": activate,
    "mkdir": make_directories,
    "mount": mount_1000,
    "prom": prometheus,
    "counters": counters,
}
