"""The kernel's own word on the limits of a process: its control groups, version 1 or 2."""

from __future__ import annotations

from pathlib import Path

import psutil

ROOT = Path("/sys/fs/cgroup")


def _file(pid: int, controller: str, name: str) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return (ROOT / controller / path.lstrip("/") / name).read_text().strip()
    _, _, path = Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1].split(":", 2)
    return (ROOT / path.lstrip("/") / name).read_text().strip()


def _version_2() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def memory_limit(pid: int) -> int | None:
    """Bytes; None where the limit is no less than what this machine has."""
    text = _file(pid, "memory", "memory.max" if _version_2() else "memory.limit_in_bytes")
    limited = text != "max" and int(text) < psutil.virtual_memory().total
    return int(text) if limited else None


def vcpu_limit(pid: int) -> float | None:
    """CPUs; None for no limit."""
    if _version_2():
        quota, period = _file(pid, "cpu", "cpu.max").split()
    else:
        quota, period = _file(pid, "cpu", "cpu.cfs_quota_us"), _file(pid, "cpu", "cpu.cfs_period_us")
    return None if quota in ("max", "-1") else int(quota) / int(period)


def pids_limit(pid: int) -> int | None:
    """Processes and threads; None for no limit."""
    text = _file(pid, "pids", "pids.max")
    return None if text == "max" else int(text)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all below it that still live."""
    first = psutil.Process(pid)
    times = [process.cpu_times() for process in (first, *first.children(recursive=True))]
    return sum(time.user + time.system for time in times)
