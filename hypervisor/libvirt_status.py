"""What a domain is and uses, in nfio's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypervisor.hypervisor_base import GuestStatus, LinkCounters, Phase, Usage
from hypervisor.libvirt_console import await_exit
from hypervisor.libvirt_library import libvirt
from hypervisor.libvirt_machine import Machine
from hypervisor.libvirt_metadata import Asked, Mark
from hypervisor.libvirt_network import address_of
from hypervisor.libvirt_xml import LiveDomain, parse_domain

#: virDomainState: virsh's word for it (virshDomainStateTypeToString), and what it means
STATES: dict[int, tuple[str, Phase]] = {
    0: ("no state", Phase.BROKEN),
    1: ("running", Phase.RUNNING),
    2: ("idle", Phase.RUNNING),
    3: ("paused", Phase.PAUSED),
    4: ("in shutdown", Phase.RUNNING),
    5: ("shut off", Phase.EXITED),
    6: ("crashed", Phase.BROKEN),
    7: ("pmsuspended", Phase.PAUSED),
}

#: virDomainPausedReason of those that nobody asked for
_PAUSED = {
    5: "its disk failed: QEMU paused it at an I/O error",
    6: "its watchdog fired",
    10: "its kernel crashed",
}
#: SIGKILL, as a shell reports it
KILLED = 137

#: virDomainShutoffReason
_SHUTDOWN, _DESTROYED, _CRASHED, _FAILED = 1, 2, 3, 6

_PID_DIR = Path("/run/libvirt/qemu")
#: virtlogd may need this long to write down what a machine said last
_LAST_WORDS_S = 0.3
_AGENT_TIMEOUT_S = 2


def status_of(connection: Any, domain: Any, mark: Mark, machine: Machine, *, local: bool) -> GuestStatus:
    """Look at a domain; ``local``: it is on this host. Raises libvirt's errors."""
    state, detail = domain.state()
    word, phase = STATES.get(state, (f"state {state}", Phase.BROKEN))
    vnf_id, name = domain.UUIDString(), domain.name()
    if phase in (Phase.RUNNING, Phase.PAUSED):
        live = parse_domain(domain.XMLDesc())
        return GuestStatus(
            vnf_id=vnf_id,
            uuid=mark.uuid,
            name=name,
            word=word,
            phase=phase,
            pid=_pid(name) if local else None,
            address=address_of(connection, domain, live, _AGENT_TIMEOUT_S),
            reason=_PAUSED.get(detail, "") if phase is Phase.PAUSED else "",
            links=tuple(sorted(live.links)),
            shares_kernel=False,
        )
    code, reason = None, ""
    if phase is Phase.EXITED:
        if mark.asked == Asked.NOTHING.value:
            phase = Phase.CONFIGURED
        else:
            code, reason = _ending(machine, mark, detail)
    return GuestStatus(
        vnf_id, mark.uuid, name, word, phase, exit_code=code, reason=reason, links=(), shares_kernel=False
    )


def _ending(machine: Machine, mark: Mark, detail: int) -> tuple[int | None, str]:
    """How a domain's last run ended: the function's exit code, and what was wrong."""
    if mark.asked == Asked.KILL.value:
        return KILLED, ""
    # One that its host destroyed has said nothing; for others the log may be on its way.
    wait_s = 0.0 if detail == _DESTROYED else _LAST_WORDS_S
    exited = await_exit(machine, wait_s) if mark.ours else None
    if exited is not None:
        if exited.out_of_memory:
            return exited.code, "its kernel killed it: out of memory (vm.memory)"
        return exited.code, ""
    if mark.asked == Asked.STOP.value or (detail == _SHUTDOWN and not mark.ours):
        return 0, ""
    return {
        _DESTROYED: (KILLED, "it was destroyed, and not by nfio (virsh destroy)"),
        _CRASHED: (None, "its machine crashed; log shows its last words"),
        _FAILED: (None, "QEMU ended with a failure; libvirt's log of the domain says more"),
    }.get(detail, (None, "its machine ended before its function did"))


def _pid(name: str) -> int | None:
    """QEMU's process, as libvirt writes it down."""
    try:
        return int((_PID_DIR / f"{name}.pid").read_text())
    except (OSError, ValueError):
        return None


def counters_of(domain: Any) -> tuple[LinkCounters, Usage]:
    """What a running domain received, sent and used. libvirt counts from the guest's side already."""
    live: LiveDomain = parse_domain(domain.XMLDesc())
    links = [domain.interfaceStats(link) for link in live.links]
    memory = domain.memoryStats()
    cpu = domain.getCPUStats(True)[0]
    # virDomainInterfaceStats: bytes, packets, errors, drops received; the same sent.
    received_bytes, received, _, received_drops, sent_bytes, sent, _, sent_drops = (
        sum(link[i] for link in links) for i in range(8)
    )
    used = memory.get("rss", 0)
    if "available" in memory and "unused" in memory:
        used = memory["available"] - memory["unused"]
    return (
        LinkCounters(received_bytes, sent_bytes, received, sent, received_drops + sent_drops),
        Usage(cpu["cpu_time"] / 1e9, used * 1024),
    )


def is_gone(domain: Any) -> bool:
    """Whether a domain runs no more."""
    return bool(domain.state()[0] in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED))
