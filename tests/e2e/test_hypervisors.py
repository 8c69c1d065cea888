"""A root and the hypervisor that runs its VNFs: it remembers which, and is not given to another."""

from __future__ import annotations

from mount import Mount
from views import VIEWS


def other_than(name: str) -> str:
    return next(other for other in ("Native", "Docker", *VIEWS) if other != name)


def test_a_root_remembers_what_runs_its_vnfs(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.act("activate")
    (guest,) = nfio.guests()
    nfio.umount()
    nfio.nfio("mount", str(nfio.root), str(nfio.path))
    assert (firewall.state, nfio.guests()) == ("RUNNING", [guest])
    firewall.act("stop")
    firewall.act("start")
    assert nfio.guests() == [guest]


def test_a_root_whose_vnfs_run_is_not_given_to_another_hypervisor(nfio: Mount) -> None:
    firewall = nfio.make("firewall", "fw0")
    firewall.act("activate")
    (guest,) = nfio.guests()
    nfio.umount()
    other = other_than(nfio.engine.name)
    order = ("mount", str(nfio.root), str(nfio.path), "--hypervisor", other)
    refused = nfio.nfio(*order, check=False)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert f"{nfio.engine.name} runs VNFs of {nfio.root} (firewall/fw0)" in refused.stderr
    assert f"--hypervisor {nfio.engine.name}" in refused.stderr
    assert not nfio.is_mounted and list(nfio.path.iterdir()) == []
    nfio.mount()
    assert (firewall.state, nfio.guests()) == ("RUNNING", [guest])
    firewall.act("destroy")
    nfio.umount()
    nfio.nfio(*order)
    assert firewall.state == "DEFINED"
    nfio.umount()
    nfio.mount()
