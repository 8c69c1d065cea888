"""Carrying out what users ask for: define, move along the lifecycle, scale, run commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hypervisor.hypervisor_base import HypervisorBase, Resources
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode, error_of
from middleboxes import Knob
from nfio import values
from nfio.configurator import Configurator
from nfio.deployment import owner_name, spec_of
from nfio.errors import (
    AlreadyExists,
    Busy,
    HypervisorError,
    HypervisorTimeout,
    HypervisorUnreachable,
    InvalidValue,
    NfioError,
    NotFound,
    StateTransitionNotAllowedException,
)
from nfio.inventory import Inventory
from nfio.modules import ModuleRoot
from nfio.restarter import Restarter
from nfio.states import ALWAYS_ACT, MOVES, REMOVABLE, Move, State, advice, move_of, way
from nfio.store import Store
from nfio.type_files import declared, default_of, settings_of
from nfio.vnf import Vnf, ticket

log = logging.getLogger(__name__)

_UNSURE = (HypervisorTimeout, HypervisorUnreachable)


class Orchestrator(Inventory):
    """The operations on VNFs: what users ask for, carried out one at a time for each VNF."""

    def __init__(self, store: Store, modules: ModuleRoot, hypervisor: HypervisorBase) -> None:
        super().__init__(store, modules, hypervisor)
        self.configurator = Configurator(store, modules, hypervisor)
        self._restarter = Restarter(
            lambda vnf: self._reach(vnf, State.RUNNING, "on-failure"), lambda vnf: _boot(vnf).restart
        )

    def stop(self) -> None:
        self._restarter.stop()
        super().stop()

    # -- defining ---------------------------------------------------------------------------

    def define(self, kind: str, name: str, mode: int, owner: tuple[int, int]) -> Vnf:
        """mkdir. Raises AlreadyExists (EEXIST), NotPermitted (EPERM: no such type)."""
        middlebox = self.modules.require(kind)
        if (kind, name) in self.vnfs:
            raise AlreadyExists(f"{kind}/{name} exists")
        files = {
            "config/boot.conf": b"",
            "config/nf_conf": middlebox.default_config.encode(),
            "machine/ip": b"",
            "machine/vm.image": f"{middlebox.image}\n".encode(),
            "machine/vm.vcpu": b"",
            "machine/vm.memory": b"",
        }
        for path, file in middlebox.all_files():
            if isinstance(file, Knob) and "*" not in path:
                files[path] = default_of(file)
        vnf = Vnf(kind, name, self.store, self.store.create_instance(kind, name, mode, owner, files))
        self.register(vnf)
        self.tell(vnf, State.UNDEFINED, State.DEFINED, "mkdir")
        return vnf

    def default_of(self, vnf: Vnf, file: str) -> bytes:
        """What a stored file held after mkdir."""
        middlebox = self.modules.get(vnf.type)
        if middlebox is None:
            return b""
        if file == "config/nf_conf":
            return middlebox.default_config.encode()
        if file == "machine/vm.image":
            return f"{middlebox.image}\n".encode()
        own = declared(middlebox, file)
        return b"" if own is None else own.default

    def undefine(self, vnf: Vnf) -> None:
        """rmdir. Raises Busy (EBUSY) while it runs or is paused."""
        with self.operation(vnf, "rmdir"):
            self.refresh(vnf)
            if vnf.state not in REMOVABLE:
                raise Busy(f"{vnf.label} is {vnf.state.name}: stop or destroy it first")
            if vnf.vnf_id is not None:
                self._destroy(vnf)
            self.store.remove_instance(vnf.type, vnf.name, vnf.uuid)
            before = vnf.state
            vnf.entity.set_state(State.UNDEFINED)
            self.vnfs.pop((vnf.type, vnf.name), None)
            self._by_uuid.pop(vnf.uuid, None)
            self.tell(vnf, before, State.UNDEFINED, "rmdir")

    def rename(self, vnf: Vnf, name: str) -> None:
        """Give a VNF of which the hypervisor has nothing another name."""
        with self.operation(vnf, "rename"):
            self.refresh(vnf)
            if vnf.state is not State.DEFINED:
                raise Busy(f"{vnf.label} is {vnf.state.name}: destroy it before you rename it")
            if (vnf.type, name) in self.vnfs:
                raise AlreadyExists(f"{vnf.type}/{name} exists")
            vnf.path.rename(self.store.instance(vnf.type, name))
            del self.vnfs[vnf.type, vnf.name]
            vnf.name = name
            self.vnfs[vnf.type, name] = vnf

    # -- moving -----------------------------------------------------------------------------

    @contextmanager
    def operation(self, vnf: Vnf, word: str) -> Iterator[None]:
        """The one operation on a VNF; others wait for its end. Its failure is kept in ``error``."""
        timeout_s = max(3 * self.hypervisor.timeout_s, 1.5 * self.hypervisor.start_timeout_s)
        if not vnf.operation.acquire(timeout=timeout_s):
            raise HypervisorTimeout(f"{vnf.label}: {vnf.busy or 'another write'} is still going on")
        try:
            if vnf.removed:
                raise NotFound(f"{vnf.label} has been removed")
            vnf.begin(word)
            try:
                yield
            except NfioError as error:
                if not vnf.removed:
                    vnf.save(error=error.line)
                raise
            except OSError as error:
                with suppress(OSError):  # the disk that is full may be the one it would be kept on
                    vnf.save(error=f"the root directory: {error.strerror}")
                raise
            finally:
                missed = vnf.end()
                if missed and not vnf.removed:
                    self.to_look_at.put(vnf)
        finally:
            vnf.operation.release()

    def act(self, vnf: Vnf, word: str) -> None:
        """A write to ``action``: carry out one word of the lifecycle.

        Raises:
            InvalidValue (EINVAL): it is not a word, or the configuration is not valid.
            StateTransitionNotAllowedException (EBUSY): not from this state.
            HypervisorError (EIO and its subclasses'): the hypervisor did not do it.
        """
        vnf.orders += 1
        with self.operation(vnf, word[:40]):
            move = move_of(word)
            self.refresh(vnf)
            self._perform(vnf, move)
            vnf.save(action=word, error="")

    def reach(self, vnf: Vnf, wanted: State) -> None:
        """A write to ``state``: make the moves that lead there."""
        vnf.orders += 1
        self._reach(vnf, wanted, wanted.name)

    def _reach(self, vnf: Vnf, wanted: State, cause: str) -> None:
        with self.operation(vnf, cause):
            self.refresh(vnf)
            for word in way(vnf.state, wanted):
                self._perform(vnf, MOVES[word])
            vnf.save(error="")

    def refresh(self, vnf: Vnf) -> None:
        """Look before a move, so that it starts from what is true now."""
        if vnf.vnf_id is not None:
            self.engine(vnf.host).ask_again()
            self.look(vnf, vnf.vnf_id, own=True)
        elif vnf.intent is not State.DEFINED:
            self.engine(vnf.host).require(self.hypervisor.timeout_s)
            self.look_again(vnf, own=True)

    def _perform(self, vnf: Vnf, move: Move) -> None:
        state = vnf.state
        if state is move.target and move.word not in ALWAYS_ACT:
            return
        if state not in move.sources:
            raise StateTransitionNotAllowedException(
                f"{move.word} is not allowed while it is {state.name}: {advice(state)}"
            )
        doers = {
            "deploy": self._deploy,
            "activate": self._activate,
            "start": self._start,
            "pause": self._pause,
            "resume": self._resume,
            "unpause": self._resume,
            "stop": self._stop,
            "restart": self._restart,
            "reload": self.configurator.reload,
            "destroy": self._destroy,
        }
        doers[move.word](vnf)

    def _deploy(self, vnf: Vnf) -> None:
        middlebox = self.modules.require(vnf.type)
        image = values.parse_image(vnf.value("machine/vm.image"))
        if not image:
            raise InvalidValue(f"machine/vm.image is empty: write an image name, {middlebox.image} say")
        self.configurator.configure(vnf)
        spec = spec_of(vnf, middlebox, self.store.root_id, self.store.guest_dir(vnf.uuid))
        self.engine(vnf.host).ask_again()
        vnf.save(intent=State.CONFIGURED.name)
        vnf_id, code, message = self.hypervisor.deploy(
            vnf.host, owner_name(vnf.path.stat().st_uid), image, f"{vnf.type}-{vnf.name}", spec=spec
        )
        if vnf_id is None or code is not SUCCESS:
            error = error_of(code, message)
            if not isinstance(error, _UNSURE):
                vnf.save(intent=State.DEFINED.name)
            raise error
        try:
            self.look(vnf, vnf_id, own=True)
        except NfioError as error:
            if not isinstance(error, _UNSURE):
                self.hypervisor.destroy(vnf.host, vnf_id)
                vnf.save(intent=State.DEFINED.name)
            raise

    def _activate(self, vnf: Vnf) -> None:
        if vnf.state is State.CONFIGURED:
            self._start(vnf)
            return
        self._deploy(vnf)
        try:
            self._run(vnf, self.hypervisor.start)
        except NfioError as error:
            # Where it is not known what the hypervisor did, what it did is seen later.
            if not isinstance(error, _UNSURE):
                try:
                    self._destroy(vnf)
                except NfioError as second:
                    log.error("%s: what deploy made could not be removed: %s", vnf.label, second.line)
            raise

    def _start(self, vnf: Vnf) -> None:
        self.configurator.configure(vnf)
        self._run(vnf, self.hypervisor.start)

    def _restart(self, vnf: Vnf) -> None:
        self.configurator.configure(vnf)
        self._run(vnf, self.hypervisor.restart)

    def _run(self, vnf: Vnf, start: Callable[[str, str], ReturnCode]) -> None:
        vnf.save(intent=State.RUNNING.name)
        try:
            start(vnf.host, vnf.deployed_id())
        except NfioError as error:
            if not isinstance(error, _UNSURE):
                vnf.save(intent=State.CONFIGURED.name)
                self.look(vnf, vnf.vnf_id, own=True)
                if vnf.state in (State.RUNNING, State.PAUSED):
                    vnf.save(intent=State.RUNNING.name)  # a restart that was refused: it went on
            raise
        self.look(vnf, vnf.vnf_id, own=True)

    def _pause(self, vnf: Vnf) -> None:
        self.hypervisor.pause(vnf.host, vnf.deployed_id())
        self.look(vnf, vnf.vnf_id, own=True)

    def _resume(self, vnf: Vnf) -> None:
        self.hypervisor.unpause(vnf.host, vnf.deployed_id())
        self.look(vnf, vnf.vnf_id, own=True)

    def _stop(self, vnf: Vnf) -> None:
        vnf.save(intent=State.CONFIGURED.name)
        try:
            self.hypervisor.stop(vnf.host, vnf.deployed_id())
        except NfioError as error:
            if not isinstance(error, _UNSURE):
                vnf.save(intent=State.RUNNING.name)
            raise
        self.look(vnf, vnf.vnf_id, own=True)

    def _destroy(self, vnf: Vnf) -> None:
        self.hypervisor.destroy(vnf.host, vnf.deployed_id())
        self.record(vnf, None, ticket(), own=True)
        vnf.save(intent=State.DEFINED.name)

    # -- other writes -----------------------------------------------------------------------

    def scale(self, vnf: Vnf, file: str, content: bytes) -> None:
        """A write to vm.vcpu or vm.memory: the limit holds at once where the VNF is deployed."""
        with self.operation(vnf, "scale"):
            self.refresh(vnf)
            resources = vnf.resources({file: content})
            if vnf.vnf_id is not None and resources != vnf.resources():
                self._scale(vnf, resources)
            self.store.write(vnf.path / file, content)
            vnf.emptied.discard(file)
            vnf.save(error="")

    def _scale(self, vnf: Vnf, resources: Resources) -> None:
        if vnf.state is State.RUNNING:
            vnf.entity.set_state(State.SCALING)
            self.tell(vnf, State.RUNNING, State.SCALING, "scale")
        try:
            self.hypervisor.scale(vnf.host, vnf.deployed_id(), resources)
        finally:
            if vnf.state is State.SCALING:
                vnf.entity.set_state(State.RUNNING)
                self.tell(vnf, State.SCALING, State.RUNNING, "scale")
        self.look(vnf, vnf.vnf_id, own=True)

    def place(self, vnf: Vnf, content: bytes) -> None:
        """A write to machine/ip."""
        with self.operation(vnf, "place"):
            self.hypervisor.require_host(values.parse_host(content))
            self.refresh(vnf)
            if vnf.vnf_id is not None and values.parse_host(content) != vnf.host:
                raise Busy(f"{vnf.label} is {vnf.state.name} on this host: destroy it before it moves")
            self.store.write(vnf.path / "machine/ip", content)
            vnf.host = values.parse_host(content)
            vnf.emptied.discard("machine/ip")
            vnf.save(error="")

    def execute(self, vnf: Vnf, command: str, keep: Callable[[bytes], None]) -> None:
        """A write to ``command``: run it in the guest's shell.

        Args:
            keep: called with its output, however it ended, before another command can run.

        Raises:
            HypervisorError (EIO): it ended with another exit status than 0; its output is kept.
        """
        with self.operation(vnf, "command"):
            self.refresh(vnf)
            if vnf.state is not State.RUNNING:
                raise Busy(f"a command needs a running VNF: {vnf.label} is {vnf.state.name}")
            # One stream: two would come without their order. The command itself is an argument.
            shell = ["/bin/sh", "-c", 'exec 2>&1; eval "$1"', "sh", command]
            result = self.hypervisor.execute_in_guest(vnf.host, vnf.deployed_id(), shell)
            vnf.transcript = result.output
            keep(result.output)
            if result.exit_code:
                lines = result.output.decode(errors="replace").strip().splitlines()
                last = f": {lines[-1]}" if lines else ""
                raise HypervisorError(f"the command ended with exit status {result.exit_code}{last}")
            vnf.save(error="")

    def died(self, vnf: Vnf) -> None:
        with suppress(NfioError):  # what boot.conf holds was put there without nfio
            if _boot(vnf).restart:
                self._restarter.died(vnf)

    def renew(self, vnf: Vnf) -> None:
        """Put in force what is stored. Called in an operation on the VNF."""
        middlebox = self.modules.require(vnf.type)
        if middlebox.render is not None and vnf.state is State.RUNNING:
            self.configurator.reconfigure(vnf, settings_of(middlebox, vnf.path))
        if vnf.state is not State.PAUSED:
            self.store.changing(vnf.uuid).unlink(missing_ok=True)  # who starts it anew configures it

    def when_known(self) -> None:
        """Run what `autostart=yes` says shall run, and finish what an earlier nfio was killed in."""
        for vnf in list(self.vnfs.values()):
            try:
                if self.store.changing(vnf.uuid).exists():
                    with self.operation(vnf, "renew"):
                        self.refresh(vnf)
                        self.renew(vnf)
                if _boot(vnf).autostart:
                    self.reach(vnf, State.RUNNING)
            except (NfioError, OSError) as error:
                log.error("%s could not be started on mount: %s", vnf.label, error)


def _boot(vnf: Vnf) -> values.BootConfig:
    return values.parse_boot_conf(vnf.value("config/boot.conf"))
