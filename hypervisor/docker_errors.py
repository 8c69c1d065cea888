"""The one boundary where the Docker SDK's exceptions become nfio's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import docker.errors
import requests.exceptions
import urllib3.exceptions

from nfio.errors import (
    HypervisorError,
    HypervisorTimeout,
    HypervisorUnreachable,
    NfioError,
    NoSuchVnf,
)

#: its host did not even let itself be connected to: that is not an answer that is late
_NOT_CONNECTED = (requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)
_TIMEOUTS = (
    requests.exceptions.Timeout,
    urllib3.exceptions.TimeoutError,
    TimeoutError,
)
_UNREACHABLE = (
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,
    docker.errors.TLSParameterError,
    docker.errors.StreamParseError,  # an event stream that broke off in the middle of a line
    HTTPException,
    OSError,
    EOFError,
)


def translate(error: Exception, engine: str) -> NfioError:
    """nfio's error for one of the SDK's, of requests', of urllib3's or of the socket below."""
    if isinstance(error, NfioError):
        return error
    if isinstance(error, docker.errors.ImageNotFound):
        return HypervisorError(f"{_words(error)}: `nfio image list` shows what there is")
    if isinstance(error, docker.errors.NotFound):
        return NoSuchVnf(_words(error))
    if isinstance(error, docker.errors.APIError):
        return HypervisorError(_words(error))
    # The SDK wraps what it meets while it connects, and requests wraps a read that timed out
    # inside a stream: the cause decides.
    chain = list(_chain(error))
    connected = not any(isinstance(link, _NOT_CONNECTED) for link in chain)
    if connected and any(isinstance(link, _TIMEOUTS) for link in chain):
        return HypervisorTimeout(f"the Docker engine at {engine} does not answer; is it hung or overloaded?")
    if any(isinstance(link, _UNREACHABLE) for link in chain):
        return HypervisorUnreachable(
            f"the Docker engine at {engine} cannot be reached ({_root_cause(chain)}); `nfio doctor` says more"
        )
    return HypervisorError(f"{type(error).__name__}: {error}")


def _words(error: docker.errors.APIError) -> str:
    return str(error.explanation or error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and the errors that it carries as arguments."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        pending += [
            other
            for other in (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
            if isinstance(other, BaseException)
        ]


def _root_cause(chain: list[BaseException]) -> str:
    plain = next((e for e in reversed(chain) if isinstance(e, OSError) and e.strerror), chain[-1])
    return getattr(plain, "strerror", None) or str(plain)


@contextmanager
def translate_errors(engine: str) -> Iterator[None]:
    """Turn whatever the SDK raises inside into an NfioError, the original as its cause."""
    try:
        yield
    except NfioError:
        raise
    except (docker.errors.DockerException, *_UNREACHABLE) as error:
        raise translate(error, engine) from error
