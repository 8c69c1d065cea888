"""CPU time and memory of a guest, from the control group of its first process."""

from __future__ import annotations

from pathlib import Path

import psutil

from hypervisor.hypervisor_base import Usage
from middleboxes.host.open_file import OpenFile
from nfio.errors import NetworkDown

ROOT = "/sys/fs/cgroup"


class GroupUsage:
    """CPU seconds and bytes of memory of the group that a process is in.

    Version 1 and hybrid: ``cpuacct.usage`` (ns) and ``memory.usage_in_bytes``; version 2:
    ``cpu.stat`` (µs) and ``memory.current``. Where the group cannot be read, of the process.

    Raises:
        NetworkDown (ENETDOWN): the process is gone.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._files: tuple[OpenFile, OpenFile] | None = None
        self._version = 2
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            raise NetworkDown("its first process is gone") from None
        paths: dict[str, str] = {}
        for line in groups.splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                paths[controller] = path
        try:
            if "cpuacct" in paths:
                self._version = 1
                cpu, memory = f"cpuacct{paths['cpuacct']}/cpuacct.usage", f"memory{paths['memory']}"
                self._files = (
                    OpenFile(f"{ROOT}/{cpu}"),
                    OpenFile(f"{ROOT}/{memory}/memory.usage_in_bytes"),
                )
            else:
                group = f"{ROOT}{paths['']}"
                self._files = OpenFile(f"{group}/cpu.stat"), OpenFile(f"{group}/memory.current")
        except (OSError, KeyError):
            self._files = None

    def read(self) -> Usage:
        """What it is now."""
        if self._files is not None:
            cpu, memory = self._files
            try:
                return Usage(self._seconds(cpu.read()), int(memory.read()))
            except (OSError, ValueError, KeyError):
                pass
        return read_process_usage(self._pid)

    def _seconds(self, text: bytes) -> float:
        if self._version == 1:
            return int(text) / 1e9
        statistics = dict(line.split() for line in text.splitlines())
        return int(statistics[b"usage_usec"]) / 1e6


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
