"""The one driver of a process, and the codes that it answers with."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from memory_driver import MemoryDriver

from hypervisor.docker_driver import Docker
from hypervisor.hypervisor_base import HypervisorBase, Resources, VnfSpec
from hypervisor.hypervisor_factory import DRIVERS, HypervisorFactory
from hypervisor.hypervisor_return_codes import EMPTY, SUCCESS, ReturnCode, code_of, error_of
from nfio import errors
from nfio.errors import HypervisorError, HypervisorTimeout, NfioError


@pytest.mark.usefixtures("no_hypervisor")
def test_there_is_no_driver_before_the_factory_was_made() -> None:
    with pytest.raises(RuntimeError):
        HypervisorFactory.get_hypervisor_instance()


@pytest.mark.usefixtures("no_hypervisor")
def test_docker_is_the_default_and_speaks_to_no_engine_until_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    HypervisorFactory()
    assert isinstance(HypervisorFactory.get_hypervisor_instance(), Docker)


@pytest.mark.usefixtures("no_hypervisor")
@pytest.mark.parametrize("unknown", ["Xen", "docker", "", "os:system", None])
def test_an_unknown_type_is_a_type_error_before_and_after(unknown: str) -> None:
    with pytest.raises(TypeError, match="unknown hypervisor"):
        HypervisorFactory(unknown)
    with pytest.raises(RuntimeError):
        HypervisorFactory.get_hypervisor_instance()
    HypervisorFactory("Docker")
    with pytest.raises(TypeError):
        HypervisorFactory(unknown)


def test_a_second_type_is_a_value_error_and_the_first_stays(driver: MemoryDriver) -> None:
    HypervisorFactory("Memory")
    with pytest.raises(ValueError, match="is Memory, not Docker"):
        HypervisorFactory("Docker")
    assert HypervisorFactory.get_hypervisor_instance() is driver


@pytest.mark.parametrize("kind", sorted(DRIVERS))
@pytest.mark.usefixtures("no_hypervisor")
def test_every_driver_that_is_listed_can_be_made_without_an_engine(kind: str) -> None:
    HypervisorFactory(kind)
    assert isinstance(HypervisorFactory.get_hypervisor_instance(), HypervisorBase)


@pytest.mark.parametrize("kind", [MemoryDriver, Docker])
def test_drivers_take_the_arguments_that_the_base_promises(kind: type[HypervisorBase]) -> None:
    def methods(of: type) -> dict[str, Callable[..., object]]:
        return {n: f for n, f in vars(of).items() if inspect.isfunction(f) and not n.startswith("_")}

    for name, promised in methods(HypervisorBase).items():
        given = inspect.signature(getattr(kind, name))
        assert list(given.parameters) == list(inspect.signature(promised).parameters), name


ERRORS = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, NfioError)
]  # fmt: skip


@pytest.mark.parametrize("code", [code for code in ReturnCode if code is not SUCCESS])
def test_a_code_stands_for_an_error_and_the_error_for_the_code(code: ReturnCode) -> None:
    error = error_of(code, "words")
    assert code_of(error) is code and error.reason == "words"


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_code_and_no_failure_is_a_success(kind: type[NfioError]) -> None:
    code = code_of(kind("words"))
    assert code is not SUCCESS
    if issubclass(kind, HypervisorError | errors.InvalidValue):
        assert type(error_of(code, "words")) is kind
        assert error_of(code, "words").errno == kind.errno


def test_deploy_answers_with_id_code_and_message(driver: MemoryDriver) -> None:
    vnf_id, code, message = driver.deploy("", "root", "nfio/plain", "plain-a")
    assert (code, message) == (SUCCESS, EMPTY) and driver.get_id("", "root", "plain-a") == vnf_id
    assert driver.deploy("", "root", "missing", "plain-b") == (
        None, ReturnCode.FAILURE, "no such image: missing"
    )  # fmt: skip
    driver.engine("").fail("create", HypervisorTimeout("hung"))
    assert driver.deploy("", "root", "nfio/plain", "plain-b", spec=VnfSpec()) == (
        None, ReturnCode.TIMEOUT, "hung"
    )  # fmt: skip
    assert driver.deploy("nowhere", "root", "nfio/plain", "plain-b")[1] is ReturnCode.UNREACHABLE
    assert VnfSpec().resources == Resources(None, None)
