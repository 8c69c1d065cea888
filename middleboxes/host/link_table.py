"""The host's ends of the guests' links, kept current by netlink notifications."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_LINK

from middleboxes.host.links import forget

log = logging.getLogger(__name__)


class LinkTable:
    """Which links of this host lead into which network namespace.

    A thread follows the kernel's link messages (RTM_NEWLINK, RTM_DELLINK), so that finding a
    link costs no dump and one that goes away is known at once.

    Args:
        on_gone: called with the name of each link that led into a namespace and is gone.
    """

    def __init__(self, on_gone: Callable[[str], None]) -> None:
        self._on_gone = on_gone
        self._links: dict[int, tuple[str, int]] = {}  # index: (name, id of the peer's namespace)
        self._changed = threading.Condition()
        self._started = False

    def start(self) -> None:
        """Begin to listen, unless it has begun."""
        if self._started:
            return
        self._started = True
        threading.Thread(target=self._follow, name="links", daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                with IPRoute() as netlink:
                    netlink.bind(groups=RTMGRP_LINK)
                    self._replace({m["index"]: m for m in netlink.get_links()})
                    while True:
                        for message in netlink.get():
                            self._take(message)
            except (OSError, NetlinkError) as error:
                # ENOBUFS: messages were lost; a new dump makes up for them.
                log.warning("link messages interrupted, listening again: %s", error)
                time.sleep(0.1)

    def _replace(self, messages: dict[int, dict]) -> None:  # type: ignore[type-arg]
        for index in [index for index in self._links if index not in messages]:
            self._drop(index)
        for message in messages.values():
            self._take(message)

    def _take(self, message) -> None:  # type: ignore[no-untyped-def]  # pyroute2's nlmsg
        index = message["index"]
        if message.get("event") == "RTM_DELLINK":
            self._drop(index)
            return
        peer = message.get_attr("IFLA_LINK_NETNSID")
        name = message.get_attr("IFLA_IFNAME")
        if peer is None or name is None:
            return  # bridge and other sub-messages about a link leave it out
        with self._changed:
            self._links[index] = (name, peer)
            self._changed.notify_all()

    def _drop(self, index: int) -> None:
        with self._changed:
            link = self._links.pop(index, None)
        if link is not None:
            forget(link[0])
            self._on_gone(link[0])

    def of_process(self, pid: int, timeout_s: float = 1.0) -> tuple[str, ...]:
        """Names of this host's links whose other end is in a process's network namespace.

        Waits up to ``timeout_s`` for the kernel's message about a link just made; a namespace
        without links gives an empty tuple after that.
        """
        try:
            with IPRoute() as netlink:
                found = netlink.get_netnsid(pid=pid)
        except (OSError, NetlinkError):
            return ()
        peer = found["nsid"]
        if peer is None or peer < 0:
            return ()  # no link of this host's ends there
        with self._changed:
            self._changed.wait_for(lambda: self._into(peer), timeout_s)
            return self._into(peer)

    def _into(self, peer: int) -> tuple[str, ...]:
        return tuple(name for name, namespace in self._links.values() if namespace == peer)
