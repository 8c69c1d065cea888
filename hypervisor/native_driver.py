"""Hypervisor driver without a daemon: OCI containers of runc, on links that it makes itself."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from hypervisor.hypervisor_base import (
    CommandResult,
    Finding,
    GuestEvent,
    GuestStatus,
    HypervisorBase,
    ImageInfo,
    LinkCounters,
    Phase,
    Resources,
    Usage,
    VnfSpec,
)
from hypervisor.hypervisor_freezing import freeze_at_last
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode
from hypervisor.native_bundle import runtime_config
from hypervisor.native_cgroups import Freezer, limits_of, ran_out_of_memory, require_enough, usage_of
from hypervisor.native_console import Console
from hypervisor.native_events import EventLoop
from hypervisor.native_images import HOST, INIT, NativeImages
from hypervisor.native_network import NativeNetwork, link_of
from hypervisor.native_runtime import NativeRuntime, end
from hypervisor.native_store import Guest, NativeStore, Run, begun_of, boot_id, entity_key
from nfio.errors import (
    HypervisorError,
    HypervisorTimeout,
    HypervisorUnreachable,
    NfioError,
    NoSuchVnf,
    NotSupported,
)

log = logging.getLogger(__name__)

#: how long conmon may take to write the exit code of a process that has ended
_EXIT_CODE_S = 1.0
_KILLED = 128 + signal.SIGKILL
_ENDED = 128 + signal.SIGTERM

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_INIT_LABEL = "io.nfio.init"


class Native(HypervisorBase):
    """Hypervisor driver for containers without an engine.

    A guest is a directory (see native_store.py), a container of the OCI runtime while it runs,
    and a conmon that watches it. nfio may end and come back: nothing of a guest depends on it.
    """

    def __init__(self) -> None:
        self.store = NativeStore.from_environment()
        self.network = NativeNetwork(self.store)
        self.images = NativeImages(self.store)
        self.runtime = NativeRuntime(self.store)

    def require_host(self, host: str) -> None:
        if host not in ("", "localhost"):
            raise NotSupported(
                f"Native runs VNFs on this host only, not on {host}: mount with --hypervisor Docker"
            )

    def is_local(self, host: str) -> bool:
        return True

    def ping(self, host: str) -> None:
        self.require_host(host)
        self.runtime.programs(self.timeout_s)

    # -- making and removing ----------------------------------------------------------------

    def get_id(self, host: str, user: str, vnf_name: str) -> str:
        self.ping(host)
        holder = self.store.holder(self.store.names, f"{user}-{vnf_name}")
        if holder is None or not self.store.path(holder).exists():
            raise NoSuchVnf(f"no guest is named {user}-{vnf_name}")
        return holder

    def create(self, host: str, user: str, image_name: str, vnf_name: str, spec: VnfSpec) -> str:
        self.ping(host)
        name = f"{user}-{vnf_name}"
        if not _NAME.fullmatch(name):
            raise HypervisorError(f"{name!r} is no name for a guest")
        require_enough(spec.resources)
        layers, command, announces = self._root(image_name, spec)
        self.store.prepare()
        entity = entity_key(spec.root, spec.uuid)
        if spec.uuid and (old := self.store.holder(self.store.entities, entity)):
            self.destroy(host, old)
        vnf_id = uuid.uuid4().hex
        with self.store.told(), self.store.drafted(vnf_id), ExitStack() as undo:
            undo.callback(self.network.remove_if_unused)
            name = self._claim_name(name, vnf_id, spec)
            undo.callback(self.store.release, self.store.names, name, vnf_id)
            address = self.network.claim_address(vnf_id)
            undo.callback(self.store.release, self.store.addresses, address, vnf_id)
            if spec.uuid:
                if not self.store.claim(self.store.entities, entity, vnf_id):
                    raise HypervisorError(f"{name} is being deployed by another process")
                undo.callback(self.store.release, self.store.entities, entity, vnf_id)
            self.store.add(
                Guest(
                    vnf_id=vnf_id,
                    name=name,
                    address=address,
                    root=spec.root,
                    type=spec.type,
                    instance=spec.instance or vnf_name,
                    uuid=spec.uuid,
                    layers=layers,
                    image=image_name,
                    command=command,
                    announces=announces,
                    config_dir="" if spec.config_dir is None else str(spec.config_dir),
                    capabilities=spec.capabilities,
                    sysctls=dict(spec.sysctls),
                    user=spec.user,
                    vcpu=spec.resources.vcpu,
                    memory_bytes=spec.resources.memory_bytes,
                )
            )
            undo.pop_all()
        return vnf_id

    def _claim_name(self, name: str, vnf_id: str, spec: VnfSpec) -> str:
        if self.store.claim(self.store.names, name, vnf_id):
            return name
        holder = self.store.holder(self.store.names, name) or ""
        with suppress(NoSuchVnf):
            if spec.uuid and self.store.load(holder).uuid:
                longer = f"{name}-{spec.uuid[:8]}"
                if self.store.claim(self.store.names, longer, vnf_id):
                    return longer
        raise HypervisorError(f"the name {name} is taken by guest {holder[:12]}")

    def _root(self, image_name: str, spec: VnfSpec) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
        """Layers of a guest's root file system, its first program, and whether it announces itself."""
        if image_name == HOST:
            if not spec.function.init:
                raise HypervisorError(f"the image {HOST} needs a type that says what runs on it")
            return self.images.host_layers(spec.function, self.timeout_s), (INIT,), True
        image = self.images.get(image_name)
        return (str(image.root),), image.command, _INIT_LABEL in image.labels

    def destroy(self, host: str, vnf_id: str) -> ReturnCode:
        self.ping(host)
        with suppress(NoSuchVnf), self.store.locked(vnf_id):
            guest = self.store.load(vnf_id)
            self._kill(vnf_id)
            self.runtime.clear(vnf_id, self.timeout_s)
            self.store.remove(guest)
        self.network.remove_if_unused()
        return SUCCESS

    def push_config(self, host: str, vnf_id: str, config_dir: Path) -> None:
        """It is bind-mounted."""

    # -- running ----------------------------------------------------------------------------

    def start(self, host: str, vnf_id: str) -> ReturnCode:
        self.ping(host)
        with self.store.locked(vnf_id):
            status = self.inspect(host, vnf_id)
            if status.phase is Phase.PAUSED:
                raise HypervisorError(f"cannot start {status.name}: it is paused")
            if status.phase is not Phase.RUNNING:
                self._start(self.store.load(vnf_id))
        return SUCCESS

    def _start(self, guest: Guest) -> None:
        vnf_id = guest.vnf_id
        bundle = self.store.path(vnf_id)
        self.runtime.clear(vnf_id, self.timeout_s)
        console = Console(bundle / "console.log")
        with self.store.told(), ExitStack() as undo:
            undo.callback(self._undo_start, vnf_id)
            self.store.note_ended(vnf_id)  # the run before this one, of which the traces go now
            overlay = self.runtime.prepare_root(self.images.stack(guest, bundle), bundle, self.timeout_s)
            with self.network.namespace() as namespace:
                config = runtime_config(guest, f"/proc/{os.getpid()}/fd/{namespace}", overlay)
                (bundle / "config.json").write_text(json.dumps(config))
                # The container is made while its link is: its program waits for both.
                with self.runtime.creation(vnf_id, self.timeout_s) as made:
                    self.network.plug(guest, namespace)
                    pid = made()
            begun = begun_of(pid)
            if begun is None:
                raise HypervisorError(f"it ended while it was made: {console.last_line()}")
            self.store.save_run(vnf_id, Run(boot_id(), pid, begun))
            self.runtime.begin(vnf_id, pid, self.timeout_s)
            console.await_start(pid, guest.announces, self.timeout_s, lambda: self._exit_code(vnf_id))
            undo.pop_all()

    def _undo_start(self, vnf_id: str) -> None:
        """A start that failed leaves nothing running."""
        try:
            self._kill(vnf_id)
            self.runtime.clear(vnf_id, self.timeout_s)
        except NfioError as error:
            log.error("guest %s could not be cleared away: %s", vnf_id[:12], error.line)

    def restart(self, host: str, vnf_id: str) -> ReturnCode:
        self.stop(host, vnf_id)
        return self.start(host, vnf_id)

    def stop(self, host: str, vnf_id: str) -> ReturnCode:
        self.ping(host)
        with self.store.locked(vnf_id):
            run = self.store.run_of(vnf_id)
            if run is None:
                return SUCCESS
            if run.goes_on:
                self._thaw(vnf_id, run)
                end(run.pid, lambda: run.goes_on, self.stop_grace_s)
                if self._exit_code(vnf_id) is None:
                    self.store.note_ended(vnf_id)  # conmon was killed, and cannot tell
            self.runtime.clear(vnf_id, self.timeout_s)
        return SUCCESS

    def _kill(self, vnf_id: str) -> None:
        run = self.store.run_of(vnf_id)
        if run is not None and run.goes_on:
            self._thaw(vnf_id, run)
            self.store.note_ended(vnf_id)  # whoever comes after a nfio that is killed here is to know
            end(run.pid, lambda: run.goes_on, 0.0)
            self._exit_code(vnf_id)

    def _thaw(self, vnf_id: str, run: Run) -> None:
        """What is frozen cannot end."""
        with suppress(OSError):  # it has ended
            if Freezer(run.pid).frozen():
                self.runtime.ask(self.timeout_s, "resume", vnf_id)

    def pause(self, host: str, vnf_id: str) -> ReturnCode:
        return self._freeze(host, vnf_id, "pause", Phase.RUNNING, Phase.PAUSED)

    def unpause(self, host: str, vnf_id: str) -> ReturnCode:
        return self._freeze(host, vnf_id, "resume", Phase.PAUSED, Phase.RUNNING)

    def _freeze(self, host: str, vnf_id: str, word: str, before: Phase, after: Phase) -> ReturnCode:
        self.ping(host)
        with self.store.locked(vnf_id):
            status = self.inspect(host, vnf_id)
            if status.phase is not before:
                raise HypervisorError(f"cannot {word} {status.name}: it is {status.word}")
            freeze_at_last(lambda: self.runtime.ask(self.timeout_s, word, vnf_id))
        return SUCCESS

    def scale(self, host: str, vnf_id: str, resources: Resources) -> ReturnCode:
        self.ping(host)
        require_enough(resources)
        with self.store.locked(vnf_id):
            guest = self.store.load(vnf_id)
            if self.inspect(host, vnf_id).phase in (Phase.RUNNING, Phase.PAUSED):
                limits = json.dumps(limits_of(resources.vcpu, resources.memory_bytes))
                update = self.store.path(vnf_id) / "update.json"
                update.write_text(limits)
                self.runtime.ask(self.timeout_s, "update", "--resources", str(update), vnf_id)
            self.store.save(replace(guest, vcpu=resources.vcpu, memory_bytes=resources.memory_bytes))
        return SUCCESS

    def execute_in_guest(self, host: str, vnf_id: str, cmd: list[str]) -> CommandResult:
        self.ping(host)
        status = self.inspect(host, vnf_id)
        if status.phase is not Phase.RUNNING:
            raise HypervisorError(f"a command needs a running guest: {status.name} is {status.word}")
        return self.runtime.execute(vnf_id, cmd, self.timeout_s)

    # -- looking ----------------------------------------------------------------------------

    def guest_status(self, host: str, vnf_id: str) -> str:
        return self.inspect(host, vnf_id).word

    def inspect(self, host: str, vnf_id: str) -> GuestStatus:
        self.ping(host)
        guest = self.store.load(vnf_id)
        run = self.store.run_of(vnf_id)
        known = GuestStatus(vnf_id, guest.uuid, guest.name, "created", Phase.CONFIGURED)
        if run is None:
            return known
        with suppress(OSError):  # it ends just now
            if run.goes_on:
                if not self.runtime.has_begun(vnf_id):  # who was to start it was killed
                    return known
                paused = Freezer(run.pid).frozen()
                return replace(
                    known,
                    word="paused" if paused else "running",
                    phase=Phase.PAUSED if paused else Phase.RUNNING,
                    pid=run.pid,
                    address=guest.address,
                    links=(link_of(vnf_id),),
                )
        code, reason = self._exit_code(vnf_id), ""
        if self.store.was_ended(vnf_id):
            code = _ENDED
        elif code is None:
            rebooted = run.boot != boot_id()
            reason = "the machine was started anew" if rebooted else "what watched it (conmon) was killed too"
        elif code == _KILLED and ran_out_of_memory(vnf_id):
            reason = "out of memory: it needs more than vm.memory"
        return replace(known, word="stopped", phase=Phase.EXITED, exit_code=code, reason=reason)

    def _exit_code(self, vnf_id: str) -> int | None:
        """How its first process ended; None if nobody was there to see it."""
        place = self.store.path(vnf_id) / "exit" / vnf_id
        watched = self._is_watched(vnf_id)  # first: it writes the code, and ends then
        if not watched and not place.exists():
            return None
        deadline = time.monotonic() + _EXIT_CODE_S
        while True:
            with suppress(FileNotFoundError):
                return int(place.read_text())
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)

    def _is_watched(self, vnf_id: str) -> bool:
        """Whether its conmon is there, which tells how it ended."""
        try:
            watcher = int((self.store.path(vnf_id) / "conmon.pid").read_text())
            return vnf_id in Path(f"/proc/{watcher}/cmdline").read_text()
        except (OSError, ValueError):
            return False

    def list_guests(self, host: str, root: str) -> list[GuestStatus]:
        self.ping(host)
        guests = []
        for guest in self.store.all():
            if guest.root == root:
                with suppress(NoSuchVnf):  # it went between the two looks
                    guests.append(self.inspect(host, guest.vnf_id))
        return guests

    def events(self, host: str, root: str) -> Iterator[GuestEvent | None]:
        self.ping(host)
        self.store.prepare()
        self.store.forget_abandoned()
        return EventLoop(self.store, self.network, root, lambda: self.ping(host)).run()

    def console_log(self, host: str, vnf_id: str, limit_bytes: int) -> bytes:
        self.ping(host)
        self.store.load(vnf_id)
        return Console(self.store.path(vnf_id) / "console.log").text()[-limit_bytes:]

    def counters(self, host: str, vnf_id: str) -> tuple[LinkCounters, Usage]:
        status = self.inspect(host, vnf_id)
        if status.phase not in (Phase.RUNNING, Phase.PAUSED):
            raise HypervisorError(f"{status.name} has no counters: it is {status.word}")
        try:
            return self.network.counters(link_of(vnf_id)), usage_of(vnf_id)
        except OSError as error:
            raise HypervisorError(f"{status.name}: {error.strerror}") from error

    # -- images -----------------------------------------------------------------------------

    def import_image(self, name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
        self.ping("")
        self.images.add(name, tarball, command, labels)

    def list_images(self) -> list[ImageInfo]:
        self.ping("")
        return self.images.infos()

    def remove_image(self, name: str) -> None:
        self.ping("")
        self.images.remove(name)

    def check(self) -> list[Finding]:
        findings = []
        try:
            runtime, conmon = self.runtime.programs(self.timeout_s)
            version = self.runtime.ask(self.timeout_s, "--version").stdout.splitlines()[0]
            findings.append(Finding("OCI runtime", True, f"{runtime}, {version}"))
            findings.append(Finding("conmon", True, conmon))
        except (HypervisorUnreachable, HypervisorTimeout, HypervisorError) as error:
            findings.append(Finding("OCI runtime", False, error.line, "apt-get install runc conmon"))
        overlay = "overlay" in Path("/proc/filesystems").read_text()
        findings.append(
            Finding(
                "overlayfs", overlay, "the kernel has it" if overlay else "is missing", "modprobe overlay"
            )
        )
        return findings
