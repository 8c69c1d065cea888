"""Native without nfio: its directory, the OCI runtime's own command, and what the kernel says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from engine import wait_until
from engine_view import EngineView, Seen, driver_of, host_leftovers, make_by_driver, output_of
from mount import is_gone

#: where the images are built, as by any other `nfio image build`
MACHINES_OWN = Path("/var/lib/nfio/native")
CGROUPS = Path("/sys/fs/cgroup")
_LIMITLESS = 1 << 62


class NativeView(EngineView):
    """Guests in a directory and on a bridge of the tests' own.

    Args:
        mark: begins the bridge's name; another one is beside that of all other tests.
    """

    name = "Native"
    created = "created"
    ended = "stopped"
    no_image = "no image"
    little_memory = "6 MiB at least"
    name_taken = "is taken"

    def __init__(self, mark: str = "nfioe2e") -> None:
        self.bridge = f"{mark}{os.getpid()}"
        self.directory = Path()

    @property
    def variables(self) -> dict[str, str]:
        return {"NFIO_NATIVE_DIR": str(self.directory), "NFIO_NATIVE_BRIDGE": self.bridge}

    @property
    def runtime_root(self) -> Path:
        """What `runc --root` is told."""
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:8]
        return Path("/run/nfio") / f"native-{digest}"

    def missing(self) -> str:
        missing = [program for program in ("runc", "conmon") if shutil.which(program) is None]
        return f"{', '.join(missing)} is not installed; scripts/setup installs it" if missing else ""

    def begin(self, directory: Path) -> None:
        self.directory = directory / "native"
        self._cgroups_before = self._empty_cgroups()

    def stock(self) -> None:
        images = self.directory / "images"
        images.mkdir(parents=True, exist_ok=True)
        for source in (MACHINES_OWN / "images").glob("[!.]*"):
            if (images / source.name).exists():
                continue
            # Nobody writes to them: they are lower layers.
            if subprocess.run(["cp", "-al", source, images], capture_output=True, check=False).returncode:
                output_of("cp", "-a", str(source), str(images))

    def leftovers(self) -> list[str]:
        found = [str(path) for part in ("guests", "names", "addresses") for path in self.place(part)]
        found += [str(path) for path in self.runtime_root.glob("*")]
        if not found:
            with suppress(FileNotFoundError):
                self.runtime_root.rmdir()
        found += self.leftover_of_host()
        return found + sorted(self._empty_cgroups() - self._cgroups_before)

    def leftover_of_host(self) -> list[str]:
        """Mounts of root file systems, links, rules and processes."""
        return host_leftovers(f"{self.directory}/guests", self.bridge)

    def place(self, part: str) -> list[Path]:
        """What is kept there; what is half made or half removed begins with a dot."""
        return list((self.directory / part).glob("[!.]*"))

    @staticmethod
    def _empty_cgroups() -> set[str]:
        """Those of nobody: of guests that run for others there are processes in them."""
        empty = set()
        for group in [*CGROUPS.glob("nfio/*/"), *CGROUPS.glob("*/nfio/*/")]:
            with suppress(OSError):  # it goes just now
                if not (group / "cgroup.procs").read_text():
                    empty.add(group.name)
        return empty

    # -- looking ----------------------------------------------------------------------------

    def path(self, guest: str) -> Path:
        return self.directory / "guests" / guest

    def _told(self, guest: str, file: str) -> dict:
        with suppress(FileNotFoundError):
            return json.loads((self.path(guest) / file).read_text())
        return {}

    def seen(self, root_id: str) -> list[Seen]:
        found = []
        for place in self.place("guests"):
            guest = place.name
            told = self._told(guest, "guest.json")
            if told and told["root"] == root_id:
                label = f"{told['type']}/{told['instance']}"
                code = self._exit_code(guest)
                found.append(Seen(guest, told["uuid"], label, told["name"], self.word(guest), code))
        return found

    def exists(self, guest: str) -> bool:
        return self.path(guest).exists()

    def word(self, guest: str) -> str:
        if not self._told(guest, "run.json"):
            return self.created
        if not (self.runtime_root / guest).exists():
            return self.ended
        done = self._runc("state", guest, check=False)
        return json.loads(done)["status"] if done else self.ended

    def _exit_code(self, guest: str) -> int:
        with suppress(FileNotFoundError):
            return int((self.path(guest) / "exit" / guest).read_text())
        return 0

    def pid(self, guest: str) -> int:
        return self._told(guest, "run.json")["pid"]

    def cgroup(self, guest: str, controller: str) -> Path:
        """Its control group: of version 1, where the controller has a tree of its own, or 2."""
        tree = CGROUPS / controller if (CGROUPS / controller).exists() else CGROUPS
        return tree / "nfio" / guest

    def memory_limit(self, guest: str) -> int:
        group = self.cgroup(guest, "memory")
        file = next(
            group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()
        )
        text = file.read_text().strip()
        return _LIMITLESS if text == "max" else int(text)

    def is_privileged(self, guest: str) -> bool:
        status = Path(f"/proc/{self.pid(guest)}/status").read_text()
        bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:"))
        return bool(int(bounding, 16) & 1 << 21)  # CAP_SYS_ADMIN

    def _runc(self, *arguments: str, check: bool = True) -> str:
        return output_of("runc", "--root", str(self.runtime_root), *arguments, check=check)

    def run(self, guest: str, *command: str) -> str:
        return self._runc("exec", guest, *command)

    # -- doing ------------------------------------------------------------------------------

    def kill(self, guest: str) -> None:
        self._end(guest, signal.SIGKILL)

    def stop(self, guest: str) -> None:
        self._end(guest, signal.SIGTERM)

    def _end(self, guest: str, number: signal.Signals) -> None:
        pid = self.pid(guest)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            wait_until(lambda: is_gone(pid), 10, "its first process has ended")

    def pause(self, guest: str) -> None:
        self._runc("pause", guest)

    def unpause(self, guest: str) -> None:
        self._runc("resume", guest)

    def remove(self, *guests: str) -> None:
        """As someone does who clears up by hand, and knows nothing of names and addresses."""
        for guest in guests:
            if (self.runtime_root / guest).exists():
                self._runc("delete", "--force", guest)
            subprocess.run(["umount", "-q", self.path(guest) / "rootfs"], check=False)
            shutil.rmtree(self.path(guest))

    def clear(self, *guests: str) -> None:
        with driver_of(self) as driver:
            for guest in guests:
                driver.destroy("", guest)

    def make_stranger(self, name: str) -> str:
        return make_by_driver(self, name)
