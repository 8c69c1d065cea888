"""Ansible's own modules drive a VNF: playbooks change what has to be changed, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine import wait_until
from mount import Mount, Vnf
from probes import need
from shell import stored

PLAYBOOKS = Path(__file__).parent / "playbooks"
ANSIBLE = Path(sys.executable).parent / "ansible-playbook"

_TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.*)\] \*+$", re.MULTILINE)
_RESULT = re.compile(r"^(ok|changed|fatal|skipping):", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What a playbook did.

    Attributes:
        results: ok, changed, fatal or skipping for each task by its name.
        output: everything it said.
    """

    status: int
    results: dict[str, str]
    output: str

    @property
    def changed(self) -> list[str]:
        return [task for task, result in self.results.items() if result == "changed"]


class Ansible:
    """ansible-playbook against a mount; what it writes besides goes to a directory of the test's own."""

    def __init__(self, mount: Mount, directory: Path) -> None:
        self._mount = mount
        self._directory = directory
        directory.mkdir()

    def play(self, playbook: str, **variables: str) -> Run:
        given = {
            "mount": str(self._mount.path),
            "instance": "fw0",
            "ansible_python_interpreter": sys.executable,
        }
        options = [f"--extra-vars={key}={value}" for key, value in {**given, **variables}.items()]
        done = subprocess.run(
            [ANSIBLE, "--inventory=localhost,", *options, PLAYBOOKS / f"{playbook}.yml"],
            cwd=self._directory,
            env={
                "PATH": os.environ["PATH"],
                "LC_ALL": "C.UTF-8",
                "HOME": str(self._directory),
                "TMPDIR": str(self._directory),
                "ANSIBLE_HOME": str(self._directory / "ansible"),
                "ANSIBLE_LOCAL_TEMP": str(self._directory / "local"),
                "ANSIBLE_REMOTE_TEMP": str(self._directory / "remote"),
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_NOCOWS": "1",
                "ANSIBLE_RETRY_FILES_ENABLED": "0",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        output = done.stdout + done.stderr
        _, *parts = _TASK.split(done.stdout)
        results = {}
        for task, text in zip(parts[::2], parts[1::2], strict=True):
            result = _RESULT.search(text)
            assert result is not None, output
            results[task] = result[1]
        assert results, output
        return Run(done.returncode, results, output)


@pytest.fixture
def nfio(shared: Mount) -> Mount:
    """These tests leave nothing behind that could disturb the next one."""
    return shared


@pytest.fixture
def ansible(nfio: Mount, directory: Path) -> Ansible:
    need("ansible", ANSIBLE.exists(), f"there is no {ANSIBLE}")
    return Ansible(nfio, directory / "ansible")


@pytest.fixture
def firewall(nfio: Mount) -> Vnf:
    """The firewall that the playbooks make, made by hand."""
    made = nfio.make("firewall", "fw0")
    (made.path / "config/variables.nft").write_text("define port = 80\n")
    made.write("config/nf_conf", (PLAYBOOKS / "files/rules.nft").read_text())
    made.write("machine/vm.memory", "64M\n")
    made.act("activate")
    return made


def test_a_playbook_makes_a_firewall_once_and_repairs_what_broke(ansible: Ansible, nfio: Mount) -> None:
    first = ansible.play("firewall")
    assert first.status == 0, first.output
    assert first.changed == [
        "It is defined",
        "It has its rules",
        "It has the variables of its rules",
        "It may use 64 MiB",
        "It is not started on mount",
        "It runs",
    ]
    firewall = nfio.vnf("firewall", "fw0")
    assert (firewall.state, firewall.error) == ("RUNNING", "")
    assert "tcp dport 80 drop" in firewall.read("rules")
    (guest,) = nfio.guests()
    assert nfio.engine.memory_limit(guest) == 64 << 20
    left = [*(firewall.path.glob(".*")), *(firewall.path.glob("*/.*"))]
    assert left == []

    second = ansible.play("firewall")
    assert second.status == 0 and second.changed == [], second.output
    assert nfio.guests() == [guest]

    nfio.engine.kill(guest)
    wait_until(lambda: firewall.state == "ERROR", 5, "the death is seen")
    third = ansible.play("firewall")
    assert third.status == 0 and third.changed == ["It runs"], third.output
    assert (firewall.state, firewall.error) == ("RUNNING", "")


def test_a_playbook_changes_a_running_firewall(ansible: Ansible, nfio: Mount, firewall: Vnf) -> None:
    (guest,) = nfio.guests()
    run = ansible.play("change", port="8080", memory="96M")
    assert run.status == 0, run.output
    assert run.changed == [
        "It has the variables of its rules",
        "It may use the memory it needs",
        "Apply the rules",
    ]
    assert "tcp dport 8080 drop" in firewall.read("rules")
    assert nfio.guests() == [guest]
    assert nfio.engine.memory_limit(guest) == 96 << 20
    assert ansible.play("change", port="8080", memory="96M").changed == []


def test_a_refused_value_fails_the_task_and_the_old_one_stays(ansible: Ansible, firewall: Vnf) -> None:
    run = ansible.play("change", port="80", memory="plenty")
    assert run.status != 0
    assert run.results["It may use the memory it needs"] == "fatal"
    assert "Invalid argument" in run.output
    assert firewall.value("machine/vm.memory") == "64M"
    assert "'plenty' is not an amount of memory" in firewall.error
    assert list((firewall.path / "machine").glob(".*")) == []


def test_a_running_firewall_is_not_removed_and_loses_nothing(
    ansible: Ansible, nfio: Mount, firewall: Vnf
) -> None:
    before = stored(firewall)
    run = ansible.play("remove")
    assert run.status != 0 and run.results == {"It is stopped": "skipping", "It is gone": "fatal"}, run.output
    assert "Device or resource busy" in run.output
    assert stored(firewall) == before
    assert firewall.state == "RUNNING"

    run = ansible.play("remove", first="CONFIGURED")
    assert run.status == 0 and run.changed == ["It is stopped", "It is gone"], run.output
    assert not firewall.path.exists()
    assert nfio.guests() == []
    again = ansible.play("remove")
    assert again.status == 0 and again.changed == []
