"""What monitors read: metrics in Prometheus' text format, and the table of `nfio top`."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import wait_until
from mount import Mount, Vnf, errno_of
from probes import need
from prometheus_client.parser import text_string_to_metric_families

EXPORTER = "prometheus-node-exporter"

#: sample name, the file that says the same
FILES = {
    "nfio_vnf_receive_bytes_total": "stats/rx_bytes",
    "nfio_vnf_transmit_bytes_total": "stats/tx_bytes",
    "nfio_vnf_receive_packets_total": "stats/rx_packets",
    "nfio_vnf_transmit_packets_total": "stats/tx_packets",
    "nfio_vnf_dropped_packets_total": "stats/pkt_drops",
    "nfio_vnf_cpu_seconds_total": "stats/cpu_seconds",
    "nfio_vnf_memory_bytes": "stats/memory_bytes",
}

Samples = dict[tuple[str, str, str], float]


def samples_of(text: str) -> Samples:
    """Values of VNFs by metric, type and instance, from the text format."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation or not family.name.startswith("nfio_"), family.name
        for sample in family.samples:
            assert sample.timestamp is None, sample
            if sample.name.startswith("nfio_vnf_"):
                key = (sample.name, sample.labels["type"], sample.labels["instance"])
                assert key not in found
                found[key] = sample.value
    return found


@pytest.fixture
def nfio(shared: Mount) -> Mount:
    """These tests leave nothing behind that could disturb the next one."""
    return shared


@pytest.fixture
def vnfs(nfio: Mount) -> dict[str, Vnf]:
    """Three that run, one that is paused, one that is stopped, one that is only defined."""
    made = {}
    for kind, name, state in (
        ("firewall", "fw0", "RUNNING"),
        ("firewall", "same.name", "RUNNING"),
        ("web", "same.name", "RUNNING"),
        ("web", "paused", "PAUSED"),
        ("web", "stopped", "CONFIGURED"),
        ("web", f"defined.{'x' * 55}", "DEFINED"),
    ):
        vnf = nfio.make(kind, name)
        if state != "DEFINED":
            vnf.write("state", f"{state}\n")
        made[f"{kind}/{name}"] = vnf
    for _ in range(3):
        with urllib.request.urlopen(f"http://{made['web/same.name'].address}/", timeout=5) as answer:
            answer.read()
    return made


def files_say(vnfs: dict[str, Vnf]) -> Samples:
    """The same values as `samples_of`, read one by one."""
    found: Samples = {}
    for label, vnf in vnfs.items():
        kind, name = label.split("/")
        up = vnf.state == "RUNNING"
        found["nfio_vnf_up", kind, name] = float(up)
        states = {"DEFINED": 1, "CONFIGURED": 3, "RUNNING": 4, "PAUSED": 5}
        found["nfio_vnf_state", kind, name] = states[vnf.state]
        if up:
            for metric, file in FILES.items():
                found[metric, kind, name] = vnf.number(file)
    return found


def agree(metrics: Callable[[], str], vnfs: dict[str, Vnf]) -> bool:
    """Whether both views say the same, where neither has moved on while the other was read."""
    before, now, after = files_say(vnfs), samples_of(metrics()), files_say(vnfs)
    assert now.keys() == before.keys() == after.keys()
    moving = ("nfio_vnf_cpu_seconds_total", "nfio_vnf_memory_bytes")
    for key in now:
        if key[0] == "nfio_vnf_memory_bytes":
            # A gauge, which its own reading can move by some pages.
            assert abs(now[key] - before[key]) <= 4 << 20, key
        elif key[0] == "nfio_vnf_cpu_seconds_total":
            # The file has whole seconds, the metric its fraction.
            assert before[key] <= now[key] < after[key] + 1, key
    return all(before[key] == now[key] == after[key] for key in now if key[0] not in moving)


def test_metrics_are_valid_and_say_what_the_files_say(nfio: Mount, vnfs: dict[str, Vnf]) -> None:
    path = nfio.path / "metrics/nfio.prom"
    text = path.read_text()
    assert text.isascii() and text.endswith("\n")
    for keyword in ("HELP", "TYPE"):
        names = re.findall(rf"^# {keyword} (\S+) .+$", text, re.MULTILINE)
        assert len(names) == len(set(names)) >= 10, names
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \S+ .+|\w+(\{(\w+="[^"]*",?)+\})? [0-9.e+-]+', line), line
    wait_until(lambda: agree(path.read_text, vnfs), 10, "metrics and files agree")
    assert "nfio_scrape_errors 0\n" in path.read_text()
    vnfs["firewall/fw0"].act("destroy")
    vnfs["firewall/fw0"].path.rmdir()
    assert 'instance="fw0"' not in path.read_text()
    assert errno_of(lambda: path.write_text("x")) in ("EACCES", "EPERM")


def test_an_empty_mount_has_valid_metrics(mount: Mount) -> None:
    assert samples_of((mount.path / "metrics/nfio.prom").read_text()) == {}


@pytest.fixture
def exporter(nfio: Mount, directory: Path) -> Iterator[str]:
    """URL of a node_exporter that collects the mount's metrics and nothing else."""
    need("tools", shutil.which(EXPORTER) is not None, f"{EXPORTER} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = (directory / "exporter.log").open("w+")
    process = subprocess.Popen(
        [
            EXPORTER,
            f"--web.listen-address={address}",
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={nfio.path}/metrics",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        yield f"http://{address}/metrics"
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def test_node_exporter_serves_the_metrics(nfio: Mount, vnfs: dict[str, Vnf], exporter: str) -> None:
    def scrape() -> str:
        with urllib.request.urlopen(exporter, timeout=10) as answer:
            return answer.read().decode()

    def listens() -> bool:
        try:
            return bool(scrape())
        except OSError:
            return False

    wait_until(listens, 20, "node_exporter answers")
    text = scrape()
    assert "\nnode_textfile_scrape_error 0\n" in text
    assert 'node_scrape_collector_success{collector="textfile"} 1\n' in text
    os.utime(nfio.root, (0, 0))
    text = scrape()
    # What watches the collector takes an old file for a source that has died.
    written = re.search(r'^node_textfile_mtime_seconds\{file="\S*/nfio\.prom"\} (\S+)$', text, re.MULTILINE)
    assert written is not None and time.time() - float(written[1]) < 60
    wait_until(lambda: agree(scrape, vnfs), 10, "what is scraped and the files agree")
    vnfs["web/paused"].write("state", "CONFIGURED\n")
    wait_until(lambda: agree(scrape, vnfs), 10, "a VNF that was stopped is down in the next scrape")


def test_top_shows_a_row_for_each_vnf(nfio: Mount, vnfs: dict[str, Vnf]) -> None:
    heading, *rows = nfio.nfio("top", str(nfio.path), "--once").stdout.splitlines()
    assert heading.split()[:3] == ["TYPE", "INSTANCE", "STATE"]
    assert [row.split()[:3] for row in rows] == [
        [*label.split("/"), vnf.state] for label, vnf in sorted(vnfs.items())
    ]
    assert all(row.rstrip().endswith("M") == (row.split()[2] == "RUNNING") for row in rows)
    failed = nfio.nfio("top", str(nfio.root), "--once", check=False)
    assert failed.returncode == 1
    assert failed.stderr == f"nfio: nfio is not mounted at {nfio.root}\n"
