"""Making, listing and removing the images of VNF types, for each engine, without a registry."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from hypervisor.hypervisor_base import HypervisorBase
from hypervisor.hypervisor_factory import DRIVERS, make_driver
from middleboxes import Middlebox
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable, InvalidValue, NotFound
from nfio.modules import ModuleRoot, resolve
from nfio.recipes import BASE, INIT, SUITE, recipe_hash, setup_script

BUILD_TIMEOUT_S = 600

#: engines as the command line names them
ENGINES = {name.lower(): name for name in DRIVERS}

#: begins the name of the directory in which an image is made
_WORKPLACE = "nfio-image-"

Say = Callable[[str], None]


def engines(wanted: str | None) -> dict[str, HypervisorBase]:
    """Drivers by engine name.

    Args:
        wanted: names with commas between them; None is every engine that answers here.

    Raises:
        InvalidValue (EINVAL): no such engine.
        HypervisorUnreachable, HypervisorTimeout: one that was asked for does not answer; none does.
    """
    names = list(ENGINES) if wanted is None else [name.strip().lower() for name in wanted.split(",")]
    found: dict[str, HypervisorBase] = {}
    silent = []
    for name in dict.fromkeys(names):
        if name not in ENGINES:
            raise InvalidValue(f"no engine {name!r}: one or more of {','.join(ENGINES)}")
        driver = make_driver(ENGINES[name])
        try:
            driver.ping("")
        except (HypervisorUnreachable, HypervisorTimeout) as error:
            if wanted is not None:
                raise
            silent.append(f"{name}: {error.reason}")
            continue
        found[name] = driver
    if not found:
        raise HypervisorUnreachable(f"no engine answers: `nfio doctor` says more ({'; '.join(silent)})")
    return found


def build(types: Sequence[str], module_root: str, wanted: str | None, *, force: bool = False) -> None:
    """Make the images of types, with a display of what goes on.

    Args:
        types: names of types; none is all that there are.
        wanted: see ``engines``.

    Raises:
        NotPermitted (EPERM): no such type.
        NotFound (ENOENT): mmdebstrap is not installed.
        HypervisorError: a build failed, or an engine did not take the image.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt: what is half made goes
    modules = ModuleRoot(resolve(module_root))
    middleboxes = [modules.require(name) for name in dict.fromkeys(types or sorted(modules.types()))]
    if shutil.which("mmdebstrap") is None:
        raise NotFound("mmdebstrap is not installed: apt-get install mmdebstrap")
    drivers = engines(wanted)
    present = {
        (engine, image.name): image.recipe
        for engine, driver in drivers.items()
        for image in driver.list_images()
    }
    console = Console()
    for middlebox in middleboxes:
        # Engines that need the same packages are given the same root file system.
        waiting: dict[tuple[str, ...], list[str]] = {}
        for engine, driver in drivers.items():
            known = present.get((engine, middlebox.image))
            if not force and known == recipe_hash(middlebox, driver.image_packages):
                console.print(f"{middlebox.image} is up to date for {engine}")
            else:
                waiting.setdefault(driver.image_packages, []).append(engine)
        for packages, names in waiting.items():
            _build_one(middlebox, packages, {name: drivers[name] for name in names}, console)


def _build_one(
    middlebox: Middlebox, packages: tuple[str, ...], drivers: dict[str, HypervisorBase], console: Console
) -> None:
    begun = time.monotonic()
    with (
        _progress(f"{middlebox.image} for {', '.join(drivers)}", console) as say,
        _workplace() as (directory, lock),
    ):
        tarball = directory / "root.tar"
        hook = directory / "setup"
        hook.write_text(setup_script(middlebox))
        hook.chmod(0o755)
        _debootstrap(middlebox, packages, tarball, hook, lock, say)
        labels = {
            "io.nfio.init": "1",
            "io.nfio.type": middlebox.type,
            "io.nfio.recipe": recipe_hash(middlebox, packages),
        }
        for engine, driver in drivers.items():
            say(f"importing into {engine}")
            driver.import_image(middlebox.image, tarball, [INIT], labels)
            seconds = time.monotonic() - begun
            console.print(f"{middlebox.image} built for {engine} in {seconds:.1f} s")


@contextmanager
def _progress(what: str, console: Console) -> Iterator[Say]:
    """Show one step after the other; where there is no terminal, each on a line of stderr."""
    if not console.is_terminal:
        print(f"{what}: building", file=sys.stderr, flush=True)
        yield lambda step: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{what}: starting")
        yield lambda step: progress.update(task, description=f"{what}: {step}")


@contextmanager
def _workplace() -> Iterator[tuple[Path, int]]:
    """A directory for one build, and an open file that holds its lock.

    The lock says that it is in use: whoever is given that file holds it too. What is left of a
    build that was killed is cleared away by the next one.
    """
    _clear_workplaces()
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_WORKPLACE))
        with suppress(FileNotFoundError):  # another build took it for one that nobody uses
            lock = os.open(directory, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if directory.exists():
                break
            os.close(lock)
    try:
        yield directory, lock
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _clear_workplaces() -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    for directory in Path(tempfile.gettempdir()).glob(f"{_WORKPLACE}*"):
        with suppress(OSError):  # it is in use, or goes just now
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Something of this host could be mounted there by a builder that was killed too.
                if os.fstat(lock).st_uid == os.geteuid() and f" {directory}/" not in mounts:
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


def _debootstrap(
    middlebox: Middlebox, packages: tuple[str, ...], tarball: Path, hook: Path, lock: int, say: Say
) -> None:
    command = [
        "mmdebstrap",
        "--variant=extract",
        f"--include={','.join((*BASE, *packages, *middlebox.recipe.packages))}",
        "--aptopt=APT::Install-Recommends false",
        f"--extract-hook={hook}",
        SUITE,
        str(tarball),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(tarball.parent)},
        pass_fds=(lock,),
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
    """Print the images of every engine that answers; the others are named on stderr."""
    table = Table(box=None)
    for heading in ("IMAGE", "ENGINE", "SIZE", "AGE"):
        table.add_column(heading, justify="right" if heading in ("SIZE", "AGE") else "left")
    rows = []
    for engine, name in ENGINES.items():
        try:
            for image in make_driver(name).list_images():
                rows.append((image.name, engine, f"{image.size_bytes / 1e6:.1f} MB", age_of(image.created)))
        except (HypervisorUnreachable, HypervisorTimeout) as error:
            print(f"{engine}: {error.line}", file=sys.stderr)
    for row in sorted(rows):
        table.add_row(*row)
    Console().print(table)


def age_of(created: float) -> str:
    """How long ago that was, in the largest unit of which there are two."""
    seconds = max(0, int(time.time() - created))
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


def remove(names: Sequence[str], wanted: str | None) -> None:
    """Remove images from the engines that have them.

    Raises:
        NotFound (ENOENT): no engine has one of that name.
        Busy (EBUSY): a VNF is made from it.
    """
    drivers = engines(wanted)
    present = {engine: {image.name for image in driver.list_images()} for engine, driver in drivers.items()}
    for name in dict.fromkeys(names):
        holders = [engine for engine in drivers if name in present[engine]]
        if not holders:
            raise NotFound(f"no image {name} in {', '.join(drivers)}: `nfio image list` shows what there is")
        for engine in holders:
            drivers[engine].remove_image(name)
            print(f"{name} removed from {engine}")
