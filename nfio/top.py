"""``nfio top``: a live table of all VNFs, from one read of ``metrics/nfio.prom`` a round."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from nfio.errors import NotFound
from nfio.states import State

_SAMPLE = re.compile(r'nfio_vnf_(\w+)\{type="([^"]+)",instance="([^"]+)"\} (\S+)')

_COLUMNS = ("TYPE", "INSTANCE", "STATE", "RX B/s", "TX B/s", "DROPS", "CPU %", "MEMORY")

#: columns where there is no terminal: room for the longest names, 63 characters
_PIPED_WIDTH = 240

Samples = dict[tuple[str, str], dict[str, float]]


def read(mountpoint: str) -> Samples:
    """Values of every VNF by metric name. NotFound (ENOENT) if nfio is not mounted there."""
    try:
        text = (Path(mountpoint) / "metrics" / "nfio.prom").read_text()
    except FileNotFoundError:
        raise NotFound(f"nfio is not mounted at {mountpoint}") from None
    samples: Samples = defaultdict(dict)
    for metric, kind, name, value in _SAMPLE.findall(text):
        samples[kind, name][metric] = float(value)
    return samples


def table(now: Samples, before: Samples, seconds: float) -> Table:
    """The table; rates are over the ``seconds`` between the two reads, empty at the first."""
    made = Table(box=None)
    for index, heading in enumerate(_COLUMNS):
        made.add_column(heading, justify="left" if index < 3 else "right")
    for (kind, name), values in sorted(now.items()):
        old = before.get((kind, name), {})

        def rate(metric: str, scale: float = 1.0, values=values, old=old) -> str:  # type: ignore[no-untyped-def]
            if metric not in values or metric not in old or seconds <= 0:
                return ""
            return f"{max(0.0, values[metric] - old[metric]) * scale / seconds:.0f}"

        memory = values.get("memory_bytes")
        drops = values.get("dropped_packets_total")
        made.add_row(
            kind,
            name,
            State(int(values["state"])).name,
            rate("receive_bytes_total"),
            rate("transmit_bytes_total"),
            "" if drops is None else f"{drops:.0f}",
            rate("cpu_seconds_total", 100.0),
            "" if memory is None else f"{memory / (1 << 20):.1f}M",
        )
    return made


def show(mountpoint: str, interval_s: float, *, once: bool) -> None:
    """Print the table once, or show it until it is interrupted."""
    before, then = read(mountpoint), time.monotonic()
    if once:
        terminal = Console()
        # What is piped to grep or awk has whole lines.
        console = terminal if terminal.is_terminal else Console(width=_PIPED_WIDTH)
        console.print(table(before, {}, 0.0))
        return
    with Live(table(before, {}, 0.0), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            now, moment = read(mountpoint), time.monotonic()
            live.update(table(now, before, moment - then), refresh=True)
            before, then = now, moment
