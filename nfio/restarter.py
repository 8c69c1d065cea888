"""Starting VNFs again that have ended by themselves: ``restart=on-failure`` of ``config/boot.conf``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nfio.errors import NfioError
from nfio.vnf import Vnf

log = logging.getLogger(__name__)

#: before the first attempt, in seconds; twice as long before each further one
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 60.0
#: one that has run for so long is not on its way down: the next death is its first
STEADY_S = 30.0


@dataclass
class _Watched:
    """A VNF that has died.

    Attributes:
        attempts: since it last ran steadily.
        orders: how many orders users had given it when it died; a further one takes over.
        tried: when it was last started again.
    """

    orders: int = 0
    attempts: int = 0
    tried: float = -STEADY_S
    timer: threading.Timer | None = None


class Restarter:
    """Starts VNFs again, each time after a longer wait.

    Args:
        revive: brings a VNF back to RUNNING; raises NfioError or OSError if it cannot.
        wanted: whether its configuration asks for it now.
    """

    def __init__(self, revive: Callable[[Vnf], None], wanted: Callable[[Vnf], bool]) -> None:
        self._revive = revive
        self._wanted = wanted
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def died(self, vnf: Vnf) -> None:
        """It was seen to have ended by itself."""
        with self._lock:
            watched = self._watched.setdefault(vnf.uuid, _Watched())
            if time.monotonic() > watched.tried + STEADY_S:
                watched.attempts = 0
            watched.orders = vnf.orders
            self._schedule(vnf, watched)

    def _schedule(self, vnf: Vnf, watched: _Watched) -> None:
        if self._stopped:
            return
        if watched.timer is not None:
            watched.timer.cancel()
        delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2**watched.attempts)
        watched.attempts += 1
        watched.timer = threading.Timer(delay_s, self._try, (vnf, watched))
        watched.timer.daemon = True
        watched.timer.start()
        log.info("%s is started again in %g s", vnf.label, delay_s)

    def _try(self, vnf: Vnf, watched: _Watched) -> None:
        try:
            if self._stopped or vnf.removed or vnf.orders != watched.orders or not self._wanted(vnf):
                return
            watched.tried = time.monotonic()
            self._revive(vnf)
        except (NfioError, OSError) as error:
            log.warning("%s could not be started again: %s", vnf.label, error)
            with self._lock:
                if vnf.orders == watched.orders and not vnf.removed:
                    self._schedule(vnf, watched)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for watched in self._watched.values():
                if watched.timer is not None:
                    watched.timer.cancel()
