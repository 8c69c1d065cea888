"""The Native driver without nfio: its directory, the kernel's own view, and what it may leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from mount import NFIO
from subject import Hung, Subject

from hypervisor.native_store import NativeStore

DIRECTORY = Path("/var/lib/nfio/native")
BRIDGE = "nfiocontract"


class NativeSubject(Subject):
    """A store, a bridge and a subnet of the suite's own, beside those of this machine."""

    name = "Native"
    ended = "stopped"
    fixtures = ("native", "native_images")
    nowhere: ClassVar[dict[str, str]] = {"NFIO_NATIVE_RUNTIME": "/nonexistent/runc"}

    def root_file_system(self) -> dict[str, bytes]:
        subprocess.run([*NFIO, "image", "build", "firewall", "--for", "native"], check=True, timeout=300)
        for place in DIRECTORY.glob("images/*/image.json"):
            if json.loads(place.read_text())["name"] == "nfio/firewall":
                return {"bin/busybox": (place.parent / "root/bin/busybox").read_bytes()}
        raise AssertionError("nfio/firewall was not built")

    def begin(self, directory: Path) -> None:
        self.directory = directory / "native"
        os.environ["NFIO_NATIVE_DIR"] = str(self.directory)
        os.environ["NFIO_NATIVE_BRIDGE"] = BRIDGE

    def end(self) -> None:
        try:
            super().end()
        finally:
            del os.environ["NFIO_NATIVE_DIR"], os.environ["NFIO_NATIVE_BRIDGE"]

    @contextmanager
    def hung(self, directory: Path, vnf_id: str) -> Iterator[Hung]:
        """An OCI runtime that waits as long as a file is there, then is the real one."""
        stopped, program = directory / "stopped", directory / "runc"
        program.write_text(
            f'#!/bin/sh\nwhile [ -e {stopped} ]; do sleep 0.05; done\nexec {shutil.which("runc")} "$@"\n'
        )
        program.chmod(0o755)
        os.environ["NFIO_NATIVE_RUNTIME"] = str(program)
        try:
            driver = self.driver(timeout_s=2.0)
            stopped.touch()
            yield Hung(driver, lambda: driver.start("", vnf_id), stopped.unlink)
        finally:
            stopped.unlink(missing_ok=True)
            del os.environ["NFIO_NATIVE_RUNTIME"]

    def leftovers(self) -> list[str]:
        found = [str(path) for path in self.directory.glob("guests/*")]
        found += [
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(self.directory) in line
        ]
        found += [name for name in os.listdir("/sys/class/net") if name == BRIDGE]
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
        found += [line for line in rules.stdout.splitlines() if BRIDGE in line]
        found += [str(path) for path in NativeStore(self.directory).runtime_root.glob("*")]
        return found

    def _guests(self) -> dict[str, Path]:
        places = (path for path in self.directory.glob("guests/*") if not path.name.startswith("."))
        return {json.loads((path / "guest.json").read_text())["name"]: path for path in places}

    def make_stranger(self, name: str, image: str) -> None:
        user, _, vnf_name = name.partition("-")
        vnf_id, _, message = self.driver().deploy("", user, image, vnf_name)
        assert vnf_id is not None, message

    def remove_stranger(self, name: str) -> None:
        self.driver().destroy("", self._guests()[name].name)

    def names(self) -> list[str]:
        return list(self._guests())

    def is_privileged(self, vnf_id: str) -> bool:
        config = json.loads((self.directory / "guests" / vnf_id / "config.json").read_text())
        return "CAP_SYS_ADMIN" in config["process"]["capabilities"]["bounding"]

    def kill(self, vnf_id: str) -> None:
        run = json.loads((self.directory / "guests" / vnf_id / "run.json").read_text())
        os.kill(run["pid"], signal.SIGKILL)
