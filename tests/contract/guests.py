"""Making guests through a driver, and clearing them away."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from subjects import Subject

from hypervisor.hypervisor_base import HypervisorBase, Resources, VnfSpec
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
