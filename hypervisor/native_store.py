"""Where the Native driver keeps its guests: a directory for each, and claims on names and addresses.

::

    NFIO_NATIVE_DIR (/var/lib/nfio/native)/
    ├── guests/<id>/            one guest
    │   ├── guest.json          what it is made from (Guest)
    │   ├── run.json            its last run (Run); none if it was never started
    │   ├── config.json         the OCI runtime configuration of its last run
    │   ├── rootfs/             where its root file system is mounted while it runs
    │   ├── upper/  work/       what it wrote
    │   ├── console.log         what it said
    │   └── exit/<id>           the exit code of its last run, written by conmon
    ├── names/<name>            a link that holds the id of the guest that has the name
    ├── addresses/<address>     the same for addresses
    ├── entities/<root>.<uuid>  the same for the entities that guests are of
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
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nfio.errors import HypervisorError, NoSuchVnf

DEFAULT_DIR = "/var/lib/nfio/native"
#: a claim without a guest that is older was left by a process that was killed
_STALE_CLAIM_S = 60.0


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
        """Keep other processes, and other threads, from the guest of that id; "" is all of it."""
        place = self.guests / name / "lock" if name else self.directory / "lock"
        try:
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise NoSuchVnf(f"no such guest: {name[:12]}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if name and not os.fstat(fd).st_nlink:
                raise NoSuchVnf(f"no such guest: {name[:12]}")  # it was destroyed while we waited
            yield
        finally:
            os.close(fd)

    # -- guests -----------------------------------------------------------------------------

    def path(self, vnf_id: str) -> Path:
        return self.guests / vnf_id

    def ids(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.guests) if not name.startswith(".")]
        except FileNotFoundError:
            return []

    def add(self, guest: Guest) -> None:
        """Make a guest's directory, whole or not at all."""
        draft = self.guests / f".{guest.vnf_id}"
        try:
            for part in ("rootfs", "upper", "work", "exit"):
                (draft / part).mkdir(parents=True)
            (draft / "upper").chmod(0o755)  # it becomes the guest's root directory
            (draft / "guest.json").write_text(json.dumps(asdict(guest)))
            draft.rename(self.path(guest.vnf_id))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

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

    def remove(self, guest: Guest) -> None:
        """Forget a guest that does not run; its claims go last, so that nothing holds them twice."""
        grave = self.guests / f".gone-{guest.vnf_id}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(guest.vnf_id), grave)
        shutil.rmtree(grave, ignore_errors=True)
        self.release(self.names, guest.name, guest.vnf_id)
        self.release(self.addresses, guest.address, guest.vnf_id)
        self.release(self.entities, f"{guest.root}.{guest.uuid}", guest.vnf_id)

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
            abandoned = not self.path(holder).exists() and (
                time.time() - place.lstat().st_mtime > _STALE_CLAIM_S
            )
            if not abandoned:
                return holder == vnf_id
            place.unlink()
        return self.claim(directory, key, vnf_id)

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
            address = str(ipaddress.IPv4Address(number))
            if address not in taken and self.claim(self.addresses, address, vnf_id):
                return address
        raise HypervisorError(f"no address is left in {network}: NFIO_NATIVE_SUBNET sets a larger one")
