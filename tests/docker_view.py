"""Docker without nfio: its own command."""

from __future__ import annotations

import json
import subprocess

import engine as engines
from engine_view import EngineView, Seen

_LIMITLESS = 1 << 62


class DockerView(EngineView):
    """A Docker engine.

    Args:
        url: where it listens; the machine's own by default.
    """

    name = "Docker"
    created = "created"
    ended = "exited"
    restarts = True
    other_hosts = True
    no_image = "No such image"
    little_memory = "inimum memory limit"
    name_taken = "already in use"

    def __init__(self, url: str = engines.SOCKET) -> None:
        self.url = url
        self._roots: set[str] = set()

    @property
    def variables(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.url}

    def docker(self, *arguments: str, check: bool = True) -> str:
        return engines.docker(*arguments, url=self.url, check=check)

    def missing(self) -> str:
        return "" if engines.answers(self.url) else "no engine answers; scripts/setup starts one"

    def leftovers(self) -> list[str]:
        return [guest for root in self._roots for guest in self.guests(root)]

    def seen(self, root_id: str) -> list[Seen]:
        ids = self.guests(root_id)
        if not ids:
            return []
        # Of those that went meanwhile it complains, and shows the others.
        done = subprocess.run(
            ["docker", "-H", self.url, "inspect", *ids], capture_output=True, text=True, timeout=60
        )
        return [_seen(container) for container in json.loads(done.stdout)]

    def guests(self, root_id: str) -> list[str]:
        self._roots.add(root_id)
        return self.docker("ps", "-aq", "--no-trunc", "--filter", f"label=io.nfio.root={root_id}").split()

    def exists(self, guest: str) -> bool:
        return self.docker("ps", "-aq", "--filter", f"id={guest}") != ""

    def _inspect(self, guest: str, shape: str) -> str:
        return self.docker("inspect", "-f", shape, guest)

    def pid(self, guest: str) -> int:
        return int(self._inspect(guest, "{{.State.Pid}}"))

    def memory_limit(self, guest: str) -> int:
        return int(self._inspect(guest, "{{.HostConfig.Memory}}")) or _LIMITLESS

    def is_privileged(self, guest: str) -> bool:
        return self._inspect(guest, "{{.HostConfig.Privileged}}") == "true"

    def run(self, guest: str, *command: str) -> str:
        return self.docker("exec", guest, *command)

    def kill(self, guest: str) -> None:
        self.docker("kill", guest)

    def stop(self, guest: str) -> None:
        self.docker("stop", guest)

    def pause(self, guest: str) -> None:
        self.docker("pause", guest)

    def unpause(self, guest: str) -> None:
        self.docker("unpause", guest)

    def restart(self, guest: str) -> None:
        self.docker("restart", "-t", "1", guest)

    def remove(self, *guests: str) -> None:
        self.docker("rm", "-f", *guests)

    def make_stranger(self, name: str) -> str:
        return self.docker("create", "--label", "io.nfio=true", "--name", name, "nfio/firewall")


def _seen(container: dict) -> Seen:
    labels, state = container["Config"]["Labels"], container["State"]
    return Seen(
        guest=container["Id"],
        uuid=labels.get("io.nfio.uuid", ""),
        label=f"{labels.get('io.nfio.type', '')}/{labels.get('io.nfio.instance', '')}",
        name=container["Name"].lstrip("/"),
        word=state["Status"],
        exit_code=state["ExitCode"],
    )
