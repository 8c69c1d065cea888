"""Hypervisor driver for Docker Engine 20.10 and newer, through its API."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from docker import APIClient
from docker.errors import APIError

from hypervisor.docker_connection import connect, url_of
from hypervisor.docker_errors import translate_errors
from hypervisor.hypervisor_base import (
    CONFIG_DIR,
    READY_LINE,
    REJECTED_LINE,
    CommandResult,
    Finding,
    GuestEvent,
    GuestStatus,
    HypervisorBase,
    ImageInfo,
    LinkCounters,
    Phase,
    Resources,
    Usage,
    VnfSpec,
)
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode
from nfio.errors import (
    ConfigurationRejected,
    HypervisorError,
    HypervisorTimeout,
    HypervisorUnreachable,
    NfioError,
    NoSuchVnf,
)

#: Set on every container; the others add what follows the dot.
LABEL = "io.nfio"
#: An image with this label announces itself on its console (see READY_LINE).
INIT_LABEL = "io.nfio.init"
RECIPE_LABEL = "io.nfio.recipe"

STOP_GRACE_S = 10
#: an engine that takes longer to say that it is there is taken for hung
PING_TIMEOUT_S = 2.0
#: the kernel counts CPU time in periods of this many microseconds
CPU_PERIOD_US = 100_000
#: a program that does not announce itself and ends within this time was not started
EARLY_DEATH_S = 0.2
_HANDSHAKE_POLL_S = 0.01
_LOG_LINES = 10_000

_PHASES = {
    "created": Phase.CONFIGURED,
    "running": Phase.RUNNING,
    "restarting": Phase.RUNNING,
    "paused": Phase.PAUSED,
    "exited": Phase.EXITED,
    "removing": Phase.BROKEN,
    "dead": Phase.BROKEN,
}
#: what the engine says of a guest that changes nothing about it
_SILENT_EVENTS = ("exec_", "top", "attach", "detach", "resize", "copy", "export", "commit")


class Docker(HypervisorBase):
    """Hypervisor driver for Docker. This class provides methods for managing docker containers."""

    def __init__(self) -> None:
        """Instantiates a Docker object. No engine is spoken to before the first call."""
        self._clients: dict[tuple[str, float], APIClient] = {}
        self._clients_lock = threading.Lock()

    # -- the engine -------------------------------------------------------------------------

    def _client(self, host: str, timeout_s: float | None = None) -> APIClient:
        """The connection to a host's engine, made at its first use; call in translate_errors."""
        key = (host, timeout_s or self.timeout_s)
        client = self._clients.get(key)
        if client is None:
            # Connecting speaks to the engine, so it happens outside the lock; of two that
            # were made at once the first one stays.
            made = connect(url_of(host), key[1])
            with self._clients_lock:
                client = self._clients.setdefault(key, made)
            if client is not made:
                made.close()
        return client

    def is_local(self, host: str) -> bool:
        return url_of(host).startswith("unix:")

    def ping(self, host: str) -> None:
        with translate_errors(url_of(host)):
            self._client(host, PING_TIMEOUT_S).ping()

    # -- making and removing ----------------------------------------------------------------

    def get_id(self, host: str, user: str, vnf_name: str) -> str:
        """Returns a container's ID.

        Args:
            host: IP address or hostname of the machine where the container is deployed.
            user: name of the user who owns the VNF.
            vnf_name: name of the VNF whose ID is being queried, ``<type>-<instance>``.
        """
        with translate_errors(url_of(host)):
            found: str = self._client(host).inspect_container(f"{user}-{vnf_name}")["Id"]
            return found

    def create(self, host: str, user: str, image_name: str, vnf_name: str, spec: VnfSpec) -> str:
        with translate_errors(url_of(host)), ExitStack() as undo:
            client = self._client(host)
            if spec.uuid:
                for old in self._containers(client, f"{LABEL}.uuid={spec.uuid}"):
                    self.destroy(host, old["Id"])
            arguments = self._create_arguments(client, host, image_name, spec)
            name = f"{user}-{vnf_name}"
            try:
                made = client.create_container(name=name, **arguments)
            except APIError as refusal:
                taken = refusal.status_code == HTTPStatus.CONFLICT and spec.uuid
                holder = self._holder(client, name) if taken else None
                if holder is None:
                    raise
                if holder["Labels"].get(f"{LABEL}.uuid") == spec.uuid:
                    # An order that was given up, or of an nfio that was killed, came in between.
                    self.destroy(host, holder["Id"])
                else:
                    name = f"{name}-{spec.uuid[:8]}"
                made = client.create_container(name=name, **arguments)
            vnf_id: str = made["Id"]
            undo.callback(self.destroy, host, vnf_id)
            if spec.config_dir is not None and not self.is_local(host):
                self.push_config(host, vnf_id, spec.config_dir)
            undo.pop_all()
            return vnf_id

    def _create_arguments(
        self, client: APIClient, host: str, image_name: str, spec: VnfSpec
    ) -> dict[str, Any]:
        limits = _limits(spec.resources)
        binds = []
        if spec.config_dir is not None and self.is_local(host):
            binds.append(f"{spec.config_dir}:{CONFIG_DIR}:ro")
        labels = {LABEL: "true"}
        for key in ("root", "type", "instance", "uuid"):
            if value := getattr(spec, key):
                labels[f"{LABEL}.{key}"] = value
        return {
            "image": image_name,
            "labels": labels,
            "user": None if spec.user is None else str(spec.user),
            "host_config": client.create_host_config(
                binds=binds,
                cap_drop=["ALL"],
                cap_add=list(spec.capabilities),
                security_opt=["no-new-privileges"],
                sysctls=dict(spec.sysctls),
                **limits,
            ),
        }

    @staticmethod
    def _holder(client: APIClient, name: str) -> dict[str, Any] | None:
        """The container of nfio's that has a name; None if a stranger's has it."""
        found: list[dict[str, Any]] = client.containers(all=True, filters={"label": [LABEL], "name": [name]})
        return next((holder for holder in found if f"/{name}" in (holder.get("Names") or ())), None)

    @staticmethod
    def _containers(client: APIClient, *labels: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.containers(all=True, filters={"label": list(labels)})
        return found

    def destroy(self, host: str, vnf_id: str) -> ReturnCode:
        try:
            with translate_errors(url_of(host)):
                self._client(host).remove_container(vnf_id, force=True, v=True)
        except NoSuchVnf:
            pass
        except (HypervisorUnreachable, HypervisorTimeout):
            raise
        except HypervisorError:
            # Two removals at once: the engine refuses the second while the first goes on.
            self._await_removal(host, vnf_id)
        return SUCCESS

    def _await_removal(self, host: str, vnf_id: str) -> None:
        """Return once a container being removed is gone; raise what the engine said if not."""
        error: HypervisorError | None = None
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            try:
                if self.inspect(host, vnf_id).word != "removing":
                    with translate_errors(url_of(host)):
                        self._client(host).remove_container(vnf_id, force=True, v=True)
                        return
                time.sleep(0.05)
            except NoSuchVnf:
                return
            except (HypervisorUnreachable, HypervisorTimeout):
                raise
            except HypervisorError as refusal:
                error = refusal
                if "in progress" not in refusal.reason:
                    raise
                time.sleep(0.05)
        raise error or HypervisorTimeout(f"container {vnf_id[:12]} is still being removed")

    def push_config(self, host: str, vnf_id: str, config_dir: Path) -> None:
        if self.is_local(host):
            return  # it is bind-mounted
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(config_dir, arcname=CONFIG_DIR.lstrip("/"))
        with translate_errors(url_of(host)):
            self._client(host).put_archive(vnf_id, "/", archive.getvalue())

    # -- running ----------------------------------------------------------------------------

    def start(self, host: str, vnf_id: str) -> ReturnCode:
        """Starts a docker container."""
        with translate_errors(url_of(host)):
            client = self._client(host)
            before = client.inspect_container(vnf_id)
            if before["State"]["Status"] == "running":
                return SUCCESS
            client.start(vnf_id)
            if INIT_LABEL in (before["Config"]["Labels"] or {}):
                self._await_ready(client, vnf_id, _seconds(before["State"]["FinishedAt"]))
            else:
                self._refuse_early_death(client, vnf_id)
        return SUCCESS

    def _await_ready(self, client: APIClient, vnf_id: str, since: float) -> None:
        """Wait for the guest's first word of this run; lines up to ``since`` are of older runs."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            running = client.inspect_container(vnf_id)["State"]["Running"]
            lines = client.logs(vnf_id, since=since or None).decode(errors="replace")
            if READY_LINE in lines:
                return
            if not running:
                _, rejected, reason = lines.partition(REJECTED_LINE)
                if rejected:
                    raise ConfigurationRejected(reason.strip())
                raise HypervisorError(f"it ended while it started: {_last_line(lines)}")
            if time.monotonic() > deadline:
                raise HypervisorTimeout(f"it started and did not report within {self.timeout_s:g} s")
            time.sleep(_HANDSHAKE_POLL_S)

    @staticmethod
    def _refuse_early_death(client: APIClient, vnf_id: str) -> None:
        deadline = time.monotonic() + EARLY_DEATH_S
        while time.monotonic() < deadline:
            state = client.inspect_container(vnf_id)["State"]
            if not state["Running"]:
                lines = client.logs(vnf_id, tail=5).decode(errors="replace")
                raise HypervisorError(
                    f"its program ended at once with exit code {state['ExitCode']}: {_last_line(lines)}"
                )
            time.sleep(_HANDSHAKE_POLL_S)

    def restart(self, host: str, vnf_id: str) -> ReturnCode:
        """Restarts a docker container."""
        self.stop(host, vnf_id)
        return self.start(host, vnf_id)

    def stop(self, host: str, vnf_id: str) -> ReturnCode:
        """Stops a docker container."""
        with translate_errors(url_of(host)):
            client = self._client(host)
            if client.inspect_container(vnf_id)["State"]["Paused"]:
                client.unpause(vnf_id)  # the engine cannot stop what is frozen
            client.stop(vnf_id, timeout=STOP_GRACE_S)
        return SUCCESS

    def pause(self, host: str, vnf_id: str) -> ReturnCode:
        """Pauses a docker container."""
        with translate_errors(url_of(host)):
            self._client(host).pause(vnf_id)
        return SUCCESS

    def unpause(self, host: str, vnf_id: str) -> ReturnCode:
        """Unpauses a docker container."""
        with translate_errors(url_of(host)):
            self._client(host).unpause(vnf_id)
        return SUCCESS

    def scale(self, host: str, vnf_id: str, resources: Resources) -> ReturnCode:
        with translate_errors(url_of(host)):
            client = self._client(host)
            limits = _limits(resources)
            # 0 means "leave it" to the engine, so no limit is said as all that the host has.
            limits.setdefault("mem_limit", client.info()["MemTotal"])
            limits.setdefault("memswap_limit", limits["mem_limit"])
            limits.setdefault("cpu_period", CPU_PERIOD_US)
            limits.setdefault("cpu_quota", -1)
            client.update_container(vnf_id, **limits)
        return SUCCESS

    def execute_in_guest(self, host: str, vnf_id: str, cmd: list[str]) -> CommandResult:
        """Executes a command inside a docker container."""
        with translate_errors(url_of(host)):
            client = self._client(host)
            job = client.exec_create(vnf_id, cmd)["Id"]
            stream = client.exec_start(job, socket=True)
            try:
                output = _read_frames(stream, time.monotonic() + self.timeout_s)
            except TimeoutError:
                self._end(host, client.exec_inspect(job))
                raise HypervisorTimeout(
                    f"the command did not end within {self.timeout_s:g} s and was killed"
                    if self.is_local(host)
                    else f"the command did not end within {self.timeout_s:g} s; it may still run on {host}"
                ) from None
            finally:
                # The reader's end alone would leave the socket to the garbage collector.
                getattr(stream, "_sock", stream).close()
                stream.close()
            return CommandResult(int(client.exec_inspect(job)["ExitCode"] or 0), output)

    def _end(self, host: str, job: dict[str, Any]) -> None:
        """End a command and what it began: a shell's own end would leave its child behind."""
        if not (self.is_local(host) and job.get("Running") and job.get("Pid")):
            return
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(int(job["Pid"]))
            for process in (first, *first.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    # -- looking ----------------------------------------------------------------------------

    def guest_status(self, host: str, vnf_id: str) -> str:
        """Returns the status of a docker container."""
        return self.inspect(host, vnf_id).word

    def inspect(self, host: str, vnf_id: str) -> GuestStatus:
        with translate_errors(url_of(host)):
            found = self._client(host).inspect_container(vnf_id)
        state = found["State"]
        phase = _PHASES.get(state["Status"], Phase.BROKEN)
        reason = state.get("Error") or ""
        if state.get("OOMKilled") and phase is Phase.EXITED:
            reason = "the kernel killed it: out of memory (vm.memory)"
        running = phase in (Phase.RUNNING, Phase.PAUSED)
        return GuestStatus(
            vnf_id=found["Id"],
            uuid=(found["Config"]["Labels"] or {}).get(f"{LABEL}.uuid", ""),
            name=found["Name"].lstrip("/"),
            word=state["Status"],
            phase=phase,
            pid=state["Pid"] if running and self.is_local(host) else None,
            address=_address(found["NetworkSettings"]) if running else "",
            exit_code=state["ExitCode"] if phase is Phase.EXITED else None,
            reason=reason,
        )

    def list_guests(self, host: str, root: str) -> list[GuestStatus]:
        with translate_errors(url_of(host)):
            found = self._containers(self._client(host), f"{LABEL}.root={root}")
        guests = []
        for container in found:
            try:
                guests.append(self.inspect(host, container["Id"]))
            except NoSuchVnf:
                continue  # it went between the two questions
        return guests

    def events(self, host: str, root: str) -> Iterator[GuestEvent | None]:
        with translate_errors(url_of(host)):
            stream = self._client(host).events(
                decode=True, filters={"type": "container", "label": f"{LABEL}.root={root}"}
            )
            try:
                yield None
                for event in stream:
                    if not event.get("Action", "").startswith(_SILENT_EVENTS):
                        attributes = event.get("Actor", {}).get("Attributes", {})
                        yield GuestEvent(event["Actor"]["ID"], attributes.get(f"{LABEL}.uuid", ""))
            finally:
                stream.close()
        raise HypervisorUnreachable("the Docker engine closed its event stream")

    def console_log(self, host: str, vnf_id: str, limit_bytes: int) -> bytes:
        with translate_errors(url_of(host)):
            output: bytes = self._client(host).logs(vnf_id, tail=_LOG_LINES)
        return output[-limit_bytes:]

    def counters(self, host: str, vnf_id: str) -> tuple[LinkCounters, Usage]:
        with translate_errors(url_of(host)):
            stats = self._client(host).stats(vnf_id, stream=False, one_shot=True)
        links = (stats.get("networks") or {}).values()

        def total(*keys: str) -> int:
            return sum(int(link.get(key, 0)) for link in links for key in keys)

        return (
            LinkCounters(
                total("rx_bytes"),
                total("tx_bytes"),
                total("rx_packets"),
                total("tx_packets"),
                total("rx_dropped", "tx_dropped"),
            ),
            Usage(
                stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
                int(stats["memory_stats"].get("usage", 0)),
            ),
        )

    # -- images -----------------------------------------------------------------------------

    def import_image(self, name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
        changes = [f"CMD {json.dumps(command)}"]
        changes += [f"LABEL {_quoted(key)}={_quoted(value)}" for key, value in labels.items()]
        repository, _, tag = name.partition(":")
        with translate_errors(url_of("")):
            answer = self._client("").import_image_from_file(
                str(tarball), repository=repository, tag=tag or "latest", changes=changes
            )
        # A failure after the transfer comes with status 200, as a line of the answer.
        for line in answer.splitlines():
            if error := json.loads(line).get("error"):
                raise HypervisorError(error)

    def list_images(self) -> list[ImageInfo]:
        with translate_errors(url_of("")):
            found = self._client("").images()
        return [
            ImageInfo(
                name,
                image["Size"],
                float(image["Created"]),
                (image["Labels"] or {}).get(RECIPE_LABEL, ""),
            )
            for image in found
            for name in image["RepoTags"] or ()
            if name != "<none>:<none>"
        ]

    def check(self) -> list[Finding]:
        what = f"Docker engine at {url_of('')}"
        try:
            with translate_errors(url_of("")):
                version = self._client("").version()
        except NfioError as error:
            return [Finding(what, False, error.line, "scripts/setup, or: systemctl start docker")]
        return [Finding(what, True, f"version {version['Version']}, API {version['ApiVersion']}")]


def _limits(resources: Resources) -> dict[str, Any]:
    """The engine's arguments for limits; those that are not limited are left out."""
    limits: dict[str, Any] = {}
    if resources.memory_bytes is not None:
        limits["mem_limit"] = resources.memory_bytes
        limits["memswap_limit"] = resources.memory_bytes  # a limit, not a limit and swap beside it
    if resources.vcpu is not None:
        limits["cpu_period"] = CPU_PERIOD_US
        limits["cpu_quota"] = round(resources.vcpu * CPU_PERIOD_US)
    return limits


def _address(network: dict[str, Any]) -> str:
    return next((n["IPAddress"] for n in (network.get("Networks") or {}).values() if n["IPAddress"]), "")


def _seconds(timestamp: str) -> float:
    """Seconds since the epoch of the engine's RFC 3339 time; 0 for its year 1, meaning never."""
    if timestamp.startswith("0001"):
        return 0.0
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    # The engine says nanoseconds; fromisoformat takes six digits.
    return datetime.fromisoformat(f"{whole}.{fraction[:6] or '0':0<6}+00:00").timestamp()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it wrote nothing on its console"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _read_frames(stream: Any, deadline: float) -> bytes:
    """All output of an exec: frames of 8 bytes of header (the last 4 the length) and payload.

    Raises TimeoutError at the deadline (monotonic seconds).
    """
    raw: socket.socket = getattr(stream, "_sock", stream)
    # What came with the last bytes of the answer's header is in the reader's buffer already.
    reader = stream._response.raw._fp.fp
    data = bytearray()
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        raw.settimeout(remaining)
        chunk = reader.read1(65536)
        if not chunk:
            break
        data += chunk
    output = bytearray()
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "big")
        output += data[position + 8 : position + 8 + length]
        position += 8 + length
    return bytes(output)
