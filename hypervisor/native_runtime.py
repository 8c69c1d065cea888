"""The OCI runtime (runc, or crun where it works) and conmon, run as programs with deadlines."""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from hypervisor.hypervisor_base import CommandResult
from hypervisor.native_store import NativeStore
from nfio.errors import HypervisorError, HypervisorTimeout, HypervisorUnreachable

RUNTIMES = ("runc", "crun")
#: a console log that grows beyond is begun anew
CONSOLE_LIMIT_BYTES = 4 << 20
#: bytes of a command's output that are kept
OUTPUT_LIMIT = 16 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
#: how long the kernel may take to end a process that was killed
_KILL_S = 10.0


class NativeRuntime:
    """Runs and ends containers. It keeps nothing: what runs is the kernel's and the store's to say."""

    def __init__(self, store: NativeStore) -> None:
        self._store = store
        self._found: tuple[str, str] | None = None
        self._finding = threading.Lock()

    # -- programs ---------------------------------------------------------------------------

    def programs(self, timeout_s: float) -> tuple[str, str]:
        """Paths of the OCI runtime and of conmon.

        NFIO_NATIVE_RUNTIME names the runtime; without it the first of RUNTIMES that accepts this
        machine's control groups is taken.

        Raises:
            HypervisorUnreachable (EHOSTUNREACH): one is not installed, or none works here.
        """
        found = self._found
        if found is not None and all(os.access(program, os.X_OK) for program in found):
            return found
        with self._finding:
            conmon = _which("conmon", os.environ.get("NFIO_NATIVE_CONMON") or "conmon", "conmon")
            wanted = os.environ.get("NFIO_NATIVE_RUNTIME")
            if wanted:
                self._found = (_which("the OCI runtime", wanted, "runc"), conmon)
                return self._found
            refusals = []
            for name in RUNTIMES:
                path = shutil.which(name)
                if path is None:
                    continue
                # crun says here whether it can work with the control groups it finds.
                done = run([path, "--root", str(self._store.runtime_root), "list"], timeout_s)
                if done.returncode == 0:
                    self._found = (path, conmon)
                    return self._found
                refusals.append(f"{name}: {last_line(done.stderr)}")
            raise HypervisorUnreachable("; ".join(refusals) or "no OCI runtime: apt-get install runc")

    def ask(self, timeout_s: float, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the OCI runtime.

        Raises:
            HypervisorTimeout (ETIMEDOUT): it did not end in time, and was killed.
            HypervisorError (EIO): it failed; the message is its last line.
        """
        runtime, _ = self.programs(timeout_s)
        done = run([runtime, "--root", str(self._store.runtime_root), *arguments], timeout_s)
        if done.returncode:
            raise HypervisorError(f"{Path(runtime).name}: {last_line(done.stderr)}")
        return done

    # -- a container's life -----------------------------------------------------------------

    @contextmanager
    def creation(self, vnf_id: str, timeout_s: float) -> Iterator[Callable[[], int]]:
        """Begin to make the container of a bundle; its program is not begun.

        conmon makes it, and stays: it keeps the console log within its bound and the exit code,
        whether or not nfio is there.

        Yields:
            A function that waits until it is made, and returns its first process.
        """
        runtime, conmon = self.programs(timeout_s)
        bundle = self._store.path(vnf_id)
        (bundle / "exit" / vnf_id).unlink(missing_ok=True)
        self._store.runtime_root.mkdir(parents=True, exist_ok=True, mode=0o700)
        reader, writer = os.pipe()
        command = [
            *(conmon, "--cid", vnf_id, "--cuuid", vnf_id, "--name", vnf_id, "--bundle", str(bundle)),
            *("--runtime", runtime, "--runtime-arg", f"--root={self._store.runtime_root}"),
            *("--container-pidfile", str(bundle / "pid"), "--exit-dir", str(bundle / "exit")),
            *("--conmon-pidfile", str(bundle / "conmon.pid")),
            *("--socket-dir-path", str(self._store.runtime_root), "--full-attach"),
            *("--log-path", f"k8s-file:{bundle / 'console.log'}"),
            *("--log-size-max", str(CONSOLE_LIMIT_BYTES)),
        ]
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, "_OCI_SYNCPIPE": str(writer)},
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(writer)
        try:
            yield lambda: self._created(runtime, reader, timeout_s)
        except BaseException as error:
            # What is undone must be there first: nothing may come to be after it.
            if not isinstance(error, HypervisorTimeout):  # that was waited for already
                with suppress(HypervisorError):
                    self._created(runtime, reader, timeout_s)
            _end_tree(bundle / "conmon.pid")
            raise
        finally:
            os.close(reader)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
            if process.poll() is None:
                process.kill()
                process.wait()

    @staticmethod
    def _created(runtime: str, reader: int, timeout_s: float) -> int:
        """The first process of a container, as conmon tells it through a pipe."""
        answer = _read_line(reader, timeout_s)
        if not answer:
            raise HypervisorError("conmon ended without a word: its own log is the system's")
        told = json.loads(answer)
        if int(told["pid"]) <= 0:
            raise HypervisorError(f"{Path(runtime).name}: {last_line(told.get('message') or '')}")
        return int(told["pid"])

    def begin(self, vnf_id: str, pid: int, timeout_s: float) -> None:
        """Let the program of a container that was created begin.

        With runc, its first process waits until its FIFO is read: that is all that `runc start`
        does, and what is done here without starting runc for it.

        Raises:
            HypervisorError (EIO): the process has ended.
            HypervisorTimeout (ETIMEDOUT): it does not write to it.
        """
        if not self._is_runc(timeout_s):
            self.ask(timeout_s, "start", vnf_id)
            return
        place = self._store.runtime_root / vnf_id / "exec.fifo"
        try:
            process, fifo = os.pidfd_open(pid), os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise HypervisorError(f"it ended before it began: {error.strerror}") from error
        try:
            ready = readable((fifo, process), timeout_s)
            if fifo not in ready:
                raise (HypervisorError("it ended before it began") if ready else _late(timeout_s))
            place.unlink()
        finally:
            os.close(fifo)
            os.close(process)

    def prepare_root(self, lower: tuple[str, ...], bundle: Path, timeout_s: float) -> list[str] | None:
        """See to it that the layers of a guest become its root file system.

        Returns:
            What overlayfs is told when the runtime mounts it, where nobody but the guest sees it;
            None if it is mounted already: crun refuses to mount on ``/``.
        """
        if self._is_runc(timeout_s):
            return overlay_options(lower, bundle)
        mount_overlay(lower, bundle)
        return None

    def _is_runc(self, timeout_s: float) -> bool:
        return Path(self.programs(timeout_s)[0]).name == "runc"

    def has_begun(self, vnf_id: str) -> bool:
        """Whether the program of a container that was created was let begin."""
        return not (self._store.runtime_root / vnf_id / "exec.fifo").exists()

    def clear(self, vnf_id: str, timeout_s: float) -> None:
        """End a container whatever it does, and take away what its run has left."""
        if (self._store.runtime_root / vnf_id).exists():
            self.ask(timeout_s, "delete", "--force", vnf_id)
            # What a conmon that was killed has left there.
            shutil.rmtree(self._store.runtime_root / vnf_id, ignore_errors=True)
        unmount(self._store.path(vnf_id) / "rootfs")

    def execute(self, vnf_id: str, command: list[str], timeout_s: float) -> CommandResult:
        """Run a program in a container, and wait for its end."""
        runtime, _ = self.programs(timeout_s)
        pid_file = self._store.path(vnf_id) / f"exec-{threading.get_ident()}"
        log = pid_file.with_suffix(".log")
        pid_file.unlink(missing_ok=True)
        process = subprocess.Popen(
            [
                *(runtime, "--root", str(self._store.runtime_root), "--log", str(log)),
                *("exec", "--pid-file", str(pid_file), vnf_id, *command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            output = _drain(process.stdout.fileno(), time.monotonic() + timeout_s)
            code = process.wait(timeout_s)
            # Its exit code is the command's, unless it has something to say itself.
            if code and (refusal := log.read_text(errors="replace")):
                raise HypervisorError(last_line(refusal))
            return CommandResult(code, output)
        except (TimeoutError, subprocess.TimeoutExpired):
            _end_tree(pid_file)
            raise HypervisorTimeout(
                f"the command did not end within {timeout_s:g} s and was killed"
            ) from None
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            for file in (pid_file, log):
                file.unlink(missing_ok=True)


def _which(what: str, name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise HypervisorUnreachable(f"{what} is not there ({name}): apt-get install {package}")
    return path


def run(
    command: list[str],
    timeout_s: float,
    variables: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. HypervisorTimeout (ETIMEDOUT) when it was killed at the deadline."""
    try:
        return subprocess.run(
            command,
            env={**os.environ, **(variables or {})},
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        name = Path(command[0]).name
        raise HypervisorTimeout(f"{name} did not answer within {timeout_s:g} s, and was killed") from None
    except OSError as error:
        raise HypervisorUnreachable(f"{command[0]}: {error.strerror}") from error


def last_line(text: str) -> str:
    """What a program said in the end; of runc's log lines their message."""
    lines = text.strip().splitlines()
    line = lines[-1] if lines else ""
    _, found, message = line.partition(' msg="')
    return message.rstrip('"') if found else line


def _late(timeout_s: float) -> HypervisorTimeout:
    return HypervisorTimeout(f"the OCI runtime did not answer within {timeout_s:g} s")


def _read_line(fd: int, timeout_s: float) -> str:
    data = b""
    deadline = time.monotonic() + timeout_s
    while not data.endswith(b"\n"):
        if not readable((fd,), deadline - time.monotonic()):
            raise _late(timeout_s)
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        data += chunk
    return data.decode(errors="replace")


def _drain(fd: int, deadline: float) -> bytes:
    data = bytearray()
    cut = False
    while True:
        if not readable((fd,), deadline - time.monotonic()):
            raise TimeoutError
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        if len(data) < OUTPUT_LIMIT:
            data += chunk
        else:
            cut = True
    if cut:
        data += f"\n[the output goes on; {OUTPUT_LIMIT >> 20} MiB are shown]\n".encode()
    return bytes(data)


def _end_tree(pid_file: Path) -> None:
    """End a program and what it began."""
    with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        first = psutil.Process(int(pid_file.read_text()))
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def end(pid: int, is_meant: Callable[[], bool], grace_s: float) -> None:
    """Ask a process to end, and end it when the grace is over; returns when it has ended.

    Args:
        is_meant: says whether the process of that number still is the one that is meant.
        grace_s: 0 ends it at once.

    Raises:
        HypervisorTimeout (ETIMEDOUT): not even SIGKILL ended it.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not is_meant():
            return
        steps = ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_S))
        for number, wait_s in steps if grace_s else steps[1:]:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if ended(handle, wait_s):
                return
        raise HypervisorTimeout(f"its first process ({pid}) does not end")
    finally:
        os.close(handle)


def readable(handles: tuple[int, ...], timeout_s: float) -> set[int]:
    """Which of some open files have something to read, or their other end closed; waits for one."""
    poll = select.poll()  # select(2) knows numbers below 1024 only
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return {handle for handle, _ in poll.poll(max(0.0, timeout_s) * 1000)}


def ended(handle: int, timeout_s: float) -> bool:
    """Whether a process, by its descriptor, has ended or does so in time."""
    return bool(readable((handle,), timeout_s))


def overlay_options(lower: tuple[str, ...], bundle: Path) -> list[str]:
    """What overlayfs is told to stack a guest's root file system (kernel: filesystems/overlayfs)."""
    return [f"lowerdir={':'.join(lower)}", f"upperdir={bundle / 'upper'}", f"workdir={bundle / 'work'}"]


def mount_overlay(lower: tuple[str, ...], bundle: Path) -> None:
    """Stack a guest's root file system. HypervisorError (EIO) if the kernel refuses."""
    options = os.fsencode(",".join(overlay_options(lower, bundle)))
    target = os.fsencode(bundle / "rootfs")
    if _libc.mount(b"overlay", target, b"overlay", 0, options) != 0:
        number = ctypes.get_errno()
        raise HypervisorError(f"its root file system could not be mounted: {os.strerror(number)}")


def unmount(place: Path) -> None:
    """Unmount if something is mounted there."""
    while os.path.ismount(place):
        if _libc.umount2(os.fsencode(place), _MNT_DETACH) != 0:
            number = ctypes.get_errno()
            raise HypervisorError(f"{place} could not be unmounted: {os.strerror(number)}")
