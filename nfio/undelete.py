"""What `rm` means for files that belong to the tree.

Such a file cannot go, so unlinking resets it. Two kinds of client need more than that:

* `mv` from another file system, `install` and editors unlink a file and then create it anew,
  and fail if it is still there. So the process that unlinked it does not see it for a moment.
* `rm -r` of a VNF unlinks every file before its rmdir is refused because the VNF runs, and what
  is written anew may be refused. So what was unlinked is kept for a while, and put back when
  that happens. One that is refused a part goes on with the rest, and leaves out the rmdir: to a
  process that began with what only goes with the whole, the rest is refused too.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

from nfio import values
from nfio.errors import Busy
from nfio.store import Store
from nfio.type_files import make_parents
from nfio.vnf import Vnf

ABSENT_S = 1.0
KEPT_S = 60.0
#: how long a process that was refused a part of a removal is thought to go on with the rest
GOES_ON_S = 1.0

Caller = Callable[[], tuple[int, int, int]]


class Undelete:
    """Files unlinked a moment ago."""

    def __init__(self, store: Store) -> None:
        self._trash = store.own / "trash"
        self._absent: dict[str, tuple[int, float]] = {}  # path: (pid that unlinked it, until when)
        self._kept: dict[tuple[str, str], tuple[int, float]] = {}  # (uuid, file): by whom, until when
        self._whole: set[tuple[str, int]] = set()  # (uuid, pid) of removals that began with `action`
        self._refused: dict[tuple[str, int], float] = {}  # (uuid, pid): until when it goes on

    # -- absent for the process that unlinked it ----------------------------------------------

    def is_absent(self, path: str, caller: Caller) -> bool:
        """Whether the caller is the process that has just unlinked a file of the tree."""
        if not self._absent:
            return False
        pid, until = self._absent.get(path, (0, 0.0))
        return time.monotonic() < until and caller()[2] == pid

    def set_absent(self, path: str, caller: Caller) -> None:
        now = time.monotonic()
        for old, (_, until) in list(self._absent.items()):
            if until < now:
                self._absent.pop(old, None)
        self._absent[path] = (caller()[2], now + ABSENT_S)

    def made(self, path: str, caller: Caller) -> bool:
        """A file is there again; whether for the process that has just unlinked it."""
        absent = self.is_absent(path, caller)
        self._absent.pop(path, None)
        return absent

    # -- removals of a whole VNF --------------------------------------------------------------

    def begin(self, vnf: Vnf, file: str, caller: Caller) -> None:
        """A file of a VNF is to be removed. Raises Busy (EBUSY) as said above."""
        removal, now = (vnf.uuid, caller()[2]), time.monotonic()
        goes_on = now < self._refused.get(removal, 0.0)
        if not goes_on and self._refused.pop(removal, None) is not None:
            self._whole.discard(removal)  # that one is over
        if file == "action":
            self._whole.add(removal)
        if goes_on and removal in self._whole:
            self._refused[removal] = now + GOES_ON_S
            raise Busy(f"{vnf.label} cannot be removed now")

    def refused(self, vnf: Vnf, caller: Caller) -> bool:
        """It was not removed. Returns whether something was put back."""
        removal = vnf.uuid, caller()[2]
        if removal not in self._whole:
            return False
        self._refused[removal] = time.monotonic() + GOES_ON_S
        return self.restore(vnf, caller)

    # -- kept for an rmdir that is refused ----------------------------------------------------

    def keep(self, vnf: Vnf, file: str, caller: Caller) -> None:
        """Take a stored file away, so that it can be put back."""
        pid, now = caller()[2], time.monotonic()
        for (uuid, old), (by, until) in list(self._kept.items()):
            if (uuid, by) == (vnf.uuid, pid):
                self._kept[uuid, old] = pid, now + KEPT_S  # a long removal goes on
            elif until < now:
                self._kept.pop((uuid, old), None)
                (self._trash / uuid / old).unlink(missing_ok=True)
        kept = self._trash / vnf.uuid / file
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.rename(vnf.path / file, kept)
        self._kept[vnf.uuid, file] = pid, now + KEPT_S

    def settle(self, vnf: Vnf, file: str, accepted: bool) -> bool:
        """A file was made anew. What it held before is not wanted back, unless it was refused.

        Returns:
            Whether it was put back.
        """
        if (vnf.uuid, file) not in self._kept:
            return False
        _, until = self._kept.pop((vnf.uuid, file))
        kept = self._trash / vnf.uuid / file
        if accepted or time.monotonic() >= until:
            kept.unlink(missing_ok=True)
            return False
        make_parents(vnf.path, file)
        os.rename(kept, vnf.path / file)
        if file == "machine/ip":
            vnf.host = values.parse_host(vnf.value(file))
        return True

    def restore(self, vnf: Vnf, caller: Caller) -> bool:
        """Put back what the caller, whose rmdir was refused, unlinked and did not make anew.

        Returns:
            Whether there was anything.
        """
        restored = False
        for (uuid, file), (pid, _) in list(self._kept.items()):
            if uuid == vnf.uuid and pid == caller()[2]:
                self.settle(vnf, file, False)
                self._absent.pop(f"/nf-types/{vnf.label}/{file}", None)
                restored = True
        return restored

    def drop(self, vnf: Vnf) -> None:
        """The VNF is gone, and with it what was kept of it."""
        for key in [key for key in self._kept if key[0] == vnf.uuid]:
            del self._kept[key]
        self._whole = {removal for removal in self._whole if removal[0] != vnf.uuid}
        self._refused = {key: until for key, until in self._refused.items() if key[0] != vnf.uuid}
        shutil.rmtree(self._trash / vnf.uuid, ignore_errors=True)
        # One of that name that is made at once has all its files, for everybody.
        for path in [path for path in self._absent if path.startswith(f"/nf-types/{vnf.label}/")]:
            self._absent.pop(path, None)
