"""Mounting in the background, unmounting, and recovering what a killed process left."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path

import psutil

from nfio.errors import AlreadyExists, Busy, InvalidValue, NfioError, NotADirectory, NotFound
from nfio.modules import DEFAULT

log = logging.getLogger(__name__)

#: at this size the log is renamed to nfio.log.1 and begun anew
LOG_LIMIT_BYTES = 4 << 20
READY_TIMEOUT_S = 30.0
UNMOUNT_TIMEOUT_S = 30.0
#: how long the kernel may take to tell the serving process that it is unmounted
_TOLD_AFTER_S = 1.0
_FSTYPE = "fuse.nfio"


@dataclass(frozen=True)
class MountOptions:
    """What ``nfio mount`` was asked for."""

    root: str
    mountpoint: str
    hypervisor: str
    module_root: str
    allow_other: bool
    log_level: str

    def absolute(self) -> MountOptions:
        """With paths that lead to the same places wherever the process goes."""
        default = self.module_root == DEFAULT  # a name, not a path
        return replace(
            self,
            root=os.path.abspath(self.root),
            mountpoint=os.path.abspath(self.mountpoint),
            module_root=DEFAULT if default else os.path.abspath(self.module_root),
        )


def root_of(mountpoint: str) -> str | None:
    """The root of the nfio, living or dead, that is mounted exactly there; None if none is."""
    parent, name = os.path.split(os.path.abspath(mountpoint))
    wanted = os.path.join(os.path.realpath(parent), name)
    return next((root for place, root in _mounts() if place == wanted), None)


def _mounts() -> Iterator[tuple[str, str]]:
    """Mount point and root of every nfio on this machine (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, source = after.split()[:2]
        if kind == _FSTYPE:
            yield _unescaped(before.split()[4]), _unescaped(source)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _answers(mountpoint: str) -> bool:
    """False for a mount whose process is gone: the kernel then answers ENOTCONN.

    statvfs, because the kernel goes on answering stat from its cache for a second.
    """
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno != errno.ENOTCONN
    return True


def _prepare(root: str, mountpoint: str) -> None:
    """Make sure that nfio can be mounted there; a dead mount is taken away first."""
    if not _answers(mountpoint):
        _unmount_command("-u", "-z", mountpoint)
    if root_of(mountpoint) is not None:
        raise Busy(f"nfio is mounted at {mountpoint} already")
    if not os.path.exists(mountpoint):
        raise NotFound(f"{mountpoint} does not exist: mkdir it first")
    if not os.path.isdir(mountpoint):
        raise NotADirectory(f"{mountpoint} is not a directory")
    if os.listdir(mountpoint):
        raise AlreadyExists(f"{mountpoint} is not empty: nfio is mounted on an empty directory")
    place = os.path.realpath(mountpoint)
    if os.path.commonpath([place, os.path.realpath(root)]) == place:
        raise InvalidValue(f"{root} lies in {mountpoint}: the mount would hide it")
    (Path(root) / ".nfio").mkdir(parents=True, exist_ok=True)  # what is wrong with it is said here
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise NotFound("/dev/fuse cannot be opened: load the kernel's fuse module; `nfio doctor` says more")


def _unmount_command(*arguments: str) -> None:
    done = subprocess.run(
        ["fusermount", *arguments], capture_output=True, text=True, timeout=UNMOUNT_TIMEOUT_S
    )
    if done.returncode:
        raise Busy(done.stderr.strip() or f"fusermount ended with status {done.returncode}")


def mount(options: MountOptions) -> None:
    """Mount in the background; returns when the mount answers.

    Raises:
        NfioError: it could not be mounted; the message says why.
    """
    _prepare(options.root, options.mountpoint)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_detached(options.absolute(), writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        answer = _read_answer(pipe.fileno())
    if answer != b"ready\n":
        raise Busy(answer.decode(errors="replace").strip() or "the process ended while it mounted")
    os.stat(options.mountpoint)


def _read_answer(pipe: int) -> bytes:
    """What the serving process says of itself: ``ready``, or why not."""
    answer = b""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not answer.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return f"the mount did not answer within {READY_TIMEOUT_S:g} s".encode()
        chunk = os.read(pipe, 4096)
        if not chunk:
            break
        answer += chunk
    return answer


def _run_detached(options: MountOptions, writer: int) -> None:
    """The child's part: leave the terminal, serve, and never return."""
    os.setsid()
    if os.fork():
        os._exit(0)
    status = 1
    try:
        log_path = Path(options.root).resolve() / ".nfio" / "nfio.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        sink = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (sink, 1), (sink, 2)):
            os.dup2(source, target)
        os.chdir("/")
        handler = RotatingFileHandler(
            log_path, maxBytes=LOG_LIMIT_BYTES, backupCount=1, errors="backslashreplace"
        )
        serve(options, lambda: _say_ready(writer), handler)
        status = 0
    except NfioError as error:
        os.write(writer, f"{error.line}\n".encode())
    except BaseException as error:  # the parent waits for an answer, whatever went wrong
        log.exception("the mount ended")
        try:
            os.write(writer, f"{type(error).__name__}: {error}\n".encode())
        except OSError:
            pass  # the parent has its answer already
    finally:
        logging.shutdown()
        os._exit(status)


def _say_ready(writer: int) -> None:
    os.write(writer, b"ready\n")
    os.close(writer)


def serve(options: MountOptions, on_ready: Callable[[], None], handler: logging.Handler) -> None:
    """Mount, and serve in this process until it is unmounted."""
    logging.basicConfig(
        level=options.log_level.upper(),
        handlers=[handler],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # The binding would log every ENOENT with a traceback.
    logging.getLogger("fuse").setLevel(logging.WARNING)
    # Each VNF that runs takes several: its processes, and its counters that are kept open.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    from nfio.filesystem import Nfio

    Nfio(
        os.path.abspath(options.root),
        os.path.abspath(options.mountpoint),
        options.hypervisor,
        options.module_root,
        allow_other=options.allow_other,
        on_ready=on_ready,
    )


def serve_foreground(options: MountOptions) -> None:
    """Mount, and serve in this process; its log goes to stderr."""
    _prepare(options.root, options.mountpoint)
    serve(options, lambda: None, logging.StreamHandler())


def umount(mountpoint: str) -> None:
    """Unmount; returns when the mount and its process are gone.

    Raises:
        NotFound (ENOENT): nfio is not mounted there.
        Busy (EBUSY): files are open in it; the message names the processes.
    """
    root = root_of(mountpoint)
    if root is None:
        raise NotFound(f"nfio is not mounted at {mountpoint}")
    if not _answers(mountpoint):
        _unmount_command("-u", "-z", mountpoint)
        return
    try:
        _unmount_command("-u", mountpoint)
    except Busy as error:
        users = _users_of(mountpoint)
        raise Busy(f"{mountpoint} is in use{f' by {users}' if users else f': {error.reason}'}") from None
    _await_release(Path(root) / ".nfio" / "lock")


def _await_release(lock: Path) -> None:
    """Wait until the serving process has let go of its root, so that it can be mounted again.

    A process with a mount namespace of its own, a machine's QEMU for one, may have a copy of the
    mount, and the kernel does not tell nfio that it is unmounted as long as there is one. So it
    is told here.
    """
    begun = time.monotonic()
    told = False
    with lock.open() as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited = time.monotonic() - begun
                if waited > UNMOUNT_TIMEOUT_S:
                    raise Busy(f"{lock.parent.parent} is unmounted, but its process goes on") from None
                if waited > _TOLD_AFTER_S and not told:
                    told = True
                    with suppress(OSError, ValueError, IndexError):  # it ends just now
                        os.kill(int(lock.read_text().split()[-1]), signal.SIGTERM)
                time.sleep(0.01)


def _users_of(mountpoint: str) -> str:
    place = os.path.realpath(mountpoint)
    users = []
    for process in psutil.process_iter(["pid", "name"]):
        try:
            opened = [file.path for file in process.open_files()] + [process.cwd()]
        except psutil.Error:
            continue
        if any(path == place or path.startswith(f"{place}/") for path in opened):
            users.append(f"{process.info['name']} ({process.info['pid']})")
    return ", ".join(users[:5])


def dead_mounts() -> list[str]:
    """Mount points whose nfio was killed."""
    return [place for place, _ in _mounts() if not _answers(place)]
