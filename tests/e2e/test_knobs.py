"""The files of the types' own, turned by clients that know nothing of them, on functions that run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mount import Mount, Vnf
from probes import need
from shell import sh
from test_ansible import ANSIBLE, Ansible
from test_clients import write

#: more than the buffers of any client, and full buffers (4096 or 8192 bytes) end amid a line's words
MANY = "".join(f"tcp {port} 10.0.0.5 80".rjust(99) + "\n" for port in range(1000, 1100))
#: those of all ways that differ in how they treat the file
SOME_WAYS = (">", "tee", "sed -i", "cp --remove-destination", "mv within the mount", "rsync", "vim", "ed")
#: scripts that make what is in the file $source the content of the file `forwards`
LONG_WAYS = (
    "tee forwards < $source",
    "sed '' $source > forwards",
    'echo "$(cat $source)" > forwards',
    "sed s/80$/81/ $source | dd of=forwards bs=64K && sed -i s/81$/80/ forwards",
    "dd if=$source of=forwards bs=512",
    "rsync --inplace --ignore-times $source forwards",
    'printf "%s\\n" 1d "r $source" w q | ed -s forwards',
    'vim.tiny -u NONE -N -es -c "0r $source" -c \\$d -c wq forwards',
)
USER = 1234


@pytest.fixture
def firewall(shared: Mount) -> Vnf:
    """One that looks its clients' addresses up in the set `blocked`."""
    vnf = shared.make("firewall", "fw0")
    sh("mkdir -p sets/blocked sets/blocked", vnf.path)
    rules = vnf.read("config/nf_conf")
    vnf.write("config/nf_conf", rules.replace("\t\tct state", "\t\tip saddr @blocked drop\n\t\tct state"))
    vnf.act("activate")
    return vnf


@pytest.fixture
def nat(shared: Mount) -> Vnf:
    vnf = shared.make("nat", "n0")
    vnf.act("activate")
    return vnf


def in_force(firewall: Vnf) -> str:
    """What rules say of packets that none of them decides on."""
    (policy,) = {line.split()[-1] for line in firewall.read("rules").splitlines() if "hook input" in line}
    return policy.rstrip(";")


@pytest.mark.engines("Native")
def test_a_knob_is_turned_in_any_way(firewall: Vnf, directory: Path) -> None:
    before = sorted(os.listdir(firewall.path))
    for way in SOME_WAYS:
        assert write(way, firewall, "policy", "drop", directory), way
        assert (firewall.read("policy"), in_force(firewall)) == ("drop\n", "drop"), way
        assert not write(way, firewall, "policy", "perhaps", directory, check=False), way
        sh("rm -f *~", firewall.path)
        assert (firewall.read("policy"), in_force(firewall)) == ("drop\n", "drop"), way
        sh("rm policy", firewall.path)
        assert in_force(firewall) == "accept"
    assert sorted(os.listdir(firewall.path)) == before


@pytest.mark.engines("Native")
def test_many_lines_are_written_in_any_way_and_by_many_at_once(nat: Vnf, directory: Path) -> None:
    source = directory / "source"
    source.write_text(MANY)
    need("tools", not sh("type rsync ed vim.tiny", directory, check=False).returncode, "an editor is missing")
    for way in LONG_WAYS:
        nat.write("forwards", "# none\n")
        sh(way, nat.path, source=str(source))
        assert nat.read("forwards") == MANY, way
    nat.write("forwards", "# some\n")
    sh('for i in $(seq 8); do echo "tcp 30$i 10.0.0.5 80" >> forwards & done; wait', nat.path)
    assert len(nat.read("forwards").splitlines()) == 9


@pytest.mark.engines("Native")
def test_entries_are_made_moved_and_removed_and_a_firewall_that_runs_is_not(
    firewall: Vnf, directory: Path
) -> None:
    firewall.write("policy", "drop\n")
    sh(
        "mkdir -p sets/blocked sets/other; touch sets/blocked/10.0.0.5; echo note > sets/blocked/10.0.1.0_24;"
        "touch sets/blocked/10.0.0.5; mv sets/blocked/10.0.0.5 sets/blocked/10.0.0.6;"
        f"cp -a sets/. {directory}/copy; rsync -a {directory}/copy/blocked/ sets/other;"
        "ls -lR . > /dev/null; find . -type f > /dev/null; grep -rl note sets; grep -r . stats > /dev/null",
        firewall.path,
    )
    assert sorted(os.listdir(firewall.path / "sets/other")) == ["10.0.0.6", "10.0.1.0_24"]
    assert firewall.read("rules").count("elements = { 10.0.0.6, 10.0.1.0/24 }") == 2
    for name, made in (("10.9.9.9", "sets/other"), ("10.8.8.8", "/dev/null")):
        with pytest.raises(OSError):
            os.rename(firewall.path / made, firewall.path / "sets/blocked" / name)
        assert name not in firewall.read("rules")
    sh("rm -r sets/other", firewall.path)
    kept = firewall.read("config/nf_conf"), firewall.read("rules")
    for state in ("RUNNING", "PAUSED", "RUNNING"):
        firewall.write("state", f"{state}\n")
        done = sh(f"rm -r {firewall.path}", directory, check=False)
        assert done.returncode and "busy" in done.stderr
        firewall.write("state", "RUNNING\n")
        assert (firewall.read("config/nf_conf"), firewall.read("rules")) == kept


@pytest.mark.engines("Native")
def test_who_an_instance_belongs_to_turns_it(view, directory: Path) -> None:
    mount = Mount(directory, view, options=("--allow-other",))
    mount.mount()
    try:
        firewall = mount.make("firewall", "fw0")
        sensor = mount.make("ids", "ids0")
        sh(f"chown -R {USER}:{USER} {firewall.path} {sensor.path}", directory)
        sh("mkdir sets/a; mkdir sets/b; touch sets/b/10.0.0.5; echo drop > policy", firewall.path, uid=USER)
        sh("rm -r sets/a; mkdir sets/a", firewall.path, uid=USER)
        done = sh("echo accept > policy", firewall.path, uid=USER + 1, check=False)
        assert done.returncode and "Permission denied" in done.stderr
        assert (sensor.path / "pipes/alerts").lstat().st_uid == USER
    finally:
        mount.close()


@pytest.mark.engines("Native")
def test_a_playbook_turns_what_has_to_be_turned_and_nothing_else(
    shared: Mount, firewall: Vnf, nat: Vnf, directory: Path
) -> None:
    need("ansible", ANSIBLE.exists(), f"there is no {ANSIBLE}")
    ansible = Ansible(shared, directory / "ansible")
    sh("touch sets/blocked/10.0.0.6", firewall.path)
    first = ansible.play("knobs")
    assert first.status == 0 and list(first.results.values()) == ["changed"] * 6, first.output
    assert in_force(firewall) == "drop"
    assert "elements = { 10.0.0.5, 10.1.0.0/16 }" in firewall.read("rules")
    assert nat.read("forwards") == "tcp 8080 10.0.0.5 80\n"
    assert "8080" in sh("echo 'nft list ruleset' > command; cat command", nat.path).stdout
    second = ansible.play("knobs")
    assert second.status == 0 and second.changed == [], second.output
    for vnf in (firewall, nat):
        assert [name for name in os.listdir(vnf.path) if name.startswith(".")] == []
