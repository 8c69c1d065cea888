"""What ``deploy`` answers beside the id: one code for each way it can end."""

from __future__ import annotations

from enum import IntEnum

from nfio.errors import (
    ConfigurationRejected,
    HypervisorError,
    HypervisorTimeout,
    HypervisorUnreachable,
    InvalidValue,
    NfioError,
    NoSuchVnf,
    NotSupported,
)


class ReturnCode(IntEnum):
    """How an operation ended; 0 is success, as everywhere in Unix."""

    SUCCESS = 0
    FAILURE = 1
    UNREACHABLE = 2
    TIMEOUT = 3
    NOT_SUPPORTED = 4
    NO_SUCH_VNF = 5
    INVALID = 6
    CONFIGURATION_REJECTED = 7


SUCCESS = ReturnCode.SUCCESS
EMPTY = ""

# Most specific first: an error has the code of the first class it is an instance of.
_CODES: tuple[tuple[type[NfioError], ReturnCode], ...] = (
    (ConfigurationRejected, ReturnCode.CONFIGURATION_REJECTED),
    (InvalidValue, ReturnCode.INVALID),
    (HypervisorUnreachable, ReturnCode.UNREACHABLE),
    (HypervisorTimeout, ReturnCode.TIMEOUT),
    (NotSupported, ReturnCode.NOT_SUPPORTED),
    (NoSuchVnf, ReturnCode.NO_SUCH_VNF),
    (HypervisorError, ReturnCode.FAILURE),
)


def code_of(error: NfioError) -> ReturnCode:
    """The return code that stands for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ReturnCode.FAILURE)


def error_of(code: ReturnCode, message: str) -> NfioError:
    """The error that a return code stands for; the inverse of ``code_of``."""
    kind = next((kind for kind, known in _CODES if known is code), HypervisorError)
    return kind(message)
