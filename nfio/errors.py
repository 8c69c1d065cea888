"""Every error nfio raises on purpose, each with the errno its caller sees.

::

    NfioError
    ├── InvalidValue            EINVAL      a word, name or value that is not one
    │   └── ConfigurationRejected           the function's own checker refused the configuration
    ├── NotPermitted            EPERM       mkdir where it means nothing; a type without a module
    ├── AccessDenied            EACCES      a file of this directory is not to be made or written
    ├── NotFound                ENOENT
    ├── AlreadyExists           EEXIST
    ├── NotADirectory           ENOTDIR
    ├── IsADirectory            EISDIR
    ├── NotEmpty                ENOTEMPTY
    ├── Busy                    EBUSY       not now
    │   └── StateTransitionNotAllowedException   the lifecycle has no such move from this state
    ├── NetworkDown             ENETDOWN    live value of a VNF that is not running
    └── HypervisorError         EIO         the hypervisor refused or failed
        ├── HypervisorUnreachable   EHOSTUNREACH   nobody answers at its address
        ├── HypervisorTimeout       ETIMEDOUT      it was reached and did not answer in time
        ├── NotSupported            EOPNOTSUPP     this hypervisor or type cannot do that
        └── NoSuchVnf               EIO            it does not know this container or domain

This module imports nothing of nfio, so that every layer may use it.
"""

from __future__ import annotations

import errno

#: characters of a reason that ``error`` shows; a checker may go on for pages
LINE_LIMIT = 600


class NfioError(Exception):
    """Base of all errors that a user may see; ``errno`` is what the system call returns."""

    errno: int = errno.EIO

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def line(self) -> str:
        """The reason as the one line of ASCII that the file ``error`` holds, cut where nobody reads on."""
        words = " ".join(self.reason.split())
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)
        line = shown.encode("ascii", "backslashreplace").decode()
        return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]}..."


class InvalidValue(NfioError):
    errno = errno.EINVAL


class ConfigurationRejected(InvalidValue):
    """The message is the checker's own; nothing was applied."""


class NotPermitted(NfioError):
    errno = errno.EPERM


class AccessDenied(NfioError):
    errno = errno.EACCES


class NotFound(NfioError):
    errno = errno.ENOENT


class AlreadyExists(NfioError):
    errno = errno.EEXIST


class NotADirectory(NfioError):
    errno = errno.ENOTDIR


class IsADirectory(NfioError):
    errno = errno.EISDIR


class NotEmpty(NfioError):
    errno = errno.ENOTEMPTY


class Busy(NfioError):
    errno = errno.EBUSY


class StateTransitionNotAllowedException(Busy):
    """fog05's name. EBUSY and not EINVAL: the word is right, the moment is not."""


class NetworkDown(NfioError):
    """ENETDOWN and not 0: an idle VNF and a dead one must not look the same."""

    errno = errno.ENETDOWN


class HypervisorError(NfioError):
    """EIO: the engine answered, and its answer was no. The reason is in its words."""

    errno = errno.EIO


class HypervisorUnreachable(HypervisorError):
    errno = errno.EHOSTUNREACH


class HypervisorTimeout(HypervisorError):
    errno = errno.ETIMEDOUT


class NotSupported(HypervisorError):
    errno = errno.EOPNOTSUPP


class NoSuchVnf(HypervisorError):
    """EIO and not ENOENT: the file that was written to does exist."""
