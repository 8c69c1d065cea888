"""The pages that show commands are run: every command, and what it is said to print."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_view import EngineView
from mount import Mount
from pages import DOCS, follow, parse
from probes import need

#: pages whose commands are those of one engine too
on_docker = pytest.mark.engines("Docker")
on_native = pytest.mark.engines("Native")


@pytest.fixture
def fresh(stocked: EngineView, directory: Path) -> Iterator[Mount]:
    """Places for a root and a mount point; the page itself mounts."""
    made = Mount(directory, stocked)
    yield made
    made.close()


@pytest.fixture
def work(directory: Path) -> Path:
    """The directory a reader works in."""
    path = directory / "work"
    path.mkdir()
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_session_of_the_readme_does_what_it_says(fresh: Mount, work: Path) -> None:
    need("tools", shutil.which("curl") is not None, "curl is not installed")
    follow("../README.md", fresh, work)


@on_native
def test_the_tutorial_does_what_it_says(fresh: Mount, work: Path) -> None:
    need("tools", shutil.which("curl") is not None, "curl is not installed")
    follow("tutorial.md", fresh, work)


def test_a_type_is_added_as_the_page_says(fresh: Mount, work: Path) -> None:
    engine = ("--for", fresh.engine.probe)
    there = "nfio/echo" in fresh.nfio("image", "list").stdout
    try:
        follow("howto/add-a-middlebox.md", fresh, work)
    finally:
        fresh.close()
        if not there:
            fresh.nfio("image", "rm", "nfio/echo", *engine, check=False)


def test_the_type_of_the_page_is_one_file_of_under_sixty_lines() -> None:
    files = parse((DOCS / "howto/add-a-middlebox.md").read_text()).files
    assert list(files) == ["types/echo.py"]
    assert len(files["types/echo.py"].splitlines()) < 60


@on_docker
def test_the_playbook_configures_repairs_and_changes_nothing_twice(fresh: Mount, work: Path) -> None:
    there = (Path(sys.executable).parent / "ansible-playbook").exists() or shutil.which("ansible-playbook")
    need("ansible", bool(there), "ansible-playbook is not installed")
    follow("howto/use-with-ansible.md", fresh, work)


def test_node_exporter_serves_the_metrics_as_they_are(fresh: Mount, work: Path) -> None:
    for tool in ("prometheus-node-exporter", "curl"):
        need("tools", shutil.which(tool) is not None, f"{tool} is not installed")
    address = f"127.0.0.1:{free_port()}"
    follow("howto/monitor-with-prometheus.md", fresh, work, **{"127.0.0.1:9100": address})


@on_docker
def test_each_symptom_is_cured_as_the_page_says(fresh: Mount, work: Path) -> None:
    follow("howto/troubleshoot.md", fresh, work)
