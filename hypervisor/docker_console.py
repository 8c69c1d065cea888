"""What a container says: that it is ready or refuses its configuration, and what an exec prints."""

from __future__ import annotations

import socket
import time
from typing import Any

from docker import APIClient

from hypervisor.hypervisor_base import READY_LINE, REJECTED_LINE
from nfio.errors import ConfigurationRejected, HypervisorError, HypervisorTimeout

#: a program that does not announce itself and ends within this time was not started
EARLY_DEATH_S = 0.2
#: bytes of an exec's output that are kept
OUTPUT_LIMIT = 16 << 20
_POLL_S = 0.01


def await_ready(client: APIClient, vnf_id: str, since: float, timeout_s: float) -> None:
    """Wait for the guest's first word of this run.

    Args:
        since: when its last run ended, in seconds since the epoch; 0 if this is the first.

    Raises:
        ConfigurationRejected: it refuses its configuration; the message is the checker's.
        HypervisorError: it ended without a word.
        HypervisorTimeout: it goes on without a word.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        running = client.inspect_container(vnf_id)["State"]["Running"]
        text = client.logs(vnf_id, since=since or None).decode(errors="replace")
        if READY_LINE in text.splitlines():
            return
        if not running:
            _, rejected, reason = text.partition(f"{REJECTED_LINE}\n")
            if rejected:
                raise ConfigurationRejected(reason.strip())
            raise HypervisorError(f"it ended while it started: {_last_line(text)}")
        if time.monotonic() > deadline:
            raise HypervisorTimeout(f"it started and did not report within {timeout_s:g} s")
        time.sleep(_POLL_S)


def refuse_early_death(client: APIClient, vnf_id: str) -> None:
    """Watch for a moment a guest that says nothing. HypervisorError (EIO) if it ends."""
    deadline = time.monotonic() + EARLY_DEATH_S
    while time.monotonic() < deadline:
        state = client.inspect_container(vnf_id)["State"]
        if not state["Running"]:
            text = client.logs(vnf_id, tail=5).decode(errors="replace")
            raise HypervisorError(
                f"its program ended at once with exit code {state['ExitCode']}: {_last_line(text)}"
            )
        time.sleep(_POLL_S)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it wrote nothing on its console"


def read_frames(stream: Any, deadline: float) -> bytes:
    """All output of an exec: frames of 8 bytes of header (the last 4 the length) and payload.

    What exceeds OUTPUT_LIMIT is dropped, and the output says so at its end.

    Raises TimeoutError at the deadline (monotonic seconds).
    """
    raw: socket.socket = getattr(stream, "_sock", stream)
    # What came with the last bytes of the answer's header is in the reader's buffer already.
    reader = stream._response.raw._fp.fp
    data = bytearray()
    cut = False
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        raw.settimeout(remaining)
        chunk = reader.read1(65536)
        if not chunk:
            break
        if len(data) < OUTPUT_LIMIT:
            data += chunk
        else:
            cut = True
    output = bytearray()
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "big")
        output += data[position + 8 : position + 8 + length]
        position += 8 + length
    if cut:
        output += f"\n[the output goes on; {OUTPUT_LIMIT >> 20} MiB are shown]\n".encode()
    return bytes(output)
