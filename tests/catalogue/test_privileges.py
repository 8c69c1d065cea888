"""What the programs of each type may do, as this host's kernel says of their processes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from mount import Mount
from views import CONTAINERS

pytestmark = pytest.mark.engines(*CONTAINERS)

_NET_ADMIN, _NET_RAW = 1 << 12, 1 << 13
_BECOMES_A_USER = 1 << 6 | 1 << 7  # SETGID, SETUID: of the first program, before it is that user

#: uid and capabilities of all programs. The kernel does the work of those of uid 0: what runs there
#: waits for its end.
PROGRAMS = {
    "dhcp": (202, _NET_ADMIN),
    "dns": (121, 0),
    "firewall": (0, _NET_ADMIN),
    "ids": (203, _NET_ADMIN | _NET_RAW),
    "loadbalancer": (120, 0),
    "nat": (0, _NET_ADMIN),
    "proxy": (13, 0),
    "router": (200, _NET_ADMIN | _NET_RAW),
    "shaper": (0, _NET_ADMIN),
    "web": (33, 0),
}
TYPES = tuple(PROGRAMS)


def status(pid: int) -> dict[str, str]:
    """``/proc/<pid>/status``, by name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("kind", TYPES)
def test_its_programs_have_the_capabilities_they_need_and_no_others(nfio: Mount, kind: str) -> None:
    vnf = nfio.make(kind, "it")
    vnf.act("activate")
    uid, capabilities = PROGRAMS[kind]
    first = psutil.Process(nfio.engine.pid(nfio.guest_of(vnf)))
    programs = [status(process.pid) for process in (first, *first.children(recursive=True))]
    for program in (each for each in programs if not each["State"].startswith("Z")):
        assert set(program["Uid"].split()) == {str(uid)}, program["Name"]
        for kept in ("CapEff", "CapPrm"):
            assert int(program[kept], 16) | capabilities == capabilities, program["Name"]
        assert int(program["CapBnd"], 16) & ~_BECOMES_A_USER == capabilities, program["Name"]
        assert program["NoNewPrivs"] == "1"
    assert capabilities in {int(program["CapEff"], 16) for program in programs}
