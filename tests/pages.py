"""Pages that show commands are followed: every command is run, and prints what the page says.

In a ``console`` block ``$`` begins a command, ``>`` goes on with it, and the other lines are its
output, in which ``...`` stands for anything. A block whose fence names a file after the language
is written to that file first.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mount import Mount

DOCS = Path(__file__).parents[1] / "docs"
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


#: whether a command printed what its page says
AsSaid = Callable[[Command, str], bool]


def as_said(command: Command, output: str) -> bool:
    return doctest.OutputChecker().check_output(command.output, output, doctest.ELLIPSIS)


class AsSaidElsewhere:
    """The same where times and the addresses of VNFs are others than those of the page.

    A time stands for any. An address stands for one, everywhere the same, and for which no other stands.

    Args:
        network: what the addresses of VNFs begin with: ``10.201.0.``. All others are as they are said.
    """

    def __init__(self, network: str) -> None:
        time = r"\b\d{4}-\d\d-\d\dT[\d:.]+\+00:00|\b1[7-9]\d{8}\b"
        self._variable = re.compile(rf"(?P<time>{time})|(?P<address>\b{re.escape(network)}\d+\b)")
        #: addresses of the page, and what they stand for
        self._known: dict[str, str] = {}

    def __call__(self, command: Command, output: str) -> bool:
        shape = Command(command.text, self._shape(command.output))
        if not as_said(shape, self._shape(output)):
            return False
        known = dict(self._known)
        said, found = self._addresses(command.output), self._addresses(output)
        known.update(zip(said, found, strict=False))
        if [known[address] for address in said] != found or len({*known.values()}) < len(known):
            return False
        if any(known[address] != other for address, other in self._known.items()):
            return False
        self._known = known
        return True

    def _shape(self, text: str) -> str:
        return self._variable.sub(lambda found: f"<{found.lastgroup}>", text)

    def _addresses(self, text: str) -> list[str]:
        return [found["address"] for found in self._variable.finditer(text) if found["address"]]


def section(text: str, title: str) -> str:
    """The part of a page below a heading of the second level."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found


def with_places(text: str, mount: Mount, **places: str) -> str:
    """A page's text with its example places and its engine replaced by the test's own."""
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
    return re.sub(r"(nfio mount) (?!ROOT|.*--hypervisor)", rf"\1 --hypervisor {mount.engine.name} ", text)


def follow(page: str, mount: Mount, directory: Path, **places: str) -> None:
    """Do what a page says, with its example places and its engine replaced by the test's own."""
    parsed = parse(with_places((DOCS / page).read_text(), mount, **places))
    do(page, parsed, mount, directory, as_said)


def do(page: str, parsed: Page, mount: Mount, directory: Path, as_said: AsSaid) -> None:
    """Run a page's commands, one after the other in one shell."""
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
