"""Where the Native driver keeps its guests: a directory for each, and claims on names and addresses.

::

    NFIO_NATIVE_DIR (/var/lib/nfio/native)/
    ├── guests/<id>/            one guest
    │   ├── guest.json          what it is made from (Guest)
    │   ├── run.json            its last run (Run); none if it was never started
    │   ├── config.json         the OCI runtime configuration of its last run
    │   ├── rootfs/             where its root file system is mounted while it runs, for it alone
    │   ├── upper/  work/       what it wrote
    │   ├── console.log         what it said
    │   ├── exit/<id>           the exit code of its last run, written by conmon
    │   └── ended               its last run was ended on request
    ├── names/<name>            a link that holds the id of the guest that has the name
    ├── addresses/<address>     the same for addresses
    ├── entities/<key>          the same for the entities that guests are of (entity_key)
    ├── images/  layers/        see native_images.py
    └── network.json            see native_network.py

Links are made by symlink(2), which fails if there is one: of two who want a name one gets it,
without a lock, whatever processes they are in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nfio.errors import HypervisorError, HypervisorTimeout, NoSuchVnf

DEFAULT_DIR = "/var/lib/nfio/native"
#: longer than any operation takes: whoever keeps a lock beyond that is hung
_LOCK_TIMEOUT_S = 40.0


@dataclass(frozen=True)
class Guest:
    """What a guest is made from.

    Attributes:
        vnf_id, name, address: its own.
        root, type, instance, uuid: its labels.
        layers: directories its root file system is stacked from, the uppermost first.
        image: name of its image.
        command: its first program.
        announces: it says on its console that it is ready.
        config_dir: what it sees as its configuration directory; empty for none.
    """

    vnf_id: str
    name: str
    address: str
    root: str
    type: str
    instance: str
    uuid: str
    layers: tuple[str, ...]
    image: str
    command: tuple[str, ...]
    announces: bool
    config_dir: str = ""
    capabilities: tuple[str, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    vcpu: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Run:
    """One run of a guest.

    Attributes:
        boot: id of the machine's boot it belongs to.
        pid: its first process; ``begun`` tells it from a later one of that number (clock ticks
            after boot, proc_pid_stat(5)).
    """

    boot: str
    pid: int
    begun: int

    @property
    def goes_on(self) -> bool:
        return self.boot == boot_id() and begun_of(self.pid) == self.begun


def entity_key(root: str, uuid: str) -> str:
    """Name of the claim on an entity: its labels are data, and no file names."""
    return hashlib.sha256(f"{root}\n{uuid}".encode()).hexdigest()[:32]


def boot_id() -> str:
    """Names the machine's present boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def begun_of(pid: int) -> int | None:
    """When a living process began, in clock ticks after boot; None if it is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def lock(fd: int) -> None:
    """Lock an open file. HypervisorTimeout (ETIMEDOUT) if another keeps it longer than an operation takes."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise HypervisorTimeout("another process is at work on it, and does not end") from None
            time.sleep(0.002)


class NativeStore:
    """The directory of all guests, images and claims."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.guests = directory / "guests"
        self.names = directory / "names"
        self.addresses = directory / "addresses"
        self.entities = directory / "entities"
        self.images = directory / "images"
        self.layers = directory / "layers"

    @classmethod
    def from_environment(cls) -> NativeStore:
        return cls(Path(os.environ.get("NFIO_NATIVE_DIR") or DEFAULT_DIR).absolute())

    @property
    def runtime_root(self) -> Path:
        """Where the OCI runtime keeps its own state: it does not outlive the machine's boot."""
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:8]
        return Path("/run/nfio") / f"native-{digest}"

    def prepare(self) -> None:
        """Make the directories, for root alone: root file systems hold set-uid programs."""
        for path in (self.guests, self.names, self.addresses, self.entities, self.images, self.layers):
            path.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)

    @contextlib.contextmanager
    def locked(self, name: str = "") -> Iterator[None]:
        """Keep other processes, and other threads, from the guest of that id; "" is all of it.

        Raises:
            HypervisorTimeout (ETIMEDOUT): another one keeps it for longer than an operation takes.
        """
        place = self.guests / name / "lock" if name else self.directory / "lock"
        try:
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise NoSuchVnf(f"no such guest: {name[:12]}") from None
        try:
            lock(fd)
            if name and not os.fstat(fd).st_nlink:
                raise NoSuchVnf(f"no such guest: {name[:12]}")  # it was destroyed while we waited
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """HypervisorError (EIO) for what the file system refuses in the body: a full disk, say."""
        try:
            yield
        except OSError as error:
            raise HypervisorError(f"{self.directory}: {error.strerror}") from error

    # -- guests -----------------------------------------------------------------------------

    def path(self, vnf_id: str) -> Path:
        return self.guests / vnf_id

    def ids(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.guests) if not name.startswith(".")]
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def drafted(self, vnf_id: str) -> Iterator[None]:
        """Run the body, which claims what a new guest needs and adds it.

        Meanwhile its draft is locked: so others know that its claims are not those of a guest
        that is gone, or of a process that was killed.
        """
        draft = self._draft(vnf_id)
        draft.mkdir()
        fd = os.open(draft / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
            shutil.rmtree(draft, ignore_errors=True)

    def _draft(self, vnf_id: str) -> Path:
        return self.guests / f".{vnf_id}"

    def _is_drafted(self, vnf_id: str) -> bool:
        try:
            fd = os.open(self._draft(vnf_id) / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(fd)

    def add(self, guest: Guest) -> None:
        """Make a guest of its draft, whole or not at all."""
        draft = self._draft(guest.vnf_id)
        for part in ("rootfs", "upper", "work", "exit"):
            (draft / part).mkdir()
        (draft / "upper").chmod(0o755)  # it becomes the guest's root directory
        (draft / "guest.json").write_text(json.dumps(asdict(guest)))
        draft.rename(self.path(guest.vnf_id))

    def load(self, vnf_id: str) -> Guest:
        """Raises NoSuchVnf (EIO) if there is none of that id."""
        found = self._json(vnf_id, "guest.json")
        if found is None:
            raise NoSuchVnf(f"no such guest: {vnf_id[:12]}")
        for key in ("layers", "command", "capabilities"):
            found[key] = tuple(found[key])
        return Guest(**found)

    def save(self, guest: Guest) -> None:
        self._write(guest.vnf_id, "guest.json", asdict(guest))

    def all(self) -> Iterator[Guest]:
        for vnf_id in self.ids():
            with contextlib.suppress(NoSuchVnf):  # it went between the two looks
                yield self.load(vnf_id)

    def run_of(self, vnf_id: str) -> Run | None:
        found = self._json(vnf_id, "run.json")
        return None if found is None else Run(**found)

    def save_run(self, vnf_id: str, run: Run) -> None:
        self._write(vnf_id, "run.json", asdict(run))
        (self.path(vnf_id) / "ended").unlink(missing_ok=True)

    def note_ended(self, vnf_id: str) -> None:
        """Its run is ended on request, whatever is seen of how it ended."""
        (self.path(vnf_id) / "ended").touch()

    def was_ended(self, vnf_id: str) -> bool:
        return (self.path(vnf_id) / "ended").exists()

    def remove(self, guest: Guest) -> None:
        """Forget a guest that does not run; its claims go last, so that nothing holds them twice."""
        grave = self.guests / f".gone-{guest.vnf_id}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(guest.vnf_id), grave)
        shutil.rmtree(grave, ignore_errors=True)
        self.release(self.names, guest.name, guest.vnf_id)
        self.release(self.addresses, guest.address, guest.vnf_id)
        if guest.uuid:
            self.release(self.entities, entity_key(guest.root, guest.uuid), guest.vnf_id)

    def _json(self, vnf_id: str, name: str) -> dict[str, Any] | None:
        if not vnf_id.isalnum():
            return None  # an id is data: never a path
        try:
            found: dict[str, Any] = json.loads((self.path(vnf_id) / name).read_text())
        except FileNotFoundError:
            return None
        return found

    def _write(self, vnf_id: str, name: str, content: dict[str, Any]) -> None:
        draft = self.path(vnf_id) / f".{name}.{uuid.uuid4().hex}"
        try:
            draft.write_text(json.dumps(content))
            draft.rename(self.path(vnf_id) / name)
        except FileNotFoundError:
            raise NoSuchVnf(f"no such guest: {vnf_id[:12]}") from None

    # -- claims -----------------------------------------------------------------------------

    def claim(self, directory: Path, key: str, vnf_id: str) -> bool:
        """Take a name or an address; False if another guest has it."""
        place = directory / key
        try:
            os.symlink(vnf_id, place)
            return True
        except FileExistsError:
            pass
        with contextlib.suppress(FileNotFoundError):
            holder = os.readlink(place)
            if not self._is_abandoned(holder):
                return holder == vnf_id
            place.unlink()
        return self.claim(directory, key, vnf_id)

    def _is_abandoned(self, vnf_id: str) -> bool:
        """Whether a claim is of nobody: its guest was removed by hand, or never came to be."""
        return not self._is_drafted(vnf_id) and not self.path(vnf_id).exists()

    def is_unused(self) -> bool:
        """Whether nobody has an address."""
        for place in self.addresses.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not self._is_abandoned(os.readlink(place)):
                    return False
        return True

    def forget_abandoned(self) -> None:
        """Release the claims of nobody, and remove the drafts of processes that were killed."""
        for directory in (self.names, self.addresses, self.entities):
            for place in directory.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    holder = os.readlink(place)
                    if self._is_abandoned(holder):
                        self.release(directory, place.name, holder)
        for place in self.guests.glob(".*"):
            vnf_id = place.name.removeprefix(".gone-").removeprefix(".")
            if self._is_abandoned(vnf_id):
                shutil.rmtree(place, ignore_errors=True)

    def release(self, directory: Path, key: str, vnf_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(directory / key) == vnf_id:
                os.unlink(directory / key)

    @staticmethod
    def holder(directory: Path, key: str) -> str | None:
        """Id of the guest that has a name, an address or an entity; None if none has it."""
        try:
            return os.readlink(directory / key)
        except FileNotFoundError:
            return None

    def claim_address(self, network: ipaddress.IPv4Network, vnf_id: str) -> str:
        """The lowest address of a network that no guest has; its first is the gateway's.

        Raises:
            HypervisorError (EIO): there is none left.
        """
        taken = set(os.listdir(self.addresses))
        for number in range(int(network.network_address) + 2, int(network.broadcast_address)):
            address = socket.inet_ntoa(number.to_bytes(4, "big"))
            if address not in taken and self.claim(self.addresses, address, vnf_id):
                return address
        raise HypervisorError(f"no address is left in {network}: NFIO_NATIVE_SUBNET sets a larger one")
