"""Measures nfio against its bars: each against its peer, in one run, in alternating rounds."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import docker_rows
import libvirt_rows
import native_rows
from bench import Bench, Row
from rich.console import Console
from rich.table import Table

ROWS = {**docker_rows.ROWS, **native_rows.ROWS, **libvirt_rows.ROWS}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=ROWS, help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds: minutes become seconds")
    parser.add_argument("--json", metavar="FILE", type=Path, default=Path("bench.json"))
    return parser.parse_args()


def show(rows: list[Row], console: Console) -> None:
    table = Table(box=None)
    for heading in ("", "ours", "peer", "ratio", "bar", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        verdict = "" if row.ok is None else "ok" if row.ok else "[bold red]MISSED[/]"
        table.add_row(row.what, row.ours_text, row.peer_text, row.ratio_text, row.bar, verdict)
        if row.detail:
            table.add_row(f"  [dim]{row.detail}[/]")
    console.print(table)


def main() -> int:
    arguments = parse()
    # Whatever ends it, what it made is cleared away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    rows: list[Row] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfio-bench-")))
        bench = Bench(
            directory, stack, quick=arguments.quick, say=lambda text: console.print(f"[dim]{text}[/]")
        )
        for name in arguments.only or ROWS:
            rows += ROWS[name](bench)
    show(rows, console)
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    report = {"machine": machine, "quick": arguments.quick, "rows": [asdict(row) for row in rows]}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"[dim]written to {arguments.json}[/]")
    return 1 if any(row.ok is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
