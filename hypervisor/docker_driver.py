"""Hypervisor driver for Docker Engine 20.10 and newer, through its API."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from docker import APIClient
from docker.errors import APIError, ImageNotFound
from docker.types import Mount

from hypervisor.docker_connection import connect, url_of
from hypervisor.docker_console import await_ready, read_frames, refuse_early_death
from hypervisor.docker_errors import translate_errors
from hypervisor.docker_formats import (
    CPU_PERIOD_US,
    LABEL,
    counters_of,
    limits_of,
    seconds_of,
    status_of,
)
from hypervisor.docker_images import images_of, import_root
from hypervisor.hypervisor_base import (
    CONFIG_DIR,
    PIDS_LIMIT,
    CommandResult,
    Finding,
    GuestEvent,
    GuestStatus,
    HypervisorBase,
    ImageInfo,
    LinkCounters,
    Resources,
    Usage,
    VnfSpec,
)
from hypervisor.hypervisor_freezing import freeze_at_last
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode
from nfio.errors import (
    Busy,
    HypervisorError,
    HypervisorTimeout,
    HypervisorUnreachable,
    NfioError,
    NoSuchVnf,
    NotFound,
    NotSupported,
)

#: An image with this label announces itself on its console (see READY_LINE).
INIT_LABEL = "io.nfio.init"

#: an engine that takes longer to say that it is there is taken for hung
PING_TIMEOUT_S = 2.0
_LOG_LINES = 10_000

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
            identity = {f"{LABEL}.{key}": value for key in ("root", "uuid") if (value := getattr(spec, key))}
            if spec.uuid:
                for old in self._containers(client, *(f"{k}={v}" for k, v in identity.items())):
                    self.destroy(host, old["Id"])
            arguments = self._create_arguments(client, host, image_name, spec)
            name = f"{user}-{vnf_name}"
            try:
                made = client.create_container(name=name, **arguments)
            except APIError as refusal:
                conflict = refusal.status_code == HTTPStatus.CONFLICT or "already in use" in str(refusal)
                taken = conflict and spec.uuid
                holder = self._holder(client, name) if taken else None
                if holder is None:
                    raise
                if identity.items() <= holder["Labels"].items():
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
        limits = limits_of(spec.resources)
        mounts = []
        if spec.config_dir is not None and self.is_local(host):
            # A mount, not a bind: of a bind the engine would make a source that it does not see.
            mounts.append(Mount(CONFIG_DIR, str(spec.config_dir), type="bind", read_only=True))
        labels = {LABEL: "true"}
        for key in ("root", "type", "instance", "uuid"):
            if value := getattr(spec, key):
                labels[f"{LABEL}.{key}"] = value
        return {
            "image": image_name,
            "labels": labels,
            "user": None if spec.user is None else str(spec.user),
            "host_config": client.create_host_config(
                mounts=mounts,
                cap_drop=["ALL"],
                cap_add=list(spec.capabilities),
                security_opt=["no-new-privileges"],
                sysctls=dict(spec.sysctls),
                pids_limit=PIDS_LIMIT,
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
                await_ready(client, vnf_id, seconds_of(before["State"]["FinishedAt"]), self.timeout_s)
            else:
                refuse_early_death(client, vnf_id)
        return SUCCESS

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
            client.stop(vnf_id, timeout=round(self.stop_grace_s))
        return SUCCESS

    def pause(self, host: str, vnf_id: str) -> ReturnCode:
        """Pauses a docker container."""

        def pause() -> None:
            with translate_errors(url_of(host)):
                self._client(host).pause(vnf_id)

        freeze_at_last(pause)
        return SUCCESS

    def unpause(self, host: str, vnf_id: str) -> ReturnCode:
        """Unpauses a docker container."""
        with translate_errors(url_of(host)):
            self._client(host).unpause(vnf_id)
        return SUCCESS

    def scale(self, host: str, vnf_id: str, resources: Resources) -> ReturnCode:
        with translate_errors(url_of(host)):
            client = self._client(host)
            limits = limits_of(resources)
            # 0 means "leave it" to the engine, so no limit is said as all that the host has.
            limits.setdefault("mem_limit", client.info()["MemTotal"])
            limits.setdefault("memswap_limit", limits["mem_limit"])
            limits.setdefault("cpu_period", CPU_PERIOD_US)
            limits.setdefault("cpu_quota", -1)
            try:
                client.update_container(vnf_id, **limits)
            except APIError as refusal:
                if refusal.status_code == HTTPStatus.NOT_FOUND and "container" not in str(
                    refusal.explanation
                ):
                    raise NotSupported("this engine cannot change limits of what is deployed") from refusal
                raise
        return SUCCESS

    def execute_in_guest(self, host: str, vnf_id: str, cmd: list[str]) -> CommandResult:
        """Executes a command inside a docker container."""
        with translate_errors(url_of(host)):
            client = self._client(host)
            job = client.exec_create(vnf_id, cmd)["Id"]
            stream = client.exec_start(job, socket=True)
            try:
                output = read_frames(stream, time.monotonic() + self.timeout_s)
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
        return status_of(found, local=self.is_local(host))

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
        return counters_of(stats)

    # -- images -----------------------------------------------------------------------------

    def import_image(self, name: str, tarball: Path, command: list[str], labels: dict[str, str]) -> None:
        with translate_errors(url_of("")):
            import_root(self._client(""), name, tarball, command, labels)

    def list_images(self) -> list[ImageInfo]:
        with translate_errors(url_of("")):
            return images_of(self._client(""))

    def remove_image(self, name: str) -> None:
        with translate_errors(url_of("")):
            client = self._client("")
            try:
                image = client.inspect_image(name)["Id"]  # type: ignore[no-untyped-call]
                # The engine would untag the image of containers that do not run.
                users = client.containers(all=True, filters={"ancestor": image})
                if users:
                    raise Busy(f"{name} is used by {users[0]['Names'][0].lstrip('/')}: destroy it first")
                client.remove_image(name)
            except ImageNotFound:
                raise NotFound(f"no image {name}") from None

    def check(self) -> list[Finding]:
        what = f"Docker engine at {url_of('')}"
        try:
            with translate_errors(url_of("")):
                version = self._client("").version()
        except NfioError as error:
            return [Finding(what, False, error.line, "scripts/setup docker, or: systemctl start docker")]
        return [Finding(what, True, f"version {version['Version']}, API {version['ApiVersion']}")]
