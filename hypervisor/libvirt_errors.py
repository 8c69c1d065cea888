"""The one boundary where libvirt's exceptions become nfio's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypervisor.libvirt_library import libvirt
from nfio.errors import (
    HypervisorError,
    HypervisorTimeout,
    HypervisorUnreachable,
    NfioError,
    NoSuchVnf,
    NotSupported,
)

#: libvirt's error codes by name; those that are not here are refusals (HypervisorError).
MEANINGS: dict[str, type[HypervisorError]] = {
    "VIR_ERR_NO_DOMAIN": NoSuchVnf,
    "VIR_ERR_OPERATION_TIMEOUT": HypervisorTimeout,
    "VIR_ERR_AGENT_UNRESPONSIVE": HypervisorTimeout,
    "VIR_ERR_AGENT_UNSYNCED": HypervisorTimeout,
    "VIR_ERR_NO_SUPPORT": NotSupported,
    "VIR_ERR_OPERATION_UNSUPPORTED": NotSupported,
    "VIR_ERR_ARGUMENT_UNSUPPORTED": NotSupported,
    "VIR_ERR_CONFIG_UNSUPPORTED": NotSupported,
    "VIR_ERR_NO_CONNECT": HypervisorUnreachable,
    "VIR_ERR_INVALID_CONN": HypervisorUnreachable,
    "VIR_ERR_UNKNOWN_HOST": HypervisorUnreachable,
    "VIR_ERR_AUTH_FAILED": HypervisorUnreachable,
    "VIR_ERR_AUTH_CANCELLED": HypervisorUnreachable,
    "VIR_ERR_AUTH_UNAVAILABLE": HypervisorUnreachable,
    "VIR_ERR_GNUTLS_ERROR": HypervisorUnreachable,
    "VIR_ERR_SYSTEM_ERROR": HypervisorError,
    "VIR_ERR_SSH": HypervisorUnreachable,
    "VIR_ERR_LIBSSH": HypervisorUnreachable,
    "VIR_ERR_RPC": HypervisorUnreachable,
}

#: parts of libvirt whose errors are about the way to the daemon, whatever their code
_TRANSPORT = ("VIR_FROM_RPC", "VIR_FROM_SSH", "VIR_FROM_LIBSSH")


def translate(error: Exception, uri: str) -> NfioError:
    """nfio's error for one of libvirt's."""
    words = str(getattr(error, "get_error_message", lambda: None)() or error)
    code = getattr(error, "get_error_code", lambda: None)()
    kind = next((kind for name, kind in MEANINGS.items() if getattr(libvirt, name, -1) == code), None)
    domain = getattr(error, "get_error_domain", lambda: None)()
    if "keepalive" in words:
        # The daemon still has the connection and has stopped answering on it.
        return HypervisorTimeout(f"libvirt at {uri} does not answer; is libvirtd hung?")
    if domain in [getattr(libvirt, name) for name in _TRANSPORT] and kind in (None, HypervisorError):
        kind = HypervisorUnreachable
    if kind is HypervisorUnreachable:
        return kind(f"libvirt at {uri} cannot be reached ({words}); `nfio doctor` says more")
    return (kind or HypervisorError)(words)


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turn what libvirt and the file system raise inside into an NfioError, the original as its cause."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, uri) from error
    except OSError as error:
        # What a machine is made of are files of this host.
        raise HypervisorError(str(error)) from error


def is_a(error: Exception, *names: str) -> bool:
    """Whether an error of libvirt's has one of these codes."""
    code = getattr(error, "get_error_code", lambda: None)()
    return code in [getattr(libvirt, name, -1) for name in names]
