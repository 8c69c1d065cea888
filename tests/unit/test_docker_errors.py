"""Every exception of the Docker SDK, requests and urllib3 has an errno that says what happened."""

from __future__ import annotations

import http.client
import json
from io import BytesIO
from types import ModuleType, SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests.exceptions
import urllib3.exceptions

from hypervisor.docker_errors import translate, translate_errors
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable, NfioError, NoSuchVnf

ENGINE = "unix:///var/run/docker.sock"
MODULES = (docker.errors, requests.exceptions, urllib3.exceptions)

#: a class whose constructor wants more than a message: what it gets
_POOL = urllib3.HTTPConnectionPool("localhost")
_RESPONSE = urllib3.HTTPResponse(BytesIO(b""), preload_content=False)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "docker.ContainerError": (SimpleNamespace(), 1, "command", "image", b"words"),
    "docker.BuildError": ("words", []),
    "urllib3.PoolError": (_POOL, "words"),
    "urllib3.EmptyPoolError": (_POOL, "words"),
    "urllib3.FullPoolError": (_POOL, "words"),
    "urllib3.ClosedPoolError": (_POOL, "words"),
    "urllib3.RequestError": (_POOL, "/", "words"),
    "urllib3.ReadTimeoutError": (_POOL, "/", "words"),
    "urllib3.MaxRetryError": (_POOL, "/"),
    "urllib3.HostChangedError": (_POOL, "/"),
    "urllib3.ProxyError": ("words", ValueError("words")),
    "urllib3.NewConnectionError": (http.client.HTTPConnection("localhost"), "words"),
    "urllib3.NameResolutionError": ("localhost", http.client.HTTPConnection("localhost"), OSError("words")),
    "urllib3.IncompleteRead": (1, 2),
    "urllib3.InvalidChunkLength": (_RESPONSE, b"x"),
    "urllib3.HeaderParsingError": ([], "words"),
    "requests.JSONDecodeError": ("words", "document", 0),
}

UNREACHABLE, TIMEOUT, REFUSED, GONE = HypervisorUnreachable, HypervisorTimeout, HypervisorError, NoSuchVnf

#: what a class of docker.errors means, and what those of the transport below it mean
MEANING: dict[str, type[NfioError]] = {
    "docker.APIError": REFUSED,
    "docker.NotFound": GONE,
    "docker.ImageNotFound": REFUSED,
    "docker.TLSParameterError": UNREACHABLE,
    "docker.StreamParseError": UNREACHABLE,
    "requests.Timeout": TIMEOUT,
    "requests.ReadTimeout": TIMEOUT,
    "requests.ConnectTimeout": UNREACHABLE,
    "urllib3.TimeoutError": TIMEOUT,
    "urllib3.ReadTimeoutError": TIMEOUT,
    "urllib3.ConnectTimeoutError": UNREACHABLE,
}


def _package(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


CLASSES = {
    f"{_package(module)}.{name}": found
    for module in MODULES
    for name, found in vars(module).items()
    if isinstance(found, type)
    and issubclass(found, Exception)
    and not issubclass(found, Warning)
    and _package(module) == found.__module__.partition(".")[0]
}


def make(name: str) -> Exception:
    made = CLASSES[name](*ARGUMENTS.get(name, ("words",)))
    assert isinstance(made, Exception)
    return made


def translated(error: Exception) -> NfioError:
    with pytest.raises(NfioError) as found, translate_errors(ENGINE):
        raise error
    assert found.value.__cause__ is error
    return found.value


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_exception_of_the_sdk_and_its_transport_is_translated(name: str) -> None:
    """A class that a new version brings fails here until somebody has said what it means."""
    expected = MEANING.get(name, REFUSED if name.startswith("docker.") else UNREACHABLE)
    error = translated(make(name))
    assert type(error) is expected
    assert error.line


def test_the_list_of_meanings_names_only_classes_that_there_are() -> None:
    assert set(MEANING) | set(ARGUMENTS) <= set(CLASSES)
    assert len(CLASSES) > 60


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), TIMEOUT),
        (ConnectionRefusedError(111, "Connection refused"), UNREACHABLE),
        (FileNotFoundError(2, "No such file or directory"), UNREACHABLE),
        (PermissionError(13, "Permission denied"), UNREACHABLE),
        (BrokenPipeError(32, "Broken pipe"), UNREACHABLE),
        (EOFError(), UNREACHABLE),
        (http.client.BadStatusLine("x"), UNREACHABLE),
        (http.client.IncompleteRead(b""), UNREACHABLE),
    ],
)
def test_what_sockets_raise_is_translated(error: Exception, expected: type[NfioError]) -> None:
    assert type(translated(error)) is expected


def wrapped(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (
            wrapped(
                docker.errors.DockerException("Error while fetching server API version"),
                requests.exceptions.ConnectionError(
                    urllib3.exceptions.ProtocolError("aborted", FileNotFoundError(2, "No such file"))
                ),
            ),
            UNREACHABLE,
            "No such file",
        ),
        (
            wrapped(
                docker.errors.DockerException("Error while fetching server API version"),
                requests.exceptions.ReadTimeout(make("urllib3.ReadTimeoutError")),
            ),
            TIMEOUT,
            "does not answer",
        ),
        (
            requests.exceptions.ConnectionError(make("urllib3.ReadTimeoutError")),
            TIMEOUT,
            "does not answer",
        ),
        (
            requests.exceptions.ConnectionError(
                urllib3.exceptions.MaxRetryError(_POOL, "/", make("urllib3.NewConnectionError"))
            ),
            UNREACHABLE,
            "cannot be reached",
        ),
    ],
)
def test_the_cause_decides_where_one_exception_wraps_another(
    error: Exception, expected: type[NfioError], words: str
) -> None:
    found = translated(error)
    assert type(found) is expected
    assert words in found.line and ENGINE in found.line


def test_the_engines_own_words_are_kept() -> None:
    refusal = docker.errors.APIError("500 Server Error", explanation="no space left on device")
    assert translated(refusal).line == "no space left on device"
    missing = docker.errors.ImageNotFound("404", explanation="No such image: x:latest")
    assert translated(missing).line == "No such image: x:latest: `nfio image list` shows what there is"


def test_nfios_own_errors_pass_unchanged() -> None:
    own = HypervisorTimeout("words")
    with pytest.raises(HypervisorTimeout) as found, translate_errors(ENGINE):
        raise own
    assert found.value is own and translate(own, ENGINE) is own


@pytest.mark.parametrize(
    "error", [KeyError("Id"), ValueError("x"), TypeError("x"), json.JSONDecodeError("x", "", 0)]
)
def test_a_mistake_in_the_driver_is_not_taken_for_the_engines(error: Exception) -> None:
    with pytest.raises(type(error)), translate_errors(ENGINE):
        raise error
