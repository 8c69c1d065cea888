"""Commands in a machine, through the QEMU guest agent that runs in it.

Source: https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from hypervisor.hypervisor_base import CommandResult
from hypervisor.libvirt_errors import is_a
from hypervisor.libvirt_guest import CONFIGURE
from hypervisor.libvirt_library import libvirt, libvirt_qemu
from hypervisor.libvirt_xml import parse_domain
from nfio.errors import HypervisorError, HypervisorTimeout, NotSupported

#: Bytes of a command's output that are kept: an answer of the agent has to fit into one message
#: of libvirt's (4 MiB), in base64.
OUTPUT_LIMIT = 2 << 20
#: Bytes of input that fit into a message.
INPUT_LIMIT = 2 << 20

_INSTALL = "install qemu-guest-agent in its image and give the domain a channel org.qemu.guest_agent.0"
_POLL_S = 0.01
_POLL_MAX_S = 0.1

# A session of its own, so that the command can be ended with all it began; stdout and stderr
# as they come (agents before version 8 keep them apart); no more of them than fits.
_SCRIPT = f"""\
exec 4>&1
code=$({{ {{ "$@" 3>&- 4>&-; echo $? >&3; }} 2>&1 | {{
    head -c {OUTPUT_LIMIT}
    if [ "$(head -c 1 | wc -c)" -ne 0 ]; then
        printf '\\n[the output goes on; {OUTPUT_LIMIT >> 20} MiB are shown]\\n'
        cat > /dev/null
    fi
}} >&4 3>&-; }} 3>&1)
exit "$code"
"""


def _ask(domain: Any, command: str, **arguments: Any) -> Any:
    question: dict[str, Any] = {"execute": command}
    if arguments:
        question["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, json.dumps(question), 5, 0))["return"]


def await_agent(domain: Any, deadline: float, *, ours: bool) -> None:
    """Return once a machine's agent can be asked.

    Args:
        ours: its image is nfio's and has an agent, which may need a moment yet.

    Raises:
        NotSupported (EOPNOTSUPP): it has none.
        HypervisorTimeout (ETIMEDOUT): it did not answer until the deadline (monotonic seconds).
    """
    while True:
        live = parse_domain(domain.XMLDesc())
        if live.agent:
            try:
                _ask(domain, "guest-ping")
                return
            except libvirt.libvirtError as error:
                if not is_a(error, "VIR_ERR_AGENT_UNRESPONSIVE", "VIR_ERR_AGENT_UNSYNCED"):
                    raise
        elif not ours:
            raise NotSupported(f"no guest agent answers in it: {_INSTALL}")
        if time.monotonic() > deadline:
            raise HypervisorTimeout("the guest agent in it does not answer")
        time.sleep(_POLL_MAX_S)


def run(domain: Any, command: list[str], deadline: float, timeout_s: float) -> CommandResult:
    """Run a program and wait for its end. HypervisorTimeout (ETIMEDOUT) at the deadline, and it is ended."""
    job = _ask(
        domain,
        "guest-exec",
        path="/bin/sh",
        arg=["-c", 'exec setsid /bin/sh -c "$@"', "sh", _SCRIPT, "sh", *command],
        capture_output=True,
    )["pid"]
    status = _await_end(domain, job, deadline)
    if status is None:
        _ask(domain, "guest-exec", path="/bin/sh", arg=["-c", 'kill -9 -"$0"', str(job)])
        raise HypervisorTimeout(f"the command did not end within {timeout_s:g} s and was killed")
    output = base64.b64decode(status.get("out-data", "")) + base64.b64decode(status.get("err-data", ""))
    if "exitcode" not in status:
        return CommandResult(128 + int(status.get("signal", 0)), output)
    return CommandResult(int(status["exitcode"]), output)


def _await_end(domain: Any, job: int, deadline: float) -> dict[str, Any] | None:
    pause = _POLL_S
    while True:
        status: dict[str, Any] = _ask(domain, "guest-exec-status", pid=job)
        if status["exited"]:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, _POLL_MAX_S)


def configure(domain: Any, archive: bytes, deadline: float) -> None:
    """Give a running machine the files of its configuration."""
    if len(archive) > INPUT_LIMIT:
        raise HypervisorError(
            f"its configuration has {len(archive)} bytes, of which {INPUT_LIMIT} can be sent to a running "
            "machine: stop and start it"
        )
    job = _ask(
        domain,
        "guest-exec",
        path=CONFIGURE,
        input_data=base64.b64encode(archive).decode(),
        capture_output=True,
    )["pid"]
    status = _await_end(domain, job, deadline)
    if status is None:
        raise HypervisorTimeout("the configuration was sent to the machine, which did not take it in time")
    if status.get("exitcode"):
        words = base64.b64decode(status.get("err-data", "")).decode(errors="replace").strip()
        raise HypervisorError(f"the machine did not take its configuration: {words}")


def bring_cpus_online(domain: Any, deadline: float) -> None:
    """Let a machine's kernel use the CPUs that were plugged in: it does not do so by itself."""
    script = 'for cpu in /sys/devices/system/cpu/cpu*/online; do echo 1 > "$cpu" || exit 1; done'
    job = _ask(domain, "guest-exec", path="/bin/sh", arg=["-c", script])["pid"]
    _await_end(domain, job, deadline)
