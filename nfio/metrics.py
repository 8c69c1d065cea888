"""``metrics/nfio.prom``: every instance in the Prometheus text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable

from hypervisor.hypervisor_base import LinkCounters
from middleboxes.host.links import read_table
from nfio.errors import NfioError
from nfio.instance_files import InstanceFiles
from nfio.states import State
from nfio.vnf import Vnf

_FAMILIES = {
    "nfio_vnf_state": ("gauge", "State of the VNF: the number of fog05's State"),
    "nfio_vnf_up": ("gauge", "1 if the VNF runs, 0 if it does not"),
    "nfio_vnf_receive_bytes_total": ("counter", "Bytes the VNF received"),
    "nfio_vnf_transmit_bytes_total": ("counter", "Bytes the VNF sent"),
    "nfio_vnf_receive_packets_total": ("counter", "Packets the VNF received"),
    "nfio_vnf_transmit_packets_total": ("counter", "Packets the VNF sent"),
    "nfio_vnf_dropped_packets_total": ("counter", "Packets dropped on the VNF's links and by the VNF"),
    "nfio_vnf_cpu_seconds_total": ("counter", "CPU time of the VNF in seconds"),
    "nfio_vnf_memory_bytes": ("gauge", "Memory the VNF uses in bytes"),
    "nfio_scrape_errors": ("gauge", "Values of running VNFs that could not be read this time"),
}

# What the values of LinkCounters and of Usage are called, in their order.
_LINKS = (
    "nfio_vnf_receive_bytes_total",
    "nfio_vnf_transmit_bytes_total",
    "nfio_vnf_receive_packets_total",
    "nfio_vnf_transmit_packets_total",
    "nfio_vnf_dropped_packets_total",
)
_USAGE = ("nfio_vnf_cpu_seconds_total", "nfio_vnf_memory_bytes")


def render(vnfs: Iterable[Vnf], files: InstanceFiles) -> bytes:
    """All instances at once. A value that cannot be read is left out, and counted.

    A VNF whose hypervisor does not answer has no state and no ``up``: what is not known is not
    reported. Names need no escaping: the grammar of names leaves nothing to escape.
    """
    samples: dict[str, list[str]] = {family: [] for family in _FAMILIES}
    table = read_table()
    errors = 0
    for vnf in vnfs:
        labels = f'{{type="{vnf.type}",instance="{vnf.name}"}}'
        try:
            state = files.state(vnf)
        except NfioError:
            errors += 1
            continue
        up = state is State.RUNNING or state is State.SCALING
        samples["nfio_vnf_state"].append(f"nfio_vnf_state{labels} {state.value}\n")
        samples["nfio_vnf_up"].append(f"nfio_vnf_up{labels} {int(up)}\n")
        if up:
            errors += _running(vnf, files, labels, samples, table)
    samples["nfio_scrape_errors"].append(f"nfio_scrape_errors {errors}\n")
    text = []
    for family, (kind, help_text) in _FAMILIES.items():
        if samples[family]:
            text.append(f"# HELP {family} {help_text}\n# TYPE {family} {kind}\n")
            text += samples[family]
    return "".join(text).encode()


def _running(
    vnf: Vnf,
    files: InstanceFiles,
    labels: str,
    samples: dict[str, list[str]],
    table: dict[str, LinkCounters],
) -> int:
    """Add the samples of one running VNF; returns how many groups of them could not be read."""
    errors = 0
    for families, read in (
        (_LINKS, lambda: files.link_counters(vnf, table)),
        (_USAGE, lambda: files.usage(vnf)),
    ):
        try:
            found = read()
        except NfioError:
            errors += 1
            continue
        for family, value in zip(families, found, strict=True):
            samples[family].append(f"{family}{labels} {value}\n")
    return errors
