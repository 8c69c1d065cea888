"""What is measured on Libvirt, against what, and the bar."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from bench import Bench, Row, at_most
from places import act, run, seconds

READY = b"nfio: ready"
STORE = Path("/var/lib/nfio/libvirt")
VIRSH = ("virsh", "-q", "-c", "qemu:///system")


class ByHand:
    """The domain of a VNF under another name, with disks of its own, as virsh runs it."""

    def __init__(self, vnf_id: str, directory: Path) -> None:
        self.source = next(STORE.glob(f"*/{vnf_id}"))
        self.directory = STORE / "bench"
        tree = ElementTree.fromstring(run(*VIRSH, "dumpxml", "--inactive", vnf_id))
        tree.find("name").text = "nfio-bench"  # type: ignore[union-attr]
        tree.find("uuid").text = str(uuid.uuid4())  # type: ignore[union-attr]
        tree.remove(tree.find("metadata"))  # type: ignore[arg-type]  # it is nobody's of nfio's
        tree.find("devices/interface").remove(tree.find("devices/interface/mac"))  # type: ignore[union-attr,arg-type]
        for element in tree.iter():
            for key, value in element.attrib.items():
                element.set(key, value.replace(str(self.source), str(self.directory)))
        self.definition = directory / "domain.xml"
        self.definition.write_bytes(ElementTree.tostring(tree))
        self.pristine = directory / "machine"
        shutil.copytree(self.source, self.pristine)

    def round(self) -> tuple[float, float]:
        """Seconds for define and start, and from then on until it is ready."""
        shutil.copytree(self.pristine, self.directory)
        run("chown", "-R", f"--reference={self.source.parent}", str(self.directory))
        for place in self.directory.glob("*.log"):
            place.unlink()
        try:
            begun = time.perf_counter()
            run(*VIRSH, "define", str(self.definition))
            run(*VIRSH, "start", "nfio-bench")
            started = time.perf_counter()
            while not any(READY in place.read_bytes() for place in self.directory.glob("*.log")):
                if time.perf_counter() - started > 60:
                    raise SystemExit("the domain that virsh started does not get ready")
                time.sleep(0.01)
            return started - begun, time.perf_counter() - started
        finally:
            for word in ("destroy", "undefine"):
                subprocess.run([*VIRSH, word, "nfio-bench"], capture_output=True, check=False)
            shutil.rmtree(self.directory)


def activate(bench: Bench) -> list[Row]:
    """`echo activate` on Libvirt, against virsh; both until the firewall says that it is ready."""
    instance = bench.libvirt.make("firewall", "activate")
    act(instance, "deploy")
    (bench.directory / "virsh").mkdir()
    by_hand = ByHand((instance / "uuid").read_text().strip(), bench.directory / "virsh")
    act(bench.libvirt.make("firewall", "keep"), "deploy")  # keeps the network
    act(instance, "destroy")
    ours, rounds = [], []
    for _ in range(bench.times(10, 3)):
        ours.append(seconds(lambda: act(instance, "activate")))
        act(instance, "destroy")
        rounds.append(by_hand.round())
    mine = statistics.median(ours) * 1e3
    virsh, ready = (statistics.median(values) * 1e3 for values in zip(*rounds, strict=True))
    detail = f"define and start {virsh:.0f} ms, then until it is ready {ready:.0f} ms"
    what = "echo activate on Libvirt, against virsh define + start, until ready"
    return [at_most("libvirt-activate", what, mine, virsh + ready, "ms", 1.15, detail)]


ROWS: dict[str, Callable[[Bench], list[Row]]] = {"libvirt-activate": activate}
