"""Limits of a machine: what it is given from its next start on, and what can be changed while it runs."""

from __future__ import annotations

import math
import time
from typing import Any

from hypervisor.hypervisor_base import Resources
from hypervisor.libvirt_agent import bring_cpus_online
from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_library import libvirt
from hypervisor.libvirt_xml import CPU_PERIOD_US, memory_of, parse_domain, quota_of, vcpus_of
from nfio.errors import HypervisorError, NotSupported

#: A machine with less does not come up: Debian's kernel and a small init take that much.
LEAST_MEMORY_BYTES = 80 << 20
_AGENT_S = 5.0


def require_possible(resources: Resources, cpus: int) -> None:
    """Return if a machine can have these limits. HypervisorError (EIO) if not."""
    if memory_of(resources) < LEAST_MEMORY_BYTES:
        raise HypervisorError(
            f"too little memory: a machine needs {LEAST_MEMORY_BYTES >> 20}M or more (vm.memory)"
        )
    if resources.vcpu is not None and math.ceil(resources.vcpu) > cpus:
        raise HypervisorError(f"its host has {cpus} CPUs (vm.vcpu)")


def scale(domain: Any, resources: Resources, cpus: int) -> None:
    """Change the limits of a domain: for its next start, and at once if it runs.

    Raises:
        NotSupported (EOPNOTSUPP): the running machine cannot take that; its next start does.
        libvirt's errors.
    """
    require_possible(resources, cpus)
    _scale_next(domain, resources)
    if not domain.isActive():
        return
    refusals = []
    for change in (_scale_cpus, _scale_memory):
        try:
            change(domain, resources)
        except NotSupported as refusal:
            refusals.append(refusal.reason)
    if refusals:
        raise NotSupported("; ".join(refusals))


def _scale_next(domain: Any, resources: Resources) -> None:
    later = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    memory_kib = memory_of(resources) // 1024
    domain.setMemoryFlags(memory_kib, later | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
    domain.setMemoryFlags(memory_kib, later)
    domain.setVcpusFlags(vcpus_of(resources), later)
    domain.setSchedulerParametersFlags(_quota(resources), later)


def _quota(resources: Resources) -> dict[str, int]:
    return {"global_period": CPU_PERIOD_US, "global_quota": quota_of(resources)}


def _scale_cpus(domain: Any, resources: Resources) -> None:
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    domain.setSchedulerParametersFlags(_quota(resources), live)
    wanted, present = vcpus_of(resources), domain.vcpusFlags(live)
    if wanted <= present:
        # The quota holds it to fewer. To be unplugged, a CPU must be let go of by the machine's
        # kernel, which takes seconds or does not happen.
        return
    try:
        domain.setVcpusFlags(wanted, live)
    except libvirt.libvirtError as error:
        if is_a(error, "VIR_ERR_NO_DOMAIN", "VIR_ERR_OPERATION_INVALID"):
            raise
        raise NotSupported(
            f"the machine runs on with {present} CPUs and has {wanted} from its next start on ({error})"
        ) from error
    if parse_domain(domain.XMLDesc()).agent:
        bring_cpus_online(domain, time.monotonic() + _AGENT_S)


def _scale_memory(domain: Any, resources: Resources) -> None:
    wanted_kib = memory_of(resources) // 1024
    maximum_kib = domain.maxMemory()
    domain.setMemoryFlags(min(wanted_kib, maximum_kib), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    if wanted_kib > maximum_kib:
        raise NotSupported(
            f"the machine was started with {maximum_kib // 1024} MiB and can have no more while it runs: stop "
            f"and start it for {wanted_kib // 1024} MiB"
        )
