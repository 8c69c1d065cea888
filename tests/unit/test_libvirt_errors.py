"""Every error code that libvirt has is known to mean something; those that matter mean what they say."""

from __future__ import annotations

import pytest

from hypervisor.libvirt_errors import MEANINGS, is_a, translate, translate_errors
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable, NoSuchVnf, NotSupported

libvirt = pytest.importorskip("libvirt")

URI = "qemu:///system"
#: a part of libvirt whose errors are about a domain, and the one that is about the way to the daemon
FROM_QEMU, FROM_RPC = libvirt.VIR_FROM_QEMU, libvirt.VIR_FROM_RPC


def error(code: int, words: str = "words", domain: int = FROM_QEMU) -> Exception:
    made: Exception = libvirt.libvirtError(words)
    made.err = (code, domain, words, 2, None, None, None, -1, -1)  # type: ignore[attr-defined]
    return made


CODES = {name: getattr(libvirt, name) for name in dir(libvirt) if name.startswith("VIR_ERR_")}
LEVELS = {"VIR_ERR_NONE", "VIR_ERR_WARNING", "VIR_ERR_ERROR"}


@pytest.mark.parametrize("name", sorted(set(CODES) - LEVELS))
def test_every_code_becomes_one_of_nfios_errors(name: str) -> None:
    found = translate(error(CODES[name]), URI)
    assert type(found) is MEANINGS.get(name, HypervisorError)
    assert "words" in found.reason


def test_every_code_with_a_meaning_is_one_of_libvirts() -> None:
    assert set(MEANINGS) <= set(CODES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("VIR_ERR_NO_DOMAIN", NoSuchVnf),
        ("VIR_ERR_OPERATION_INVALID", HypervisorError),
        ("VIR_ERR_AGENT_UNRESPONSIVE", HypervisorTimeout),
        ("VIR_ERR_CONFIG_UNSUPPORTED", NotSupported),
        ("VIR_ERR_AUTH_FAILED", HypervisorUnreachable),
    ],
)
def test_what_matters_means_what_it_says(name: str, kind: type[HypervisorError]) -> None:
    assert type(translate(error(CODES[name]), URI)) is kind


@pytest.mark.parametrize("name", ["VIR_ERR_SYSTEM_ERROR", "VIR_ERR_INTERNAL_ERROR", "VIR_ERR_RPC"])
def test_errors_on_the_way_to_the_daemon_are_unreachable(name: str) -> None:
    found = translate(error(CODES[name], "client socket is closed", FROM_RPC), URI)
    assert type(found) is HypervisorUnreachable
    assert URI in found.reason and "client socket is closed" in found.reason


def test_a_daemon_that_stopped_answering_is_late_and_not_gone() -> None:
    words = "internal error: connection closed due to keepalive timeout"
    found = translate(error(CODES["VIR_ERR_INTERNAL_ERROR"], words, FROM_RPC), URI)
    assert type(found) is HypervisorTimeout


def test_the_original_is_the_cause() -> None:
    original = error(CODES["VIR_ERR_NO_DOMAIN"])
    with pytest.raises(NoSuchVnf) as found, translate_errors(URI):
        raise original
    assert found.value.__cause__ is original


def test_a_mistake_in_the_driver_is_not_taken_for_libvirts() -> None:
    with pytest.raises(KeyError), translate_errors(URI):
        raise KeyError("Id")


def test_codes_are_recognised_by_name() -> None:
    assert is_a(error(CODES["VIR_ERR_NO_NETWORK"]), "VIR_ERR_NO_DOMAIN", "VIR_ERR_NO_NETWORK")
    assert not is_a(error(CODES["VIR_ERR_NO_NETWORK"]), "VIR_ERR_NO_DOMAIN")
    assert not is_a(ValueError(), "VIR_ERR_NO_DOMAIN", "VIR_ERR_THERE_IS_NO_SUCH")
