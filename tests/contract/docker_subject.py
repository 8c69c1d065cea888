"""Docker without nfio: its own command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import engine as engines
from subject import Hung, Subject


class DockerSubject(Subject):
    name = "Docker"
    ended = "exited"
    fixtures = ("docker", "images")
    nowhere: ClassVar[dict[str, str]] = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}

    @contextmanager
    def hung(self, directory: Path, vnf_id: str) -> Iterator[Hung]:
        engine = engines.PrivateEngine(directory / "engine")
        before = os.environ.get("DOCKER_HOST")
        try:
            engine.start()
            os.environ["DOCKER_HOST"] = engine.url
            driver = self.driver(timeout_s=2.0)
            driver.list_guests("", "root")  # it is connected
            engine.hang()
            yield Hung(driver, lambda: driver.list_guests("", "root"), engine.go_on)
        finally:
            os.environ.pop("DOCKER_HOST", None)
            if before is not None:
                os.environ["DOCKER_HOST"] = before
            engine.remove()

    def root_file_system(self) -> dict[str, bytes]:
        container = engines.docker("create", "nfio/firewall", "/bin/true")
        try:
            done = subprocess.run(
                ["docker", "-H", engines.SOCKET, "cp", f"{container}:/bin/busybox", "-"],
                capture_output=True,
                check=True,
            )
        finally:
            engines.docker("rm", container)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            program = tar.extractfile("busybox")
            assert program is not None
            return {"bin/busybox": program.read()}

    def make_stranger(self, name: str, image: str) -> None:
        engines.docker("create", "--name", name, image)

    def remove_stranger(self, name: str) -> None:
        engines.docker("rm", "-f", name)

    def names(self) -> list[str]:
        return engines.docker("ps", "-a", "--format", "{{.Names}}").split()

    def is_privileged(self, vnf_id: str) -> bool:
        (found,) = json.loads(engines.docker("inspect", vnf_id))
        return bool(found["HostConfig"]["Privileged"])

    def kill(self, vnf_id: str) -> None:
        engines.docker("kill", vnf_id)
