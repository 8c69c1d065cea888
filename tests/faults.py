"""What the tests of engines that fail have in common: VNFs, traffic, and looks that must not wait."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable

from mount import Mount, Vnf, errno_of, seconds

#: seconds that a call to an engine may take, and what an order may take beyond it
CALL_S = 10
MARGIN_S = 5

#: always read at once, whatever an engine does
_KEPT = ("error", "uuid", "action", "config/nf_conf", "machine/vm.image", "machine/ip")


def running(nfio: Mount, *names: str) -> list[Vnf]:
    """Firewalls of these names, made and activated."""
    vnfs = [nfio.make("firewall", name) for name in names]
    for vnf in vnfs:
        vnf.act("activate")
        assert vnf.state == "RUNNING"
    return vnfs


def answers(address: str) -> bool:
    """Whether it answers three pings."""
    command = ["ping", "-q", "-c", "3", "-i", "0.01", "-W", "1", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def look_around(nfio: Mount, vnf: Vnf, *files: str) -> None:
    """What must never wait for an engine: names, attributes, stored files, counters of what runs."""
    for place in (nfio.path / "nf-types" / "firewall", vnf.path, vnf.path / "stats"):
        for name in os.listdir(place):
            os.stat(place / name)
    for file in (*_KEPT, *files):
        vnf.read(file)
    assert vnf.number("stats/rx_bytes") >= 0


def slowest(call: Callable[[], object], until: Callable[[], bool]) -> float:
    """Seconds of the slowest of many calls."""
    worst = 0.0
    while not until():
        worst = max(worst, seconds(call))
        time.sleep(0.01)
    return worst


def orders_time_out(orders: dict[Vnf, str], look: Callable[[], object]) -> None:
    """Give orders to a hung engine at once: each is ETIMEDOUT in time, and no look waits for them."""
    results: dict[str, tuple[str, float]] = {}

    def order(vnf: Vnf, word: str) -> None:
        begun = time.monotonic()
        number = errno_of(lambda: vnf.act(word))
        results[word] = number, time.monotonic() - begun

    threads = [threading.Thread(target=order, args=arguments) for arguments in orders.items()]
    for thread in threads:
        thread.start()
    assert slowest(look, until=lambda: not any(thread.is_alive() for thread in threads)) < 1
    assert len(results) == len(orders)
    for number, took in results.values():
        assert number == "ETIMEDOUT"
        assert took < CALL_S + MARGIN_S
