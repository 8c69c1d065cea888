"""Many clients at once: no wrong errno, no deadlock, no growth, and the truth at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import load_client
import psutil
import pytest
from engine import wait_until
from engine_view import EngineView
from mount import Mount, Vnf

#: on each engine; a minute in all
SECONDS = float(os.environ.get("NFIO_LOAD_SECONDS", "30"))
WARM_UP_S = min(10.0, SECONDS / 3)
CLIENTS = 32
#: an operation waits for those before it on its instance, and then for the engine
GRACE_S = 60.0

# What the process may have more of after the load than after the warm-up: the journal keeps its
# last 10,000 events, and the pools of connections and threads follow what was needed at once.
GROWTH_BYTES = 16 << 20
GROWTH_FILES = 64
GROWTH_THREADS = 16

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 240)]


@dataclass
class Use:
    """What the serving process holds."""

    memory_bytes: int
    files: int
    threads: int


def use_of(pid: int) -> Use:
    process = psutil.Process(pid)
    return Use(process.memory_info().rss, process.num_fds(), process.num_threads())


def load(mount: Mount, seconds: float, seed: int) -> tuple[Counter[str], list[str], float]:
    """Run all clients: how operations ended, what was wrong, and the slowest read in seconds."""
    begun = time.monotonic()
    clients = [
        subprocess.Popen(
            [sys.executable, load_client.__file__, str(mount.path), str(seed + number), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(CLIENTS)
    ]
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    slowest_s = 0.0
    try:
        for client in clients:
            left = begun + seconds + GRACE_S - time.monotonic()
            output, _ = client.communicate(timeout=max(left, 1))
            assert client.returncode == 0
            told = json.loads(output)
            counts.update(told["counts"])
            wrong += told["wrong"]
            slowest_s = max(slowest_s, told["slowest_read_s"])
    finally:
        for client in clients:
            if client.poll() is None:
                client.kill()
            client.communicate()
    return counts, wrong, slowest_s


def define_all(mount: Mount) -> list[Vnf]:
    for kind, name in load_client.DEFINED:
        mount.make(kind, name)
    driven = [mount.make(kind, name) for kind, name in load_client.DRIVEN]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda vnf: vnf.act("activate"), driven))
    return driven


def words_of_the_engine(mount: Mount) -> dict[str, str]:
    """What the engine says each guest of this root does, by ``type/instance``."""
    words = {}
    for seen in mount.engine.seen(mount.root_id):
        assert seen.label not in words, f"{seen.label} has two guests"
        words[seen.label] = seen.word
    return words


def agrees(engine: EngineView, vnf: Vnf, word: str | None) -> bool:
    state = vnf.state
    if word is None:
        return (state, vnf.status) == ("DEFINED", "undeployed")
    states = {engine.created: "CONFIGURED", engine.running: "RUNNING", engine.paused: "PAUSED"}
    wanted = {states[word]} if word in states else {"CONFIGURED", "ERROR"}
    return state in wanted and vnf.status == word


def test_32_clients_at_once(nfio: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    driven = define_all(nfio)
    assert len(nfio.guests()) == len(driven)
    load(nfio, WARM_UP_S, seed=1000)
    before = use_of(nfio.pid)

    counts, wrong, slowest_s = load(nfio, SECONDS, seed=1)

    after = use_of(nfio.pid)
    with capsys.disabled():
        print(f"\n{sum(counts.values())} operations in {SECONDS:g} s, slowest read {slowest_s:.2f} s")
        print(f"before {before}\nafter  {after}")
        for what, count in sorted(counts.items()):
            print(f"{count:8} {what}")
    assert not wrong, "\n".join(wrong)
    assert counts["mkdir ok"] and counts["rmdir ok"] and counts["command ok"] and counts["scale ok"]
    assert counts["read counter ok"] > counts["read counter ENETDOWN"] / 10
    # A read waits for nobody's operation; only an engine that does not answer keeps it.
    assert slowest_s < 10
    assert after.memory_bytes - before.memory_bytes < GROWTH_BYTES
    assert after.files - before.files < GROWTH_FILES
    assert after.threads - before.threads < GROWTH_THREADS

    def all_agree() -> bool:
        words = words_of_the_engine(nfio)
        known = {f"{vnf.path.parent.name}/{vnf.path.name}": vnf for vnf in driven}
        return set(words) <= set(known) and all(
            agrees(nfio.engine, vnf, words.get(label)) for label, vnf in known.items()
        )

    wait_until(all_agree, 5, "the mount and the engine agree")
    for kind, name in load_client.DEFINED:
        assert nfio.vnf(kind, name).state == "DEFINED"
    for kind, name in load_client.PASSING:
        path: Path = nfio.vnf(kind, name).path
        assert not path.exists() or nfio.vnf(kind, name).state == "DEFINED"
    for vnf in driven:
        vnf.write("state", "RUNNING\n")
        assert vnf.state == "RUNNING"
