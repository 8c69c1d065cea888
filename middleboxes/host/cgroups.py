"""CPU time and memory of a guest, from the control group of its first process."""

from __future__ import annotations

from pathlib import Path

import psutil

from hypervisor.hypervisor_base import Usage
from nfio.errors import NetworkDown

ROOT = Path("/sys/fs/cgroup")


def read_usage(pid: int) -> Usage:
    """CPU seconds and bytes of memory of the group that a process is in.

    Version 1 and hybrid: ``cpuacct.usage`` (ns) and ``memory.usage_in_bytes``; version 2:
    ``cpu.stat`` (µs) and ``memory.current``. Where the group cannot be read, of the process.

    Raises:
        NetworkDown (ENETDOWN): the process is gone.
    """
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        raise NetworkDown("its first process is gone") from None
    try:
        return _of_groups(groups)
    except (OSError, ValueError, KeyError):
        return read_process_usage(pid)


def _of_groups(groups: str) -> Usage:
    paths: dict[str, str] = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path.lstrip("/")
    if "cpuacct" in paths:
        cpu_ns = int((ROOT / "cpuacct" / paths["cpuacct"] / "cpuacct.usage").read_text())
        memory = int((ROOT / "memory" / paths["memory"] / "memory.usage_in_bytes").read_text())
        return Usage(cpu_ns / 1e9, memory)
    group = ROOT / paths[""]
    statistics = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return Usage(int(statistics["usage_usec"]) / 1e6, int((group / "memory.current").read_text()))


def read_process_usage(pid: int) -> Usage:
    """The same of a process alone: of one that emulates a machine.

    Raises:
        NetworkDown (ENETDOWN): the process is gone.
    """
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return Usage(times.user + times.system, process.memory_info().rss)
    except psutil.NoSuchProcess:
        raise NetworkDown("its first process is gone") from None
