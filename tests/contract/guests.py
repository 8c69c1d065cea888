"""Making guests through a driver, and clearing them away."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import NamedTuple

from engine import wait_until
from subjects import Subject

from hypervisor.hypervisor_base import GuestStatus, HypervisorBase, Resources, VnfSpec
from hypervisor.hypervisor_return_codes import EMPTY, SUCCESS

HOST = ""


@dataclass
class Guests:
    """Makes guests under one root label of the test's own."""

    subject: Subject
    driver: HypervisorBase
    root: str = field(default_factory=lambda: str(uuid.uuid4()))

    def spec(self, **changes: object) -> VnfSpec:
        values = {"root": self.root, "type": "contract", "uuid": str(uuid.uuid4()), **changes}
        return VnfSpec(**values)

    def deploy(self, program: str = "idle", *, started: bool = False, **changes: object) -> str:
        """Deploy a guest, which must succeed; its id."""
        name = f"contract-{uuid.uuid4().hex[:12]}"
        spec = self.spec(**{"instance": name, **changes})
        vnf_id, code, message = self.driver.deploy(HOST, "nfio", self.subject.image(program), name, spec=spec)
        assert (code, message) == (SUCCESS, EMPTY)
        assert vnf_id
        if started:
            assert self.driver.start(HOST, vnf_id) is SUCCESS
        return vnf_id

    def run(self, program: str = "idle", **changes: object) -> str:
        return self.deploy(program, started=True, **changes)

    def limited(self, program: str = "idle", **limits: object) -> str:
        return self.run(program, resources=Resources(**limits))

    def ids(self) -> set[str]:
        return {guest.vnf_id for guest in self.driver.list_guests(HOST, self.root)}

    def pid(self, vnf_id: str) -> int:
        pid = self.driver.inspect(HOST, vnf_id).pid
        assert pid is not None
        return pid

    def remove(self) -> None:
        for vnf_id in self.ids():
            self.driver.destroy(HOST, vnf_id)
        assert self.ids() == set()


class Moment(NamedTuple):
    """What was seen of a guest: its status, the engine's word for it, its console."""

    status: GuestStatus
    word: str
    log: bytes


class Life(NamedTuple):
    """A guest that was made, started, stopped twice and destroyed twice."""

    vnf_id: str
    made: Moment
    started: Moment
    stopped: Moment
    left: set[str]


def live(guests: Guests) -> Life:
    """Lead a guest through its life: starting one takes a machine seconds, so several tests look at one."""
    driver = guests.driver
    vnf_id = guests.deploy()

    def look(log: bytes = b"") -> Moment:
        status, word = driver.inspect(HOST, vnf_id), driver.guest_status(HOST, vnf_id)
        wait_until(lambda: driver.console_log(HOST, vnf_id, 1000) == log, what=f"the console is {log!r}")
        return Moment(status, word, log)

    made = look()
    assert driver.start(HOST, vnf_id) is SUCCESS
    started = look(b"started\n")
    assert driver.stop(HOST, vnf_id) is SUCCESS
    stopped = look(b"started\n")
    assert driver.stop(HOST, vnf_id) is SUCCESS
    for _ in range(2):
        assert driver.destroy(HOST, vnf_id) is SUCCESS
    return Life(vnf_id, made, started, stopped, guests.ids())
