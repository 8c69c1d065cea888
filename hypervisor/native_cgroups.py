"""Control groups of guests, version 1, hybrid or 2 (cgroups(7)): limits, freezer, usage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypervisor.hypervisor_base import PIDS_LIMIT, Resources, Usage
from nfio.errors import HypervisorError

#: the group that guests' groups are made in
GROUP = "nfio"
#: a container with less cannot be started by its own runtime
MEMORY_MIN_BYTES = 6 << 20
CPU_PERIOD_US = 100_000

_ROOT = Path("/sys/fs/cgroup")


def require_enough(resources: Resources) -> None:
    """HypervisorError (EIO) if no container can be made with that little."""
    memory = resources.memory_bytes
    if memory is not None and memory < MEMORY_MIN_BYTES:
        raise HypervisorError(f"{memory} bytes of memory are too few: a container takes 6 MiB at least")


def limits_of(vcpu: float | None, memory_bytes: int | None) -> dict[str, Any]:
    """``linux.resources``, each limit said, so that an update lifts what is not set any more."""
    return {
        "cpu": {"period": CPU_PERIOD_US, "quota": -1 if vcpu is None else round(vcpu * CPU_PERIOD_US)},
        # The limit of memory and swap together is the same: there is no swapping around it.
        "memory": {"limit": memory_bytes or -1, "swap": memory_bytes or -1},
        "pids": {"limit": PIDS_LIMIT},
    }


class Freezer:
    """The freezer of a process's control group, version 1, hybrid or 2; kept open.

    Raises:
        OSError: the process has ended.
    """

    def __init__(self, pid: int) -> None:
        self._fd = -1
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        place = Path("/sys/fs/cgroup") / groups.strip().rpartition("::")[2].lstrip("/") / "cgroup.events"
        for line in groups.splitlines():
            _, controllers, path = line.split(":", 2)
            if "freezer" in controllers.split(","):
                place = Path("/sys/fs/cgroup/freezer", path.lstrip("/"), "freezer.state")
        self._fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)

    def frozen(self) -> bool:
        text = os.pread(self._fd, 256, 0)
        return text.strip() != b"THAWED" if b" " not in text else b"frozen 1" in text.splitlines()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def ran_out_of_memory(vnf_id: str) -> bool:
    """Whether the kernel killed a process of the guest for its limit, since it was started."""
    for place in (
        _ROOT / "memory" / GROUP / vnf_id / "memory.oom_control",
        _ROOT / GROUP / vnf_id / "memory.events",
    ):
        try:
            values = dict(line.split() for line in place.read_text().splitlines())
        except OSError:
            continue
        return int(values.get("oom_kill", 0)) > 0
    return False


def usage_of(vnf_id: str) -> Usage:
    """CPU seconds and bytes of memory of a guest. OSError if it does not run."""
    if (_ROOT / "cpuacct").exists():
        cpu_ns = int((_ROOT / "cpuacct" / GROUP / vnf_id / "cpuacct.usage").read_text())
        memory = int((_ROOT / "memory" / GROUP / vnf_id / "memory.usage_in_bytes").read_text())
        return Usage(cpu_ns / 1e9, memory)
    group = _ROOT / GROUP / vnf_id
    statistics = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return Usage(int(statistics["usage_usec"]) / 1e6, int((group / "memory.current").read_text()))
