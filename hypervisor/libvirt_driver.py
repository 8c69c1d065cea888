"""Hypervisor driver for libvirt 9 and newer with QEMU: a VNF is a virtual machine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hypervisor import libvirt_agent, libvirt_images
from hypervisor.hypervisor_base import (
    CommandResult,
    Finding,
    GuestEvent,
    GuestStatus,
    HypervisorBase,
    ImageInfo,
    LinkCounters,
    Resources,
    Usage,
    VnfSpec,
)
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode
from hypervisor.libvirt_check import findings
from hypervisor.libvirt_connection import Connections, is_local, uri_of
from hypervisor.libvirt_console import Run, console_text
from hypervisor.libvirt_errors import is_a, translate_errors
from hypervisor.libvirt_events import follow
from hypervisor.libvirt_kvm import kind_of
from hypervisor.libvirt_library import libvirt
from hypervisor.libvirt_limits import require_possible, scale
from hypervisor.libvirt_local import LocalMachine
from hypervisor.libvirt_machine import CONSOLE_LOG, ROOT_DISK, SERIAL_LOG, Machine, kernel_of
from hypervisor.libvirt_metadata import Asked, Mark, note, read_mark
from hypervisor.libvirt_network import NETWORK, ensure_network, network_lock, release_network
from hypervisor.libvirt_remote import RemoteMachine
from hypervisor.libvirt_status import counters_of, is_gone, status_of
from hypervisor.libvirt_xml import DomainPlan, domain_xml
from nfio.errors import HypervisorError, HypervisorTimeout, NetworkDown, NoSuchVnf

#: a daemon that takes longer to say that it is there is taken for hung
PING_TIMEOUT_S = 2.0
#: the same where the way to it may have to be opened anew
REMOTE_PING_TIMEOUT_S = 8.0
#: a machine that does not announce itself and ends within this time was not started
EARLY_DEATH_S = 0.2
_POLL_S = 0.02
#: The power button is pressed again so often: a kernel that is still coming up does not feel it.
_PRESS_S = 1.0
_KVM_PREFIX = (0x52, 0x54, 0x00)


class Libvirt(HypervisorBase):
    """Hypervisor driver for libvirt. This class provides methods for managing QEMU domains."""

    #: a machine takes seconds to come up where QEMU emulates its CPU, and more on a busy host
    start_timeout_s = 60.0
    image_packages = ("linux-image-cloud-amd64", "kmod", "qemu-guest-agent")

    def __init__(self) -> None:
        """Instantiates a Libvirt object. No daemon is spoken to before the first call."""
        self._connections = Connections()

    # -- the daemon -------------------------------------------------------------------------

    def is_local(self, host: str) -> bool:
        return is_local(host)

    def ping(self, host: str) -> None:
        self._connections.ping(host, PING_TIMEOUT_S if is_local(host) else REMOTE_PING_TIMEOUT_S)

    def _borrow(self, host: str) -> Any:
        return self._connections.borrow(host, self.timeout_s)

    @staticmethod
    def _machine(host: str, connection: Any, vnf_id: str) -> Machine:
        return LocalMachine(vnf_id) if is_local(host) else RemoteMachine(vnf_id, connection, host)

    @staticmethod
    def _domain(connection: Any, vnf_id: str) -> tuple[Any, Mark]:
        """A domain of nfio's. NoSuchVnf (EIO) if there is none of that id."""
        try:
            uuid.UUID(vnf_id)
        except ValueError:
            raise NoSuchVnf(f"no domain has the uuid {vnf_id!r}") from None
        domain = connection.lookupByUUIDString(vnf_id)
        mark = read_mark(domain)
        if mark is None:
            raise NoSuchVnf(f"the domain {domain.name()} is not nfio's")
        return domain, mark

    # -- making and removing ----------------------------------------------------------------

    def get_id(self, host: str, user: str, vnf_name: str) -> str:
        """Returns a domain's uuid.

        Args:
            host: IP address or hostname of the machine where the domain is deployed.
            user: name of the user who owns the VNF.
            vnf_name: name of the VNF whose ID is being queried, ``<type>-<instance>``.
        """
        with self._borrow(host) as connection:
            found: str = connection.lookupByName(f"{user}-{vnf_name}").UUIDString()
            return found

    def create(self, host: str, user: str, image_name: str, vnf_name: str, spec: VnfSpec) -> str:
        vnf_id = str(uuid.UUID(spec.uuid)) if spec.uuid else str(uuid.uuid4())
        with self._borrow(host) as connection, ExitStack() as undo:
            cpus = connection.getInfo()[2]
            require_possible(spec.resources, cpus)
            machine = self._machine(host, connection, vnf_id)
            base = machine.find_base(image_name)
            kind = kind_of(connection, local=is_local(host))
            kernel = kernel_of(machine, base, spec.boot, kind)
            self._destroy(connection, vnf_id, machine)
            name = self._free_name(connection, f"{user}-{vnf_name}", vnf_id)
            undo.callback(machine.remove)
            machine.make(base)
            machine.save_settings(spec)
            mark = Mark(
                root=spec.root,
                type=spec.type,
                instance=spec.instance,
                uuid=spec.uuid,
                image=image_name,
                store=base.image.store if base.image else "",
                announces="yes" if base.image and base.image.announces else "",
            )
            plan = DomainPlan(
                name=name,
                uuid=vnf_id,
                kind=kind,
                mark=mark,
                resources=spec.resources,
                cpus=cpus,
                disk=machine.path(ROOT_DISK),
                config=machine.write_config_disk() if base.image else None,
                serial_log=machine.path(SERIAL_LOG),
                console_log=machine.path(CONSOLE_LOG) if base.image else None,
                network=NETWORK,
                mac=_mac(vnf_id),
                kernel=kernel,
            )
            with network_lock():
                ensure_network(connection)
                undo.callback(self._release, connection)
                connection.defineXMLFlags(domain_xml(plan), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            undo.pop_all()
            return vnf_id

    @staticmethod
    def _free_name(connection: Any, name: str, vnf_id: str) -> str:
        """The name, or another where a VNF of nfio's has it; libvirt refuses a stranger's."""
        try:
            holder = read_mark(connection.lookupByName(name))
        except libvirt.libvirtError as error:
            if is_a(error, "VIR_ERR_NO_DOMAIN"):
                return name
            raise
        return name if holder is None else f"{name}-{vnf_id[:8]}"

    @staticmethod
    def _release(connection: Any) -> None:
        with network_lock():
            release_network(connection)

    def destroy(self, host: str, vnf_id: str) -> ReturnCode:
        with self._borrow(host) as connection:
            self._destroy(connection, vnf_id, self._machine(host, connection, vnf_id))
        return SUCCESS

    def _destroy(self, connection: Any, vnf_id: str, machine: Machine) -> None:
        try:
            domain, _ = self._domain(connection, vnf_id)
            # One that has ended meanwhile, or whose removal goes on in another thread, is as good.
            _unless(domain.destroy, "VIR_ERR_OPERATION_INVALID", "VIR_ERR_NO_DOMAIN")
            with network_lock():
                _unless(
                    lambda: domain.undefineFlags(
                        libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    ),
                    "VIR_ERR_NO_DOMAIN",
                )
                release_network(connection)
        except NoSuchVnf:
            return
        except libvirt.libvirtError as error:
            if not is_a(error, "VIR_ERR_NO_DOMAIN"):
                raise
        machine.remove()

    def push_config(self, host: str, vnf_id: str, config_dir: Path) -> None:
        with self._borrow(host) as connection:
            domain, mark = self._domain(connection, vnf_id)
            if not (mark.ours and domain.isActive()):
                return  # it reads it when it starts
            deadline = time.monotonic() + self.timeout_s
            libvirt_agent.await_agent(domain, deadline, ours=True)
            archive = self._machine(host, connection, vnf_id).config_archive(config_dir)
            libvirt_agent.configure(domain, archive, deadline)

    # -- running ----------------------------------------------------------------------------

    def start(self, host: str, vnf_id: str) -> ReturnCode:
        """Starts a domain."""
        with self._borrow(host) as connection:
            domain, mark = self._domain(connection, vnf_id)
            state = domain.state()[0]
            if state == libvirt.VIR_DOMAIN_RUNNING:
                return SUCCESS
            if not is_gone(domain):
                raise HypervisorError("the domain is paused: unpause it")
            machine = self._machine(host, connection, vnf_id)
            if mark.ours:
                machine.write_config_disk()
            machine.begin_log(SERIAL_LOG)
            run = Run(machine)
            with network_lock():
                ensure_network(connection)
            asked = Asked(mark.asked)
            mark = note(domain, mark, Asked.START)
            try:
                domain.create()
            except libvirt.libvirtError:
                note(domain, mark, asked)
                raise
            self._await_start(domain, mark, run, machine.poll_s)
        return SUCCESS

    def _await_start(self, domain: Any, mark: Mark, run: Run, poll_s: float) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < self.start_timeout_s:
            if is_gone(domain):
                raise run.failure()
            if not mark.ours and time.monotonic() - begun > EARLY_DEATH_S:
                return
            if mark.ours and (run.is_ready() if mark.announces else run.has_begun(EARLY_DEATH_S)):
                return
            time.sleep(poll_s)
        raise HypervisorTimeout(f"it started and did not report within {self.start_timeout_s:g} s")

    def restart(self, host: str, vnf_id: str) -> ReturnCode:
        """Restarts a domain."""
        self.stop(host, vnf_id)
        return self.start(host, vnf_id)

    def stop(self, host: str, vnf_id: str) -> ReturnCode:
        """Stops a domain."""
        with self._borrow(host) as connection:
            domain, mark = self._domain(connection, vnf_id)
            if is_gone(domain):
                return SUCCESS
            mark = note(domain, mark, Asked.STOP)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()  # what is frozen does not feel its power button
            deadline = time.monotonic() + self.stop_grace_s
            pressed = 0.0
            while not is_gone(domain):
                if time.monotonic() > deadline:
                    note(domain, mark, Asked.KILL)
                    _unless(domain.destroy, "VIR_ERR_OPERATION_INVALID")
                    break
                if time.monotonic() - pressed > _PRESS_S:
                    pressed = time.monotonic()
                    _unless(
                        lambda: domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN),
                        "VIR_ERR_OPERATION_INVALID",
                    )
                time.sleep(_POLL_S)
        return SUCCESS

    def pause(self, host: str, vnf_id: str) -> ReturnCode:
        """Pauses a domain."""
        with self._borrow(host) as connection:
            domain, _ = self._domain(connection, vnf_id)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                raise HypervisorError("the domain is paused already")
            domain.suspend()
        return SUCCESS

    def unpause(self, host: str, vnf_id: str) -> ReturnCode:
        """Unpauses a domain."""
        with self._borrow(host) as connection:
            domain, _ = self._domain(connection, vnf_id)
            if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                raise HypervisorError("the domain is not paused")
            domain.resume()
        return SUCCESS

    def scale(self, host: str, vnf_id: str, resources: Resources) -> ReturnCode:
        with self._borrow(host) as connection:
            domain, _ = self._domain(connection, vnf_id)
            scale(domain, resources, connection.getInfo()[2])
        return SUCCESS

    def execute_in_guest(self, host: str, vnf_id: str, cmd: list[str]) -> CommandResult:
        """Executes a command inside a domain."""
        with self._borrow(host) as connection:
            domain, mark = self._domain(connection, vnf_id)
            if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                raise HypervisorError("the domain does not run")
            deadline = time.monotonic() + self.timeout_s
            libvirt_agent.await_agent(domain, deadline, ours=mark.ours)
            return libvirt_agent.run(domain, cmd, deadline, self.timeout_s)

    # -- looking ----------------------------------------------------------------------------

    def guest_status(self, host: str, vnf_id: str) -> str:
        """Returns the status of a domain."""
        return self.inspect(host, vnf_id).word

    def inspect(self, host: str, vnf_id: str) -> GuestStatus:
        with self._borrow(host) as connection:
            domain, mark = self._domain(connection, vnf_id)
            return self._status(host, connection, domain, mark)

    def _status(self, host: str, connection: Any, domain: Any, mark: Mark) -> GuestStatus:
        machine = self._machine(host, connection, domain.UUIDString())
        return status_of(connection, domain, mark, machine, local=is_local(host))

    def list_guests(self, host: str, root: str) -> list[GuestStatus]:
        guests = []
        with self._borrow(host) as connection:
            for domain in connection.listAllDomains():
                try:
                    mark = read_mark(domain)
                    if mark is not None and mark.root == root:
                        guests.append(self._status(host, connection, domain, mark))
                except libvirt.libvirtError as error:
                    if not is_a(error, "VIR_ERR_NO_DOMAIN"):
                        raise
                    # it went between the two questions
        return guests

    def events(self, host: str, root: str) -> Iterator[GuestEvent | None]:
        with self._borrow(host) as connection:
            yield from follow(connection, root)

    def console_log(self, host: str, vnf_id: str, limit_bytes: int) -> bytes:
        with self._borrow(host) as connection:
            _, mark = self._domain(connection, vnf_id)
            machine = self._machine(host, connection, vnf_id)
            machine.look()
            return console_text(machine, ours=mark.ours, limit_bytes=limit_bytes)

    def counters(self, host: str, vnf_id: str) -> tuple[LinkCounters, Usage]:
        with self._borrow(host) as connection:
            domain, _ = self._domain(connection, vnf_id)
            if not domain.isActive():
                raise NetworkDown("the domain does not run")
            return counters_of(domain)

    # -- images -----------------------------------------------------------------------------

    def import_image(self, name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
        self.ping("")
        with translate_errors(uri_of("")):
            libvirt_images.import_image(name, tarball, command, labels)

    def list_images(self) -> list[ImageInfo]:
        self.ping("")
        with translate_errors(uri_of("")):
            return [libvirt_images.image_info(image) for image in libvirt_images.images()]

    def remove_image(self, name: str) -> None:
        self.ping("")
        with translate_errors(uri_of("")):
            libvirt_images.remove_image(name)

    def check(self) -> list[Finding]:
        return findings(self._connections, uri_of(""), PING_TIMEOUT_S)


def _unless(call: Any, *codes: str) -> None:
    """Do something that may be done already: these errors say so."""
    try:
        call()
    except libvirt.libvirtError as error:
        if not is_a(error, *codes):
            raise


def _mac(vnf_id: str) -> str:
    """A machine's address: the same whenever it is made anew, so that it gets the same lease."""
    return ":".join(f"{byte:02x}" for byte in (*_KVM_PREFIX, *uuid.UUID(vnf_id).bytes[-3:]))
