"""A hypervisor that lives in this process: a driver like any other, whose guests are objects.

It keeps every promise of ``hypervisor_base``. What happens to guests behind nfio's back, and
what an engine does that refuses or does not answer, is done to the ``MemoryEngine`` under it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_engine import MemoryEngine, MemoryGuest

from hypervisor.hypervisor_base import (
    READY_LINE,
    REJECTED_LINE,
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
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode
from nfio.errors import (
    ConfigurationRejected,
    HypervisorError,
    HypervisorUnreachable,
    NoSuchVnf,
    NotFound,
)

#: a configuration with this word in it is not valid in any guest
BAD_CONFIG = b"nonsense"

_TERMINATED = 143  # 128 + SIGTERM


class MemoryDriver(HypervisorBase):
    """Driver of the engines in this process, one for each host."""

    timeout_s = 2.0

    def __init__(self, engines: dict[str, MemoryEngine] | None = None) -> None:
        self.engines = {"": MemoryEngine()} if engines is None else engines

    def engine(self, host: str) -> MemoryEngine:
        try:
            return self.engines["" if host == "localhost" else host]
        except KeyError:
            raise HypervisorUnreachable(f"there is no host {host}") from None

    @contextmanager
    def _guest(self, method: str, host: str, vnf_id: str) -> Iterator[tuple[MemoryEngine, MemoryGuest]]:
        engine = self.engine(host)
        with engine.call(method):
            try:
                guest = engine.guests[vnf_id]
            except KeyError:
                raise NoSuchVnf(f"no such guest: {vnf_id[:12]}") from None
            yield engine, guest

    # -- making and removing ----------------------------------------------------------------

    def create(self, host: str, user: str, image_name: str, vnf_name: str, spec: VnfSpec) -> str:
        engine = self.engine(host)
        with engine.call("create"):
            old = engine.of(spec.uuid) if spec.uuid else None
            if old is not None:
                engine.remove(old.vnf_id)
            if image_name not in engine.images | engine.crashing_images:
                raise HypervisorError(f"no such image: {image_name}")
            name = f"{user}-{vnf_name}"
            holder = next((guest for guest in engine.guests.values() if guest.name == name), None)
            if holder is not None:
                if not holder.spec.root:
                    raise HypervisorError(f"the name {name} is in use")
                name = f"{name}-{spec.uuid[:8]}"
            return engine.add(name, image_name, spec).vnf_id

    def get_id(self, host: str, user: str, vnf_name: str) -> str:
        engine = self.engine(host)
        with engine.call("get_id"):
            for guest in engine.guests.values():
                if guest.name == f"{user}-{vnf_name}":
                    return guest.vnf_id
        raise NoSuchVnf(f"no such guest: {user}-{vnf_name}")

    def destroy(self, host: str, vnf_id: str) -> ReturnCode:
        engine = self.engine(host)
        with engine.call("destroy"):
            if vnf_id in engine.guests:
                engine.remove(vnf_id)
        return SUCCESS

    def push_config(self, host: str, vnf_id: str, config_dir: Path) -> None:
        with self._guest("push_config", host, vnf_id):
            pass  # a guest reads the directory itself

    # -- running ----------------------------------------------------------------------------

    def start(self, host: str, vnf_id: str) -> ReturnCode:
        with self._guest("start", host, vnf_id) as (engine, guest):
            self._start(engine, guest)
        return SUCCESS

    @staticmethod
    def _start(engine: MemoryEngine, guest: MemoryGuest) -> None:
        if guest.phase in (Phase.RUNNING, Phase.PAUSED):
            return
        if guest.image in engine.crashing_images:
            engine.end(guest.vnf_id, 1)
            raise HypervisorError("its program ended at once with exit code 1")
        if any(BAD_CONFIG in content for content in guest.config().values()):
            guest.console += f"{REJECTED_LINE}\n".encode()
            engine.end(guest.vnf_id, 78)
            raise ConfigurationRejected(f"syntax error: {BAD_CONFIG.decode()}")
        guest.console += f"{READY_LINE}\n".encode()
        engine.run(guest.vnf_id)

    def restart(self, host: str, vnf_id: str) -> ReturnCode:
        with self._guest("restart", host, vnf_id) as (engine, guest):
            self._stop(engine, guest)
            self._start(engine, guest)
        return SUCCESS

    def stop(self, host: str, vnf_id: str) -> ReturnCode:
        with self._guest("stop", host, vnf_id) as (engine, guest):
            self._stop(engine, guest)
        return SUCCESS

    @staticmethod
    def _stop(engine: MemoryEngine, guest: MemoryGuest) -> None:
        if guest.phase in (Phase.RUNNING, Phase.PAUSED):
            engine.end(guest.vnf_id, _TERMINATED)

    def pause(self, host: str, vnf_id: str) -> ReturnCode:
        with self._guest("pause", host, vnf_id) as (engine, guest):
            if guest.phase is not Phase.RUNNING:
                raise HypervisorError(f"{guest.name} is not running")
            engine.freeze(vnf_id)
        return SUCCESS

    def unpause(self, host: str, vnf_id: str) -> ReturnCode:
        with self._guest("unpause", host, vnf_id) as (engine, guest):
            if guest.phase is not Phase.PAUSED:
                raise HypervisorError(f"{guest.name} is not paused")
            engine.run(vnf_id)
        return SUCCESS

    def scale(self, host: str, vnf_id: str, resources: Resources) -> ReturnCode:
        with self._guest("scale", host, vnf_id) as (_, guest):
            guest.resources = resources
        return SUCCESS

    def execute_in_guest(self, host: str, vnf_id: str, cmd: list[str]) -> CommandResult:
        with self._guest("execute_in_guest", host, vnf_id) as (_, guest):
            if guest.phase is not Phase.RUNNING:
                raise HypervisorError(f"{guest.name} is not running")
            guest.commands.append(cmd)
            return _PROGRAMS.get(cmd[0], _not_found)(guest, cmd)

    # -- looking ----------------------------------------------------------------------------

    def guest_status(self, host: str, vnf_id: str) -> str:
        return self.inspect(host, vnf_id).word

    def inspect(self, host: str, vnf_id: str) -> GuestStatus:
        with self._guest("inspect", host, vnf_id) as (_, guest):
            return _status(guest)

    def list_guests(self, host: str, root: str) -> list[GuestStatus]:
        engine = self.engine(host)
        with engine.call("list_guests"):
            return [_status(guest) for guest in engine.guests.values() if guest.spec.root == root]

    def events(self, host: str, root: str) -> Iterator[GuestEvent | None]:
        engine = self.engine(host)
        with engine.call("events"):
            stream = engine.subscribe(root)
        try:
            yield None
            while True:
                yield engine.next(stream)
        finally:
            engine.unsubscribe(stream)

    def ping(self, host: str) -> None:
        with self.engine(host).call("ping"):
            pass

    def console_log(self, host: str, vnf_id: str, limit_bytes: int) -> bytes:
        with self._guest("console_log", host, vnf_id) as (_, guest):
            return guest.console[-limit_bytes:]

    def is_local(self, host: str) -> bool:
        return False  # its guests are no processes of this machine

    def counters(self, host: str, vnf_id: str) -> tuple[LinkCounters, Usage]:
        with self._guest("counters", host, vnf_id):
            return LinkCounters(1000, 2000, 10, 20, 3), Usage(1.5, 4096)

    # -- images -----------------------------------------------------------------------------

    def import_image(self, name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
        with self.engine("").call("import_image"):
            self.engine("").images.add(name)

    def list_images(self) -> list[ImageInfo]:
        with self.engine("").call("list_images"):
            return [ImageInfo(name, 0, time.time()) for name in sorted(self.engine("").images)]

    def remove_image(self, name: str) -> None:
        with self.engine("").call("remove_image"):
            try:
                self.engine("").images.remove(name)
            except KeyError:
                raise NotFound(f"no image {name}") from None

    def check(self) -> list[Finding]:
        return [Finding("memory", True, "is there")]


def _status(guest: MemoryGuest) -> GuestStatus:
    return GuestStatus(
        vnf_id=guest.vnf_id,
        uuid=guest.spec.uuid,
        name=guest.name,
        word={Phase.CONFIGURED: "created", Phase.BROKEN: "dead"}.get(guest.phase, guest.phase.name.lower()),
        phase=guest.phase,
        address=guest.address if guest.phase in (Phase.RUNNING, Phase.PAUSED) else "",
        exit_code=guest.exit_code if guest.phase is Phase.EXITED else None,
        reason=guest.reason,
    )


# -- the programs that its guests have: just enough to be told what to do ---------------------


def _not_found(_: MemoryGuest, cmd: list[str]) -> CommandResult:
    return CommandResult(127, f"{cmd[0]}: not found\n".encode())


def _check(guest: MemoryGuest, _: list[str]) -> CommandResult:
    if any(BAD_CONFIG in content for content in guest.config().values()):
        return CommandResult(1, b"nf_conf:1: syntax error: nonsense\n")
    return CommandResult(0, b"")


def _apply(guest: MemoryGuest, _: list[str]) -> CommandResult:
    guest.applied = guest.config()
    return CommandResult(0, b"")


def _shell(guest: MemoryGuest, cmd: list[str]) -> CommandResult:
    """``echo WORDS`` and ``exit N``; the command is the last of the shell's arguments."""
    words = shlex.split(cmd[-1])
    if words[0] == "echo":
        return CommandResult(0, f"{' '.join(words[1:])}\n".encode())
    if words[0] == "exit":
        return CommandResult(int(words[1]), b"first line\nlast line\n")
    return _not_found(guest, words)


_PROGRAMS: dict[str, Callable[[MemoryGuest, list[str]], CommandResult]] = {
    "check": _check,
    "apply": _apply,
    "/bin/sh": _shell,
}
