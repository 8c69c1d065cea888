"""Making, moving and removing guests: the same of every driver."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from engine import wait_until
from guests import HOST, Guests, Life
from subjects import SUBJECTS, Subject

from hypervisor.hypervisor_base import HypervisorBase, Phase, Resources
from hypervisor.hypervisor_factory import DRIVERS
from hypervisor.hypervisor_return_codes import EMPTY, SUCCESS, ReturnCode
from nfio.errors import ConfigurationRejected, HypervisorError, NoSuchVnf

UNKNOWN = "0" * 64


def test_every_driver_is_under_contract() -> None:
    assert set(SUBJECTS) == set(DRIVERS)


# -- deploy ---------------------------------------------------------------------------------


def test_deploy_answers_with_the_id_of_a_guest_that_is_made_and_not_started(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    spec = guests.spec(instance=name)
    vnf_id, code, message = driver.deploy(HOST, "nfio", subject.image("idle"), name, spec=spec)
    assert (code, message) == (SUCCESS, EMPTY)
    assert vnf_id == driver.get_id(HOST, "nfio", name)
    status = driver.inspect(HOST, vnf_id)
    assert status.vnf_id == vnf_id
    assert status.uuid == spec.uuid
    assert status.name == f"nfio-{name}"
    assert status.phase is Phase.CONFIGURED
    assert (status.pid, status.address, status.exit_code, status.reason) == (None, "", None, "")


def test_a_guest_can_be_deployed_with_a_name_and_an_image_alone(
    driver: HypervisorBase, subject: Subject
) -> None:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    vnf_id, code, _ = driver.deploy(HOST, "nfio", subject.image("idle"), name)
    try:
        assert code is SUCCESS
        assert driver.get_id(HOST, "nfio", name) == vnf_id
    finally:
        driver.destroy(HOST, vnf_id or "")


def has_mark(driver: HypervisorBase, vnf_id: str) -> bool:
    return driver.execute_in_guest(HOST, vnf_id, ["test", "-e", "/mark"]).exit_code == 0


def test_deploying_twice_leaves_one_guest_with_nothing_of_what_the_first_wrote(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    spec = guests.spec(instance=name)
    first, *_ = driver.deploy(HOST, "nfio", subject.image("idle"), name, spec=spec)
    driver.start(HOST, first or "")
    driver.execute_in_guest(HOST, first or "", ["touch", "/mark"])
    assert has_mark(driver, first or "")
    second, code, message = driver.deploy(HOST, "nfio", subject.image("idle"), name, spec=spec)
    assert (code, message) == (SUCCESS, EMPTY)
    assert guests.ids() == {second}
    assert driver.get_id(HOST, "nfio", name) == second
    driver.start(HOST, second or "")
    assert not has_mark(driver, second or "")


def test_deploy_is_refused_where_a_stranger_has_the_name(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    subject.make_stranger(f"nfio-{name}", subject.image("idle"))
    try:
        spec = guests.spec(instance=name)
        vnf_id, code, message = driver.deploy(HOST, "nfio", subject.image("idle"), name, spec=spec)
        assert (vnf_id, code) == (None, ReturnCode.FAILURE)
        assert f"nfio-{name}" in message
        assert guests.ids() == set()
        assert [found for found in subject.names() if name in found] == [f"nfio-{name}"]
    finally:
        subject.remove_stranger(f"nfio-{name}")


def test_two_vnfs_of_nfio_may_have_one_name(driver: HypervisorBase, subject: Subject, guests: Guests) -> None:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    here, there = guests, Guests(subject, driver)
    try:
        made = [
            driver.deploy(HOST, "nfio", subject.image("idle"), name, spec=root.spec(instance=name))
            for root in (here, there)
        ]
        assert [code for _, code, _ in made] == [SUCCESS, SUCCESS]
        (first, *_), (second, *_) = made
        assert first != second
        assert (here.ids(), there.ids()) == ({first}, {second})
        names = {driver.inspect(HOST, vnf_id or "").name for vnf_id in (first, second)}
        assert len(names) == 2 and all(found.startswith(f"nfio-{name}") for found in names)
    finally:
        there.remove()


def test_deploy_says_which_image_is_missing_and_leaves_nothing(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    before = subject.names()
    image = "nfio-contract/there-is-none"
    spec = guests.spec(instance="missing")
    vnf_id, code, message = driver.deploy(HOST, "nfio", image, "contract-missing", spec=spec)
    assert (vnf_id, code) == (None, ReturnCode.FAILURE)
    assert image in message and "\n" not in message.strip()
    assert guests.ids() == set() and "nfio-contract-missing" not in subject.names()
    assert "nfio-contract-missing" not in before


def test_deploy_leaves_nothing_where_the_engine_refuses_the_limits(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    spec = guests.spec(instance="tiny", resources=Resources(memory_bytes=1))
    vnf_id, code, message = driver.deploy(HOST, "nfio", subject.image("idle"), "contract-tiny", spec=spec)
    assert (vnf_id, code) == (None, ReturnCode.FAILURE)
    assert "memory" in message.lower()
    assert guests.ids() == set() and "nfio-contract-tiny" not in subject.names()


def test_many_threads_deploy_start_pause_and_destroy_at_once(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    def live(number: int) -> str:
        vnf_id = guests.run()
        assert driver.inspect(HOST, vnf_id).phase is Phase.RUNNING
        if number % 2:
            assert driver.pause(HOST, vnf_id) is SUCCESS
        assert driver.destroy(HOST, vnf_id) is SUCCESS
        with pytest.raises(NoSuchVnf):
            driver.inspect(HOST, vnf_id)
        return vnf_id

    with ThreadPoolExecutor(subject.at_once) as pool:
        assert len(set(pool.map(live, range(subject.at_once)))) == subject.at_once
    assert guests.ids() == set()


# -- the moves ------------------------------------------------------------------------------


def test_start_returns_with_a_guest_that_runs(life: Life) -> None:
    assert life.made.status.phase is Phase.CONFIGURED
    status = life.started.status
    assert (status.phase, status.exit_code, status.reason) == (Phase.RUNNING, None, "")
    assert status.word == life.started.word == "running"
    assert status.pid is not None and status.address


def test_starting_a_guest_that_runs_changes_nothing(driver: HypervisorBase, shared: str) -> None:
    before = driver.inspect(HOST, shared)
    assert driver.start(HOST, shared) is SUCCESS
    assert driver.inspect(HOST, shared) == before


def test_start_waits_for_the_guests_own_word_that_it_serves(driver: HypervisorBase, guests: Guests) -> None:
    def serves() -> bool:
        return driver.execute_in_guest(HOST, vnf_id, ["test", "-e", "/serving"]).exit_code == 0

    vnf_id = guests.run("slow")
    assert serves()
    # The word of the run before is not taken for this one's.
    driver.execute_in_guest(HOST, vnf_id, ["sh", "-c", "rm /serving; touch /mark"])
    before = guests.pid(vnf_id)
    assert driver.restart(HOST, vnf_id) is SUCCESS
    assert serves()
    assert guests.pid(vnf_id) != before
    assert has_mark(driver, vnf_id), "what it wrote stays"


def test_start_says_why_a_guest_refused_its_configuration(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.deploy("rejecting")
    with pytest.raises(ConfigurationRejected) as refusal:
        driver.start(HOST, vnf_id)
    assert refusal.value.reason == "line 7: what is this?"
    assert driver.inspect(HOST, vnf_id).phase is Phase.EXITED


def test_start_fails_where_the_guest_ends_at_once(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.deploy("failing")

    def starts() -> bool:
        try:
            driver.start(HOST, vnf_id)
        except HypervisorError as error:
            assert "exit code 3" in error.reason and "no such luck" in error.reason
            return False
        return True

    # Where it outlives the look that start takes, the guest's end is seen by inspect.
    starts()
    status = wait_until(lambda: (s := driver.inspect(HOST, vnf_id)).phase is Phase.EXITED and s)
    assert (status.exit_code, status.pid, status.address) == (3, None, "")


def test_stop_ends_a_guest_on_request(subject: Subject, life: Life) -> None:
    status = life.stopped.status
    assert (status.word, status.phase, status.exit_code) == (subject.ended, Phase.EXITED, 0)
    assert (status.pid, status.address) == (None, "")


def test_stop_ends_a_guest_that_does_not_listen(
    driver: HypervisorBase, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    vnf_id = guests.run("stubborn")
    monkeypatch.setattr(driver, "stop_grace_s", 2.0)
    begun = time.monotonic()
    assert driver.stop(HOST, vnf_id) is SUCCESS
    assert time.monotonic() - begun >= 2
    status = driver.inspect(HOST, vnf_id)
    assert (status.phase, status.exit_code) == (Phase.EXITED, 137)


def test_pause_and_unpause(driver: HypervisorBase, guests: Guests, shared: str) -> None:
    vnf_id = shared
    pid = guests.pid(vnf_id)
    assert driver.pause(HOST, vnf_id) is SUCCESS
    status = driver.inspect(HOST, vnf_id)
    assert (status.word, status.phase, status.pid) == ("paused", Phase.PAUSED, pid)
    assert status.address
    assert driver.unpause(HOST, vnf_id) is SUCCESS
    assert driver.inspect(HOST, vnf_id).phase is Phase.RUNNING
    assert guests.pid(vnf_id) == pid


def test_moves_from_a_phase_that_has_none_are_refused(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.deploy()
    for move in (driver.pause, driver.unpause):
        with pytest.raises(HypervisorError):
            move(HOST, vnf_id)
    driver.start(HOST, vnf_id)
    with pytest.raises(HypervisorError):
        driver.unpause(HOST, vnf_id)
    driver.pause(HOST, vnf_id)
    for move in (driver.pause, driver.start):
        with pytest.raises(HypervisorError):
            move(HOST, vnf_id)
    assert driver.inspect(HOST, vnf_id).phase is Phase.PAUSED
    assert driver.stop(HOST, vnf_id) is SUCCESS
    assert driver.inspect(HOST, vnf_id).phase is Phase.EXITED


def test_restart_runs_a_guest_from_wherever_it_was(
    driver: HypervisorBase, subject: Subject, guests: Guests
) -> None:
    vnf_id = guests.deploy()
    brought_there = {
        "never started": lambda: None,  # one that runs: see "slow" above
        "paused": lambda: driver.pause(HOST, vnf_id),
        "killed": lambda: subject.kill(vnf_id),
    }
    before = None
    for phase, bring in brought_there.items():
        bring()
        assert driver.restart(HOST, vnf_id) is SUCCESS, phase
        assert driver.inspect(HOST, vnf_id).phase is Phase.RUNNING, phase
        assert guests.pid(vnf_id) != before, phase
        before = guests.pid(vnf_id)


# -- the end --------------------------------------------------------------------------------


def test_destroy_removes_a_guest_that_never_ran(driver: HypervisorBase, guests: Guests) -> None:
    vnf_id = guests.deploy()
    for _ in range(2):
        assert driver.destroy(HOST, vnf_id) is SUCCESS
        assert guests.ids() == set()
    with pytest.raises(NoSuchVnf):
        driver.inspect(HOST, vnf_id)


def test_destroy_removes_a_guest_that_was_stopped(driver: HypervisorBase, life: Life) -> None:
    assert life.left == set()
    with pytest.raises(NoSuchVnf):
        driver.inspect(HOST, life.vnf_id)


def test_destroying_one_guest_from_many_threads_succeeds_for_all(
    driver: HypervisorBase, guests: Guests
) -> None:
    vnf_id = guests.run()
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda _: driver.destroy(HOST, vnf_id), range(4)))
    assert codes == [SUCCESS] * 4
    assert guests.ids() == set()


@pytest.mark.parametrize(
    "method", ["start", "restart", "stop", "pause", "unpause", "guest_status", "inspect", "counters"]
)
def test_an_unknown_id_is_no_such_vnf(driver: HypervisorBase, method: str) -> None:
    with pytest.raises(NoSuchVnf):
        getattr(driver, method)(HOST, UNKNOWN)


def test_an_unknown_id_has_nothing_to_run_scale_or_read(driver: HypervisorBase) -> None:
    with pytest.raises(NoSuchVnf):
        driver.execute_in_guest(HOST, UNKNOWN, ["true"])
    with pytest.raises(NoSuchVnf):
        driver.scale(HOST, UNKNOWN, Resources(vcpu=1))
    with pytest.raises(NoSuchVnf):
        driver.console_log(HOST, UNKNOWN, 1000)
    with pytest.raises(NoSuchVnf):
        driver.get_id(HOST, "nfio", "contract-there-is-none")
    assert driver.destroy(HOST, UNKNOWN) is SUCCESS
