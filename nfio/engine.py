"""Following one hypervisor: what happens to its guests, and whether it answers at all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from hypervisor.hypervisor_base import GuestEvent, GuestStatus, HypervisorBase
from nfio.errors import HypervisorError, HypervisorTimeout, NfioError
from nfio.vnf import ticket

log = logging.getLogger(__name__)

#: how often the engine is asked whether it is there, in seconds
HEARTBEAT_S = 1.0
#: how long to wait before an engine that went away is tried again; longer with each failure
_RETRY_S = 0.25
_RETRY_MAX_S = 2.0


class Engine:
    """The hypervisor of one host, as it is now.

    One thread follows its events, so that no read has to ask; one asks it every second
    whether it still answers, since an engine that hangs says nothing.

    Args:
        on_guests: called with all guests of this root and the ticket of that look, whenever
            the subscription was made anew and what happened meanwhile is not known.
        on_event: called for each event.
    """

    def __init__(
        self,
        hypervisor: HypervisorBase,
        host: str,
        root_id: str,
        on_guests: Callable[[str, list[GuestStatus], int], None],
        on_event: Callable[[str, GuestEvent], None],
    ) -> None:
        self.host = host
        self._hypervisor = hypervisor
        self._root_id = root_id
        self._on_guests = on_guests
        self._on_event = on_event
        self._error: NfioError | None = None
        self._subscribed = False
        self._looked = threading.Event()
        self._stopped = threading.Event()

    def start(self) -> None:
        for run in (self._follow, self._ask):
            name = f"{run.__name__.strip('_')} {self.host or 'localhost'}"
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def require(self, timeout_s: float) -> None:
        """Return if what is known of its guests is true now.

        Raises:
            HypervisorUnreachable, HypervisorTimeout: it does not answer.
        """
        if not self._looked.wait(timeout_s):
            raise HypervisorTimeout("the hypervisor has not answered yet")
        error = self._error
        if error is not None:
            raise type(error)(error.reason)

    def ask_again(self) -> None:
        """Return at once if the hypervisor answered when it was last asked, else ask it now.

        So an operation fails within the time of a ping while the hypervisor is down, and not
        after the timeout of its first call; and it goes through as soon as it is back.
        """
        if self._error is not None or not self._looked.is_set():
            self._hypervisor.ping(self.host)

    def _follow(self) -> None:
        retry_s = _RETRY_S
        while not self._stopped.is_set():
            try:
                for event in self._hypervisor.events(self.host, self._root_id):
                    if self._stopped.is_set():
                        return
                    if event is None:
                        self._subscribed = True
                        self._look_at_all()
                        retry_s = _RETRY_S
                    else:
                        self._on_event(self.host, event)
            except (NfioError, OSError) as error:
                self._subscribed = False
                self._note(error)
                self._stopped.wait(retry_s)
                retry_s = min(2 * retry_s, _RETRY_MAX_S)

    def _ask(self) -> None:
        while not self._stopped.wait(HEARTBEAT_S):
            try:
                self._hypervisor.ping(self.host)
                if self._error is not None and self._subscribed:
                    # It hung, or the way to it was cut, and its event stream has survived that.
                    # An operation that was given up may have happened after all.
                    self._look_at_all()
            except (NfioError, OSError) as error:
                self._note(error)

    def _look_at_all(self) -> None:
        taken = ticket()
        guests = self._hypervisor.list_guests(self.host, self._root_id)
        self._on_guests(self.host, guests, taken)
        if self._error is not None:
            log.info("the hypervisor of %s answers again", self.host or "localhost")
        self._error = None
        self._looked.set()

    def _note(self, error: NfioError | OSError) -> None:
        """Keep what is wrong. An OSError is this host's own: what was seen could not be stored."""
        known = (
            error if isinstance(error, NfioError) else HypervisorError(f"{error}: what it does is not known")
        )
        if self._error is None or type(known) is not type(self._error):
            log.warning("hypervisor of %s: %s", self.host or "localhost", known.line)
        self._error = known
        self._looked.set()
