"""nfio without a mount, on the in-memory hypervisor: what the unit tests of its parts share."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

from engine import wait_until
from memory_driver import MemoryDriver
from memory_engine import MemoryEngine, MemoryGuest

from hypervisor.hypervisor_base import Phase
from hypervisor.hypervisor_factory import DRIVERS, HypervisorFactory
from nfio.errors import NfioError
from nfio.handles import Handle
from nfio.namespace import Namespace
from nfio.states import State
from nfio.vnf import Vnf
from nfio.vnfs_operations import VNFSOperations

PLAIN_TYPE = '''\
"""A type that counts nothing of its own."""

from middleboxes import LiveFile, Middlebox, Recipe

MIDDLEBOX = Middlebox(
    type="plain",
    summary="nothing in particular",
    recipe=Recipe(packages=()),
    check=("check",),
    reload=("apply",),
    default_config="plain\\n",
    files={"greeting": LiveFile(lambda guest: f"hello from {guest.address}\\n", "a greeting")},
)
'''


def forget_hypervisor() -> None:
    """What a new process begins with."""
    HypervisorFactory._type = None
    HypervisorFactory._instance = None


def register_memory_driver() -> MemoryDriver:
    """Make the in-memory driver the one of this process."""
    forget_hypervisor()
    DRIVERS["Memory"] = "memory_driver:MemoryDriver"
    HypervisorFactory("Memory")
    driver = HypervisorFactory.get_hypervisor_instance()
    assert isinstance(driver, MemoryDriver)
    return driver


def unregister_memory_driver() -> None:
    forget_hypervisor()
    DRIVERS.pop("Memory", None)


class World:
    """A root, its module root, and one run of nfio on them. ``again`` is the next run."""

    def __init__(self, directory: Path, driver: MemoryDriver) -> None:
        self.directory = directory
        self.driver = driver
        self.module_root = directory / "types"
        self.module_root.mkdir(exist_ok=True)
        (self.module_root / "plain.py").write_text(PLAIN_TYPE)
        self.caller = (os.getuid(), os.getgid(), os.getpid())
        self._begin()

    def _begin(self) -> None:
        self.operations = VNFSOperations(str(self.directory / "root"), str(self.module_root))
        self.store = self.operations.store
        self.orchestrator = self.operations.orchestrator
        self.tree = Namespace(self.operations, lambda: self.caller, lambda: False)
        self.store.acquire("/mnt")
        self.orchestrator.load()
        self.orchestrator.start()
        if self.engine.down is None:
            self.orchestrator.engine("").require(5)

    def end(self) -> None:
        self.orchestrator.stop()
        self.engine.close_streams()
        self.store.release()

    def again(self) -> None:
        """What a killed nfio leaves and the next one makes of it."""
        self.end()
        self._begin()

    @property
    def engine(self) -> MemoryEngine:
        return self.driver.engine("")

    # -- VNFs -------------------------------------------------------------------------------

    def define(self, name: str = "a", kind: str = "plain") -> Vnf:
        uid, gid, _ = self.caller
        return self.orchestrator.define(kind, name, 0o755, (uid, gid))

    def vnf(self, name: str = "a", kind: str = "plain") -> Vnf:
        return self.orchestrator.vnfs[kind, name]

    def guest(self, vnf: Vnf) -> MemoryGuest:
        guest = self.engine.of(vnf.uuid)
        assert guest is not None
        return guest

    def act(self, vnf: Vnf, word: str) -> None:
        self.orchestrator.act(vnf, word)

    def in_state(self, state: State, name: str = "a") -> Vnf:
        """A new VNF, brought to a state by the engine and by words."""
        vnf = self.define(name)
        words = {
            State.DEFINED: (),
            State.CONFIGURED: ("deploy",),
            State.RUNNING: ("activate",),
            State.PAUSED: ("activate", "pause"),
            State.ERROR: ("activate",),
        }[state]
        for word in words:
            self.act(vnf, word)
        if state is State.ERROR:
            self.engine.kill(self.guest(vnf).vnf_id)
        self.await_state(vnf, state)
        wait_until(lambda: self.states()[-1] is state, 5, f"{vnf.label}: {state.name} is told")
        return vnf

    def await_state(self, vnf: Vnf, state: State) -> None:
        self.engine.settle()
        wait_until(lambda: vnf.state is state, 5, f"{vnf.label} is {vnf.state.name}, not {state.name}")

    def states(self) -> list[State]:
        """Every move of the journal's, as the states it led to."""
        return [State[json.loads(line)["to"]] for line in self.orchestrator.journal.read().splitlines()]

    # -- files ------------------------------------------------------------------------------

    def path(self, file: str, name: str = "a", kind: str = "plain") -> str:
        return f"/nf-types/{kind}/{name}/{file}".rstrip("/")

    def read(self, path: str) -> bytes:
        return drain(self.tree.open(path, os.O_RDONLY))

    def write(self, path: str, content: bytes, flags: int = os.O_TRUNC) -> None:
        handle = self.tree.open(path, os.O_WRONLY | flags)
        try:
            handle.write(content, 0)
        finally:
            handle.close()


def drain(handle: Handle) -> bytes:
    content = b""
    while chunk := handle.read(65536, len(content)):
        content += chunk
    handle.close()
    return content


def errno_of(call: Callable[[], object]) -> str:
    """Name of the errno that a call fails with; '' if it succeeds."""
    try:
        call()
    except (NfioError, OSError) as error:
        return errno.errorcode[error.errno or 0]
    return ""


#: what the engine's truth about a guest may be called
TRUTH = {
    None: {State.DEFINED},
    Phase.CONFIGURED: {State.CONFIGURED},
    Phase.RUNNING: {State.RUNNING},
    Phase.PAUSED: {State.PAUSED},
    Phase.EXITED: {State.CONFIGURED, State.ERROR},
    Phase.BROKEN: {State.ERROR},
}
