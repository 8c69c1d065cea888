"""The pages that show commands are run: every command, and what it is said to print.

In a ``console`` block ``$`` begins a command, ``>`` goes on with it, and the other lines are its
output, in which ``...`` stands for anything. A block whose fence names a file after the language
is written to that file first.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from engine_view import EngineView
from mount import Mount
from probes import need

#: pages whose commands are those of one engine too
on_docker = pytest.mark.engines("Docker")
on_native = pytest.mark.engines("Native")

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```(\w+)(?: +(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "end of command "
COMMAND_TIMEOUT_S = 120
#: a look at what follows an event is repeated for this long; the pages promise half a second
SEEN_TIMEOUT_S = 2.0


@dataclass
class Command:
    text: str
    output: str = ""


@dataclass
class Page:
    commands: list[Command] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Page:
    page = Page()
    for language, name, body in FENCE.findall(text):
        if name:
            page.files[name] = body
        elif language == "console":
            for line in body.splitlines():
                if line.startswith("$ "):
                    page.commands.append(Command(line[2:]))
                elif line.startswith("> "):
                    page.commands[-1].text += f"\n{line[2:]}"
                else:
                    page.commands[-1].output += f"{line}\n"
    return page


class Shell:
    """One bash, as a reader's terminal is."""

    def __init__(self, directory: Path, variables: dict[str, str]) -> None:
        environment = {**variables, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment |= {"HOME": str(directory), "LC_ALL": "C.UTF-8", "COLUMNS": "100"}
        self._process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho; echo '{END}'\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n") == END:
                break
            lines.append(line)
        text = "".join(lines).removesuffix("\n")
        return re.sub(r"^bash: line \d+: ", "bash: ", text, flags=re.MULTILINE)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(COMMAND_TIMEOUT_S)


def as_said(command: Command, output: str) -> bool:
    return doctest.OutputChecker().check_output(command.output, output, doctest.ELLIPSIS)


def follow(page: str, mount: Mount, directory: Path, **places: str) -> None:
    """Do what a page says, with its example places and its engine replaced by the test's own."""
    text = (DOCS / page).read_text()
    store = "/var/lib/nfio/native"
    replaced = {
        store: mount.engine.variables.get("NFIO_NATIVE_DIR", store),  # before what it begins with
        "/var/lib/nfio": str(mount.root),
        "/mnt/nfio": str(mount.path),
        "--for native": f"--for {mount.engine.probe}",
        "--hypervisor Native": f"--hypervisor {mount.engine.name}",
        **places,
    }
    for example, own in replaced.items():
        text = text.replace(example, own)
    # Pages that name no engine are followed on each.
    text = re.sub(r"(nfio image build) (?!.*--for)", rf"\1 --for {mount.engine.probe} ", text)
    text = re.sub(r"(nfio mount) (?!ROOT|.*--hypervisor)", rf"\1 --hypervisor {mount.engine.name} ", text)
    parsed = parse(text)
    assert parsed.commands
    for name, content in parsed.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    shell = Shell(directory, mount.environment)
    try:
        for command in parsed.commands:
            output = shell.run(command.text)
            deadline = time.monotonic() + SEEN_TIMEOUT_S
            # Only looking is repeated: what changes something is done once, as the reader does.
            while command.text.startswith("cat ") and not as_said(command, output):
                if time.monotonic() > deadline:
                    break
                output = shell.run(command.text)
            assert as_said(command, output), (
                f"{page}\n$ {command.text}\nsaid:\n{command.output}\nis:\n{output}"
            )
    finally:
        shell.close()


@pytest.fixture
def fresh(stocked: EngineView, directory: Path) -> Iterator[Mount]:
    """Places for a root and a mount point; the page itself mounts."""
    made = Mount(directory, stocked)
    yield made
    made.close()


@pytest.fixture
def work(directory: Path) -> Path:
    """The directory a reader works in."""
    path = directory / "work"
    path.mkdir()
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_session_of_the_readme_does_what_it_says(fresh: Mount, work: Path) -> None:
    need("tools", shutil.which("curl") is not None, "curl is not installed")
    follow("../README.md", fresh, work)


@on_native
def test_the_tutorial_does_what_it_says(fresh: Mount, work: Path) -> None:
    need("tools", shutil.which("curl") is not None, "curl is not installed")
    follow("tutorial.md", fresh, work)


def test_a_type_is_added_as_the_page_says(fresh: Mount, work: Path) -> None:
    engine = ("--for", fresh.engine.probe)
    there = "nfio/echo" in fresh.nfio("image", "list").stdout
    try:
        follow("howto/add-a-middlebox.md", fresh, work)
    finally:
        fresh.close()
        if not there:
            fresh.nfio("image", "rm", "nfio/echo", *engine, check=False)


def test_the_type_of_the_page_is_one_file_of_under_sixty_lines() -> None:
    files = parse((DOCS / "howto/add-a-middlebox.md").read_text()).files
    assert list(files) == ["types/echo.py"]
    assert len(files["types/echo.py"].splitlines()) < 60


@on_docker
def test_the_playbook_configures_repairs_and_changes_nothing_twice(fresh: Mount, work: Path) -> None:
    there = (Path(sys.executable).parent / "ansible-playbook").exists() or shutil.which("ansible-playbook")
    need("ansible", bool(there), "ansible-playbook is not installed")
    follow("howto/use-with-ansible.md", fresh, work)


def test_node_exporter_serves_the_metrics_as_they_are(fresh: Mount, work: Path) -> None:
    for tool in ("prometheus-node-exporter", "curl"):
        need("tools", shutil.which(tool) is not None, f"{tool} is not installed")
    address = f"127.0.0.1:{free_port()}"
    follow("howto/monitor-with-prometheus.md", fresh, work, **{"127.0.0.1:9100": address})


@on_docker
def test_each_symptom_is_cured_as_the_page_says(fresh: Mount, work: Path) -> None:
    follow("howto/troubleshoot.md", fresh, work)
