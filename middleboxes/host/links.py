"""Counters of the guests' links, read at this host's ends of them."""

from __future__ import annotations

import resource

from hypervisor.hypervisor_base import LinkCounters
from middleboxes.host.open_file import OpenFile
from nfio.errors import NetworkDown

#: the host end's counters of packets that it dropped
_DROPS = ("rx_dropped", "tx_dropped")
_STATISTICS = "/sys/class/net/%s/statistics/%s"


class _CounterFiles:
    """Counters that stay open: opening one costs ten times what reading it does.

    A link's are closed when it goes away, and all of them when there are too many.
    """

    def __init__(self) -> None:
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 8
        self._files: dict[tuple[str, str], OpenFile] = {}

    def get(self, link: str, counter: str) -> OpenFile:
        file = self._files.get((link, counter))
        if file is None:
            file = OpenFile(_STATISTICS % (link, counter))
            if len(self._files) >= self._limit:
                self._files.clear()
            self._files[link, counter] = file
        return file

    def forget(self, link: str) -> None:
        for counter in (*MIRROR.values(), *_DROPS):
            self._files.pop((link, counter), None)


_counter_files = _CounterFiles()


def forget(link: str) -> None:
    """Close what is open of a link that is gone."""
    _counter_files.forget(link)


def _read(link: str, counter: str) -> int:
    try:
        return int(_counter_files.get(link, counter).read())
    except OSError:
        pass  # of a link that is gone; there may be another of its name
    try:
        return int(OpenFile(_STATISTICS % (link, counter)).read())
    except OSError:
        raise NetworkDown(f"its link {link} is gone") from None


#: a guest's counter -> the host end's that counts the same packets the other way round
MIRROR = {
    "rx_bytes": "tx_bytes",
    "tx_bytes": "rx_bytes",
    "rx_packets": "tx_packets",
    "tx_packets": "rx_packets",
}


def read_counter(links: tuple[str, ...], counter: str) -> int:
    """One of a guest's counters (``rx_bytes``), as the guest counts it, over all its links.

    Source: ``/sys/class/net/<link>/statistics`` of the host's end.

    Raises:
        NetworkDown (ENETDOWN): it has no link (any more).
    """
    if not links:
        raise NetworkDown("it has no network link")
    mirrored = MIRROR[counter]
    return sum([_read(link, mirrored) for link in links])


def read_drops(links: tuple[str, ...]) -> int:
    """Packets dropped at this host's ends of a guest's links.

    Source: ``rx_dropped`` and ``tx_dropped``.

    Raises:
        NetworkDown (ENETDOWN): it has no link (any more).
    """
    if not links:
        raise NetworkDown("it has no network link")
    return sum([_read(link, name) for link in links for name in _DROPS])


def drops_in(device_table: bytes) -> int:
    """Packets dropped by the links of a network namespace, its loopback apart.

    Args:
        device_table: its net/dev file (proc_pid_net(5)).
    """
    drops = 0
    for line in device_table.splitlines()[2:]:
        name, _, values = line.partition(b":")
        if name.strip() != b"lo":
            columns = values.split()
            drops += int(columns[3]) + int(columns[11])
    return drops


def read_table() -> dict[str, LinkCounters]:
    """Counters of all links of this host at one moment, as the guests at their other ends count them.

    One file for hundreds of guests: /proc/net/dev (proc_pid_net(5)).
    """
    found = {}
    for line in OpenFile("/proc/self/net/dev").read_all().splitlines()[2:]:
        name, _, values = line.partition(b":")
        columns = values.split()
        # Received and sent: bytes packets errors dropped fifo frame compressed multicast.
        found[name.strip().decode()] = LinkCounters(
            rx_bytes=int(columns[8]),
            tx_bytes=int(columns[0]),
            rx_packets=int(columns[9]),
            tx_packets=int(columns[1]),
            drops=int(columns[3]) + int(columns[11]),
        )
    return found


def read_all(links: tuple[str, ...], table: dict[str, LinkCounters], drops: int) -> LinkCounters:
    """All counters of a guest.

    Args:
        table: what ``read_table`` gave.
        drops: those that were not made at this host's ends of its links.
    """
    if not links:
        raise NetworkDown("it has no network link")
    rx_bytes = tx_bytes = rx_packets = tx_packets = 0
    for link in links:
        row = table.get(link)
        if row is None:
            raise NetworkDown(f"its link {link} is gone")
        rx_bytes += row.rx_bytes
        tx_bytes += row.tx_bytes
        rx_packets += row.rx_packets
        tx_packets += row.tx_packets
        drops += row.drops
    return LinkCounters(rx_bytes, tx_bytes, rx_packets, tx_packets, drops)
