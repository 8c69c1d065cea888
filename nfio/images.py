"""Making the image of a VNF type from Debian packages, without a registry."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from hypervisor.hypervisor_base import READY_LINE, REJECTED_LINE, HypervisorBase
from hypervisor.hypervisor_factory import HypervisorFactory
from middleboxes import Middlebox
from nfio.errors import HypervisorError, NotFound
from nfio.modules import ModuleRoot, resolve

SUITE = "bookworm"
#: What every image holds beside the function: a shell and the small tools (ip, ps, ping, wget).
BASE = ("busybox-static", "base-passwd")
INIT = "/usr/lib/nfio/init"
BUILD_TIMEOUT_S = 600


def init_script(middlebox: Middlebox) -> str:
    """The first program of a guest: checks the configuration, says so, runs the function.

    Its first console line is READY_LINE once the function serves, or REJECTED_LINE and the
    checker's words, after which it ends with EX_CONFIG (78).
    """
    lines = [
        "#!/bin/sh",
        f"if ! words=$({shlex.join(middlebox.check)} 2>&1); then",
        f"    printf '%s\\n%s\\n' '{REJECTED_LINE}' \"$words\"",
        "    exit 78",
        "fi",
    ]
    if middlebox.apply is not None:
        lines.append(f"{shlex.join(middlebox.apply)} || exit 1")
    say_ready = f"echo '{READY_LINE}'"
    if middlebox.run is None:
        lines += [
            "trap 'exit 0' TERM INT",
            say_ready,
            "while :; do sleep 86400 & wait $!; done",
        ]
    elif middlebox.ready:
        lines += [
            f"(while ! {middlebox.ready}; do sleep 0.01; done; {say_ready}) &",
            f"exec {shlex.join(middlebox.run)}",
        ]
    else:
        lines += [say_ready, f"exec {shlex.join(middlebox.run)}"]
    return "\n".join([*lines, ""])


def _setup_script(middlebox: Middlebox) -> str:
    """What mmdebstrap runs with the new root as its argument, once the packages are unpacked."""
    inside = "\n".join(
        [
            "set -e",
            # Links to the small tools, where no package has brought a program of that name.
            "for tool in $(/bin/busybox --list); do",
            '    [ -e "/bin/$tool" ] || [ -e "/sbin/$tool" ] || [ -e "/usr/sbin/$tool" ]'
            ' || [ -e "/usr/bin/$tool" ] || /bin/busybox ln -s /bin/busybox "/usr/bin/$tool"',
            "done",
            # Nothing is configured in this root: accounts come from base-passwd's own lists.
            "cp /usr/share/base-passwd/passwd.master /etc/passwd",
            "cp /usr/share/base-passwd/group.master /etc/group",
            *middlebox.recipe.setup,
        ]
    )
    # Only nfio's own programs are written here, and a type's: the text comes from its module.
    return "\n".join(
        [
            "#!/bin/sh",
            "set -e",
            f'cd "$1" && mkdir -p .{Path(INIT).parent} etc/nfio tmp usr/bin usr/sbin proc sys dev run',
            'chmod 1777 "$1/tmp"',
            f"cat > \"$1{INIT}\" <<'NFIO_END'\n{init_script(middlebox)}NFIO_END",
            f'chmod 755 "$1{INIT}"',
            'ln -sf busybox "$1/bin/sh"',
            f'chroot "$1" /bin/sh -c {shlex.quote(inside)}',
            'rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/cache/apt/*',
            "",
        ]
    )


def recipe_hash(middlebox: Middlebox) -> str:
    """Changes whenever an image made now would differ from one made before, but for updates."""
    text = json.dumps([SUITE, BASE, middlebox.recipe.packages, _setup_script(middlebox)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build(types: list[str], module_root: str, *, force: bool = False) -> None:
    """Make the images of types, with a display of what goes on.

    Raises:
        NotPermitted (EPERM): no such type.
        NotFound (ENOENT): mmdebstrap is not installed.
        HypervisorError: a build failed, or the engine did not take the image.
    """
    modules = ModuleRoot(resolve(module_root))
    middleboxes = [modules.require(name) for name in dict.fromkeys(types)]
    if shutil.which("mmdebstrap") is None:
        raise NotFound("mmdebstrap is not installed: apt-get install mmdebstrap")
    HypervisorFactory("Docker")
    hypervisor = HypervisorFactory.get_hypervisor_instance()
    present = {image.name: image.recipe for image in hypervisor.list_images()}
    console = Console()
    for middlebox in middleboxes:
        if not force and present.get(f"{middlebox.image}:latest") == recipe_hash(middlebox):
            console.print(f"{middlebox.image} is up to date")
            continue
        begun = time.monotonic()
        _build_one(middlebox, hypervisor, console)
        console.print(f"{middlebox.image} built in {time.monotonic() - begun:.1f} s")


def _build_one(middlebox: Middlebox, hypervisor: HypervisorBase, console: Console) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        tempfile.TemporaryDirectory(prefix="nfio-image-") as directory,
    ):
        task = progress.add_task(f"{middlebox.image}: starting")

        def say(step: str) -> None:
            progress.update(task, description=f"{middlebox.image}: {step}")

        tarball = Path(directory) / "root.tar"
        hook = Path(directory) / "setup"
        hook.write_text(_setup_script(middlebox))
        hook.chmod(0o755)
        _debootstrap(middlebox, tarball, hook, say)
        say("importing")
        hypervisor.import_image(
            middlebox.image,
            tarball,
            [INIT],
            {"io.nfio.init": "1", "io.nfio.type": middlebox.type, "io.nfio.recipe": recipe_hash(middlebox)},
        )


def _debootstrap(middlebox: Middlebox, tarball: Path, hook: Path, say: Callable[[str], None]) -> None:
    command = [
        "mmdebstrap",
        "--variant=extract",
        f"--include={','.join((*BASE, *middlebox.recipe.packages))}",
        "--aptopt=APT::Install-Recommends false",
        f"--extract-hook={hook}",
        SUITE,
        str(tarball),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    output: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            output.append(line.rstrip())
            if line.startswith("I: "):
                say(line[3:].strip().rstrip("."))
        status = process.wait(BUILD_TIMEOUT_S)
    finally:
        # An interrupted build ends its mmdebstrap, which clears away its own half-made root.
        if process.poll() is None:
            process.terminate()
            process.wait(30)
    if status:
        words = [line for line in output if not line.startswith("I: ")][-8:]
        raise HypervisorError(f"mmdebstrap failed for {middlebox.type}: {' '.join(words)}")


def show() -> None:
    """Print the images that the hypervisor of this host has."""
    HypervisorFactory("Docker")
    table = Table(box=None)
    for heading in ("IMAGE", "SIZE", "CREATED"):
        table.add_column(heading, justify="right" if heading == "SIZE" else "left")
    for image in sorted(HypervisorFactory.get_hypervisor_instance().list_images(), key=lambda i: i.name):
        age = time.strftime("%Y-%m-%d %H:%M", time.localtime(image.created))
        table.add_row(image.name, f"{image.size_bytes / 1e6:.1f} MB", age)
    Console().print(table)
