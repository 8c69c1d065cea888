"""The example that ends each type's page is run: every command, and what it is said to print."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mount import Mount
from pages import DOCS, AsSaidElsewhere, Command, do, parse, section, with_places
from probes import need

TYPES = ("dhcp", "dns", "firewall", "ids", "loadbalancer", "nat", "proxy", "router", "shaper", "web")
pytestmark = pytest.mark.engines("Native")

PAGES = "reference/middleboxes"
#: the bridge, and how the addresses on it begin, in the pages
BRIDGE, NETWORK = "nfio0", "10.201."


@pytest.fixture
def network(nfio: Mount) -> str:
    """How the addresses of VNFs begin, from now on: a bridge goes with its last VNF."""
    idle = nfio.make("web", "idle")
    idle.act("activate")
    return ".".join(idle.address.split(".")[:2]) + "."


@pytest.fixture
def namespaces() -> Iterator[dict[str, str]]:
    """Network namespaces by the names that a page has for them; what is still there is removed."""
    made: dict[str, str] = {}
    yield made
    for name in there(made):
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
        for pid in pids.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", name], check=True)


def there(namespaces: dict[str, str]) -> set[str]:
    listed = subprocess.run(["ip", "-j", "netns"], capture_output=True, text=True, check=True).stdout
    return {one["name"] for one in json.loads(listed or "[]")} & {*namespaces.values()}


@pytest.mark.parametrize("kind", TYPES)
def test_the_example_does_what_it_says(
    kind: str,
    nfio: Mount,
    network: str,
    namespaces: dict[str, str],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(directory))  # of mktemp
    for tool in ("curl", "busybox"):
        need("tools", shutil.which(tool) is not None, f"{tool} is not installed")
    page = f"{PAGES}/{kind}.md"
    own = {BRIDGE: nfio.engine.variables["NFIO_NATIVE_BRIDGE"], NETWORK: network}
    text = with_places(section((DOCS / page).read_text(), "Example"), nfio, **own)
    namespaces.update({name: f"{name}{os.getpid()}" for name in re.findall(r"ip netns add (\w+)", text)})
    # Those of the machine are everybody's, and the page's names may be taken.
    for name, unique in namespaces.items():
        text = re.sub(rf"\b{name}\b", unique, text)
    parsed = parse(text)
    do(page, parsed, nfio, directory, AsSaidElsewhere(f"{network}0."))
    # It clears away what it made.
    assert [place.name for place in (nfio.path / "nf-types").glob("*/*")] == ["idle"]
    assert not there(namespaces)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "is_as_said"),
    [
        ("10.7.0.5 to 10.7.9.1 at 1795330000, via 10.7.0.5 and 10.7.0.6\n", True),
        ("10.7.0.5 to 10.7.9.1 at 1795330000, via 10.7.0.6 and 10.7.0.6\n", False),  # one stands for one
        ("10.7.0.5 to 10.7.9.1 at 1795330000, via 10.7.0.5 and 10.7.0.5\n", False),  # two stand for two
        ("10.7.0.5 to 10.7.9.2 at 1795330000, via 10.7.0.5 and 10.7.0.6\n", False),  # no VNF's
        ("10.7.0.5 to 10.7.9.1 at once, via 10.7.0.5 and 10.7.0.6\n", False),
        ("10.7.0.5 to 10.7.9.1 at 1795330000, by 10.7.0.5 and 10.7.0.6\n", False),
    ],
)
def test_addresses_and_times_may_differ_and_nothing_else(output: str, is_as_said: bool) -> None:
    said = "10.7.0.2 to 10.7.9.1 at 1795330882, via 10.7.0.2 and 10.7.0.3\n"
    assert AsSaidElsewhere("10.7.0.")(Command("look", said), output) is is_as_said
