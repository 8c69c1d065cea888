"""What a hypervisor driver promises. A driver can be written from this module alone.

Conventions that hold for every method:

* ``host`` is the machine that runs the VNF: ``""`` or ``"localhost"`` is this one.
* ``vnf_id`` is the engine's own id (container id, domain uuid); only the driver looks into it.
* Success returns ``SUCCESS``; failure raises a ``HypervisorError`` whose reason is in the
  engine's words. ``deploy`` alone answers with a code instead of raising, as nf.io's API says.
* Every call ends within its deadline: HypervisorTimeout (ETIMEDOUT) when the engine was
  reached and did not answer, HypervisorUnreachable (EHOSTUNREACH) when it was not.
* A method returns when its move is done: the next ``inspect`` shows it.
* Guests, their labels, console logs and exit codes outlive this process. A new driver object
  finds them by ``list_guests``.
* Constructors do no I/O. Methods may be called from many threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from hypervisor.hypervisor_return_codes import EMPTY, SUCCESS, ReturnCode, code_of
from nfio.errors import NfioError

#: Where a guest finds the files of its ``config/``, read-only.
CONFIG_DIR = "/etc/nfio"

#: Processes and threads that a guest may have, where it shares the host's kernel.
PIDS_LIMIT = 4096

#: First console words of a guest whose image was made by ``nfio image build``: its
#: configuration was accepted and the function serves, or it was refused and why.
READY_LINE = "nfio: ready"
REJECTED_LINE = "nfio: rejected"


class Phase(Enum):
    """What a guest is doing, whatever the engine calls it."""

    CONFIGURED = "made, never started or stopped on request"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "it ran and ended; exit_code says how"
    BROKEN = "the engine itself reports it unusable"


@dataclass(frozen=True)
class GuestStatus:
    """One look at a guest.

    Attributes:
        vnf_id: the engine's id.
        uuid: the entity's uuid, from the label that ``deploy`` set; empty if it has none.
        name: the engine's name of the guest.
        word: the engine's own word for what it does (``running``, ``exited``).
        phase: the same in nfio's terms.
        pid: first process as this host numbers it (of a machine: the one that emulates it); None
            if not running or on another host.
        address: the guest's own IP address; empty if it has none.
        exit_code: of the first process, once it ended, as a shell counts: 128 and the signal that
            killed it. An end with 0 or 143 and without a reason is no error.
        reason: the engine's words about a failure; empty if none. An end with one is an error.
        links: this host's ends of its links; an empty tuple if it has none. None: those that lead
            into the namespace of ``pid``.
        shares_kernel: whether ``pid`` lives in the guest's own network namespace, as a container's
            does. False for a machine: this host does not see what is inside.
    """

    vnf_id: str
    uuid: str
    name: str
    word: str
    phase: Phase
    pid: int | None = None
    address: str = ""
    exit_code: int | None = None
    reason: str = ""
    links: tuple[str, ...] | None = None
    shares_kernel: bool = True


@dataclass(frozen=True)
class GuestEvent:
    """Something happened to a guest; ask ``inspect`` what it is now."""

    vnf_id: str
    uuid: str


@dataclass(frozen=True)
class Resources:
    """Limits. None is no limit; ``vcpu`` counts CPUs, ``memory_bytes`` bytes."""

    vcpu: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class BootOptions:
    """How a machine boots, as its ``config/boot.conf`` says; None leaves it to the image.

    Attributes:
        kernel, initrd: files on the machine's host, for direct kernel boot. ``kernel`` "disk"
            boots what the disk image itself holds.
        cmdline: the kernel's command line, added to what the image needs.
    """

    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None


@dataclass(frozen=True)
class Function:
    """How a root file system that was not made for the function is brought to serve.

    Attributes:
        init: text of the script that starts it (see READY_LINE).
        setup: shell commands that prepare the root file system, run once.
        programs: what it must hold.
        packages: Debian packages that bring them.
    """

    init: str = ""
    setup: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class VnfSpec:
    """What a guest is made from, beside its image and name.

    Attributes:
        root, type, instance, uuid: the labels by which it is found again.
        resources: its limits.
        capabilities: Linux capabilities it gets (``NET_ADMIN``); all others are dropped.
        sysctls: of its network namespace.
        user: the uid its program runs as; None leaves it to the image.
        config_dir: a directory on this host whose files it sees in ``CONFIG_DIR``.
        boot: how it boots, if it is a machine.
        function: what it is to do, for an image that does not know it by itself.
    """

    root: str = ""
    type: str = ""
    instance: str = ""
    uuid: str = ""
    resources: Resources = Resources()
    capabilities: tuple[str, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    config_dir: Path | None = None
    boot: BootOptions = BootOptions()
    function: Function = Function()


class LinkCounters(NamedTuple):
    """Counters of a guest's interfaces as the guest counts them: bytes, packets."""

    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    drops: int


class Usage(NamedTuple):
    """What a guest used: CPU seconds since it started, bytes of memory now."""

    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class CommandResult:
    """How a command in a guest ended; ``output`` is stdout and stderr as they came."""

    exit_code: int
    output: bytes


@dataclass(frozen=True)
class ImageInfo:
    """An image the engine has. ``created`` is seconds since the epoch."""

    name: str
    size_bytes: int
    created: float
    recipe: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of ``nfio doctor``: what was looked at, whether it is well, what mends it.

    ``optional``: nfio can do without it.
    """

    what: str
    ok: bool
    detail: str
    mend: str = ""
    optional: bool = False


class HypervisorBase(ABC):
    """Base class for hypervisors. This class must be extended by a hypervisor driver."""

    #: seconds a call may take before it counts as not answered
    timeout_s: float = 10.0
    #: seconds that a guest may take from its start until it serves
    start_timeout_s: float = 10.0
    #: seconds that a guest has to end when it is asked to, before it is ended
    stop_grace_s: float = 10.0
    #: Debian packages that every image for this engine holds beside the function's own
    image_packages: tuple[str, ...] = ()

    def require_host(self, host: str) -> None:  # noqa: B027  # most drivers can
        """Return if this driver can run VNFs on a host at all. Speaks to nobody.

        Raises:
            NotSupported (EOPNOTSUPP): it cannot.
        """

    def deploy(
        self,
        host: str,
        user: str,
        image_name: str,
        vnf_name: str,
        *,
        spec: VnfSpec | None = None,
    ) -> tuple[str | None, ReturnCode, str]:
        """Make a guest without starting it.

        Args:
            host: address or name of the machine where it is to be deployed.
            user: name of the user who owns the VNF.
            image_name: the engine's image name.
            vnf_name: name of the VNF, ``<type>-<instance>``.
            spec: limits, capabilities, labels and configuration; none makes a bare guest.

        Returns:
            ``(vnf_id, SUCCESS, EMPTY)``, or ``(None, code, message)`` and nothing was left behind.
        """
        try:
            return self.create(host, user, image_name, vnf_name, spec or VnfSpec()), SUCCESS, EMPTY
        except NfioError as error:
            return None, code_of(error), error.reason

    @abstractmethod
    def create(self, host: str, user: str, image_name: str, vnf_name: str, spec: VnfSpec) -> str:
        """What ``deploy`` does, with errors raised: make a guest named ``<user>-<vnf_name>``.

        A guest with the same uuid label that is already there is replaced. Where the name is
        held by another VNF of nfio's the new one gets a suffix from its uuid; where it is held
        by a stranger the engine's refusal is raised. It gets no capability but ``spec``'s and is
        never privileged. An image that is not there and a limit that cannot be set are refused
        here (HypervisorError). Whatever fails, nothing is left behind.
        """

    @abstractmethod
    def get_id(self, host: str, user: str, vnf_name: str) -> str:
        """The engine's id of the guest ``<user>-<vnf_name>``; NoSuchVnf (EIO) if none is."""

    @abstractmethod
    def start(self, host: str, vnf_id: str) -> ReturnCode:
        """Start a guest that is not running.

        Returns once it serves: where its image has the label ``io.nfio.init``, after READY_LINE,
        where lines of an earlier run do not count; else once its first process has lived for a
        moment (0.2 s).

        Raises:
            ConfigurationRejected: it printed REJECTED_LINE; the message is what followed.
            HypervisorError: it could not be started, or ended at once; it is not running.
        """

    @abstractmethod
    def restart(self, host: str, vnf_id: str) -> ReturnCode:
        """Stop it if it runs, then ``start`` it."""

    @abstractmethod
    def stop(self, host: str, vnf_id: str) -> ReturnCode:
        """Ask its first process to end, and end it when the grace is over. Paused ones too."""

    @abstractmethod
    def pause(self, host: str, vnf_id: str) -> ReturnCode:
        """Freeze all its processes."""

    @abstractmethod
    def unpause(self, host: str, vnf_id: str) -> ReturnCode:
        """Let them go on."""

    @abstractmethod
    def destroy(self, host: str, vnf_id: str) -> ReturnCode:
        """Remove it, running or not. A guest that is already gone is a success."""

    @abstractmethod
    def execute_in_guest(self, host: str, vnf_id: str, cmd: list[str]) -> CommandResult:
        """Run a program in a running guest and wait for its end; ``cmd`` is its argument list.

        Raises HypervisorTimeout (ETIMEDOUT) after ``timeout_s``, and ends the program where
        it can be reached.
        """

    @abstractmethod
    def guest_status(self, host: str, vnf_id: str) -> str:
        """The engine's own word for what a guest does."""

    @abstractmethod
    def inspect(self, host: str, vnf_id: str) -> GuestStatus:
        """Look at a guest. NoSuchVnf (EIO) if the engine does not know it."""

    @abstractmethod
    def list_guests(self, host: str, root: str) -> list[GuestStatus]:
        """Every guest with that root label, whatever it does."""

    @abstractmethod
    def events(self, host: str, root: str) -> Iterator[GuestEvent | None]:
        """Yield what happens to guests with that root label, as it happens, without end.

        The first item is None: the subscription stands, and what is looked at from now on
        misses nothing. Every change of phase and every guest made or removed is told within half
        a second; one event too many does no harm. Raises HypervisorUnreachable when the engine
        closes the stream.
        """

    @abstractmethod
    def ping(self, host: str) -> None:
        """Return if the engine answers; raise HypervisorUnreachable or HypervisorTimeout.

        It is called every second: it is cheap. Every other method that speaks to the engine fails
        as this one does.
        """

    @abstractmethod
    def console_log(self, host: str, vnf_id: str, limit_bytes: int) -> bytes:
        """The last part of what the guest wrote on its console.

        Kept when it is stopped and started, gone with ``destroy``; empty if it was never started.
        """

    @abstractmethod
    def scale(self, host: str, vnf_id: str, resources: Resources) -> ReturnCode:
        """Change the limits of a guest while it runs."""

    @abstractmethod
    def push_config(self, host: str, vnf_id: str, config_dir: Path) -> None:
        """Make the guest see the present files of ``config_dir``.

        Each appears whole, every user of the guest can read it, and those that are gone go.
        """

    @abstractmethod
    def is_local(self, host: str) -> bool:
        """Whether guests of that host have their processes and links on this machine."""

    @abstractmethod
    def counters(self, host: str, vnf_id: str) -> tuple[LinkCounters, Usage]:
        """The engine's own counters of a guest; used where ``is_local`` is false."""

    @abstractmethod
    def import_image(self, name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
        """Make an image from the tar file of a root file system, on this host's engine.

        One of that name is replaced; guests made from the old one keep it. Whatever fails or
        interrupts it, no half-made image is listed and nothing is left behind.

        Args:
            command: the first program of its guests.
            labels: kept with it; ``io.nfio.init``: its guests announce themselves on their
                console (see READY_LINE); ``io.nfio.recipe``: ``ImageInfo.recipe``.
        """

    @abstractmethod
    def list_images(self) -> list[ImageInfo]:
        """The images that this host's engine has, by the names that ``create`` takes."""

    @abstractmethod
    def remove_image(self, name: str) -> None:
        """Remove an image from this host's engine.

        Raises:
            NotFound (ENOENT): it has none of that name.
            Busy (EBUSY): a guest is made from it.
        """

    @abstractmethod
    def check(self) -> list[Finding]:
        """What ``nfio doctor`` says of the engine on this host. Raises nothing."""
