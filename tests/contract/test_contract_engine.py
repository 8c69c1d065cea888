"""The engine itself: images, health, and an engine that is not there."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import wait_until
from guests import HOST, Guests
from subjects import PROGRAMS, Subject

from hypervisor.hypervisor_base import HypervisorBase, Resources
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_a_healthy_engine_answers(driver: HypervisorBase) -> None:
    driver.ping(HOST)
    findings = driver.check()
    assert findings and all(finding.ok and finding.what and finding.detail for finding in findings)
    assert driver.is_local(HOST) and driver.is_local("localhost")


def test_imported_images_are_listed(driver: HypervisorBase, subject: Subject) -> None:
    found = {image.name: image for image in driver.list_images()}
    for program in PROGRAMS:
        image = found[subject.image(program)]
        assert image.size_bytes > 100_000 and image.created > 1_600_000_000


@pytest.fixture
def unreachable(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Iterator[HypervisorBase]:
    """A driver whose engine is not there."""
    for key, value in subject.nowhere.items():
        monkeypatch.setenv(key, value)
    yield subject.driver()
    # SDKs leave the sockets of connections that failed to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


_ID = "0" * 64
CALLS: dict[str, Callable[[HypervisorBase], object]] = {
    "ping": lambda driver: driver.ping(HOST),
    "get_id": lambda driver: driver.get_id(HOST, "nfio", "contract"),
    "start": lambda driver: driver.start(HOST, _ID),
    "restart": lambda driver: driver.restart(HOST, _ID),
    "stop": lambda driver: driver.stop(HOST, _ID),
    "pause": lambda driver: driver.pause(HOST, _ID),
    "unpause": lambda driver: driver.unpause(HOST, _ID),
    "destroy": lambda driver: driver.destroy(HOST, _ID),
    "execute_in_guest": lambda driver: driver.execute_in_guest(HOST, _ID, ["true"]),
    "guest_status": lambda driver: driver.guest_status(HOST, _ID),
    "inspect": lambda driver: driver.inspect(HOST, _ID),
    "list_guests": lambda driver: driver.list_guests(HOST, "root"),
    "events": lambda driver: next(iter(driver.events(HOST, "root"))),
    "console_log": lambda driver: driver.console_log(HOST, _ID, 1000),
    "scale": lambda driver: driver.scale(HOST, _ID, Resources(vcpu=1)),
    "counters": lambda driver: driver.counters(HOST, _ID),
    "list_images": lambda driver: driver.list_images(),
    "remove_image": lambda driver: driver.remove_image("nfio-contract/none"),
    "import_image": lambda driver: driver.import_image("nfio-contract/none", Path("/dev/null"), ["true"], {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_engine_that_is_not_there_is_unreachable_to_every_call(
    unreachable: HypervisorBase, call: str
) -> None:
    with pytest.raises(HypervisorUnreachable) as failure:
        CALLS[call](unreachable)
    assert failure.value.reason


def test_no_call_that_speaks_to_the_engine_is_left_out() -> None:
    silent = {"push_config", "is_local", "check", "create"}
    assert set(CALLS) | silent == set(HypervisorBase.__abstractmethods__)


def test_deploy_answers_that_the_engine_is_not_there(unreachable: HypervisorBase) -> None:
    vnf_id, code, message = unreachable.deploy(HOST, "nfio", "nfio-contract/idle", "contract")
    assert (vnf_id, code) == (None, ReturnCode.UNREACHABLE)
    assert message


def test_check_says_what_mends_an_engine_that_is_not_there(unreachable: HypervisorBase) -> None:
    bad = [finding for finding in unreachable.check() if not finding.ok]
    assert bad and all(finding.detail and finding.mend for finding in bad)


def test_making_a_driver_speaks_to_no_engine(unreachable: HypervisorBase) -> None:
    assert unreachable.timeout_s > 0


def test_an_engine_that_hangs_is_given_up_in_time_and_used_again_when_it_goes_on(
    subject: Subject, guests: Guests, directory: Path
) -> None:
    vnf_id = guests.deploy()
    with subject.hung(directory, vnf_id) as hung:
        begun = time.monotonic()
        with pytest.raises((HypervisorTimeout, HypervisorUnreachable)):
            hung.call()
        assert time.monotonic() - begun < hung.driver.timeout_s + 12  # an order takes several calls
        hung.go_on()
        wait_until(lambda: _succeeds(hung.call), 30, "the engine is used again")
    assert guests.ids() == {vnf_id}
    assert guests.driver.destroy(HOST, vnf_id) is SUCCESS
    assert guests.ids() == set()


def _succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except HypervisorError:
        return False
    return True
