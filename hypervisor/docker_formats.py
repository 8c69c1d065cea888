"""The engine's JSON and nfio's terms, one made from the other."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypervisor.hypervisor_base import GuestStatus, LinkCounters, Phase, Resources, Usage

#: Set on every container; the others add what follows the dot.
LABEL = "io.nfio"
#: the kernel counts CPU time in periods of this many microseconds
CPU_PERIOD_US = 100_000

_PHASES = {
    "created": Phase.CONFIGURED,
    "running": Phase.RUNNING,
    "restarting": Phase.RUNNING,
    "paused": Phase.PAUSED,
    "exited": Phase.EXITED,
    "stopped": Phase.EXITED,  # Podman, for a moment before it is exited
    "removing": Phase.BROKEN,
    "dead": Phase.BROKEN,
}


def status_of(found: dict[str, Any], *, local: bool) -> GuestStatus:
    """What an inspection of a container shows; its pid means something on this host only."""
    state = found["State"]
    phase = _PHASES.get(state["Status"], Phase.BROKEN)
    reason = state.get("Error") or ""
    if state.get("OOMKilled") and phase is Phase.EXITED:
        reason = "the kernel killed it: out of memory (vm.memory)"
    running = phase in (Phase.RUNNING, Phase.PAUSED)
    return GuestStatus(
        vnf_id=found["Id"],
        uuid=(found["Config"]["Labels"] or {}).get(f"{LABEL}.uuid", ""),
        name=found["Name"].lstrip("/"),
        word=state["Status"],
        phase=phase,
        pid=state["Pid"] if running and local else None,
        address=_address(found["NetworkSettings"]) if running else "",
        exit_code=state["ExitCode"] if phase is Phase.EXITED else None,
        reason=reason,
    )


def counters_of(stats: dict[str, Any]) -> tuple[LinkCounters, Usage]:
    """The engine's own statistics of a container."""
    links = (stats.get("networks") or {}).values()

    def total(*keys: str) -> int:
        return sum(int(link.get(key, 0)) for link in links for key in keys)

    return (
        LinkCounters(
            total("rx_bytes"),
            total("tx_bytes"),
            total("rx_packets"),
            total("tx_packets"),
            total("rx_dropped", "tx_dropped"),
        ),
        Usage(
            stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
            int(stats["memory_stats"].get("usage", 0)),
        ),
    )


def limits_of(resources: Resources) -> dict[str, Any]:
    """The engine's arguments for limits; those that are not limited are left out."""
    limits: dict[str, Any] = {}
    if resources.memory_bytes is not None:
        limits["mem_limit"] = resources.memory_bytes
        limits["memswap_limit"] = resources.memory_bytes  # a limit, not a limit and swap beside it
    if resources.vcpu is not None:
        limits["cpu_period"] = CPU_PERIOD_US
        limits["cpu_quota"] = round(resources.vcpu * CPU_PERIOD_US)
    return limits


def _address(network: dict[str, Any]) -> str:
    return next((n["IPAddress"] for n in (network.get("Networks") or {}).values() if n["IPAddress"]), "")


def seconds_of(timestamp: str) -> float:
    """Seconds since the epoch of the engine's RFC 3339 time; 0 for its year 1, meaning never."""
    if timestamp.startswith("0001"):
        return 0.0
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    # The engine says nanoseconds; fromisoformat takes six digits.
    return datetime.fromisoformat(f"{whole}.{fraction[:6] or '0':0<6}+00:00").timestamp()
