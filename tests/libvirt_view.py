"""libvirt without nfio: virsh, and the metadata of its domains."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

from engine import wait_until
from engine_view import EngineView, Seen, driver_of, make_by_driver, output_of

URI = "qemu:///system"
METADATA = "urn:nfio:vnf:1"
#: where the images are built, as by any other `nfio image build`
MACHINES_OWN = Path("/var/lib/nfio/libvirt")


def virsh(*arguments: str, check: bool = True) -> str:
    return output_of("virsh", "-q", "-c", URI, *arguments, check=check)


class LibvirtView(EngineView):
    """This machine's libvirtd."""

    name = "Libvirt"
    created = "shut off"
    ended = "shut off"
    whole_suite = False
    other_hosts = True
    no_image = "no image"
    little_memory = "emory"
    name_taken = "already"
    killed = "it ended"

    def __init__(self) -> None:
        self._roots: set[str] = set()

    @property
    def variables(self) -> dict[str, str]:
        return {"NFIO_LIBVIRT_DIR": str(MACHINES_OWN)}

    def missing(self) -> str:
        try:
            done = subprocess.run(
                ["virsh", "-c", URI, "version"], capture_output=True, timeout=20, check=False
            )
        except FileNotFoundError:
            return "virsh is not installed; scripts/setup libvirt installs it"
        return "no libvirtd answers; scripts/libvirt-engine start starts one" if done.returncode else ""

    def leftovers(self) -> list[str]:
        return [guest for root in self._roots for guest in self.guests(root)]

    def seen(self, root_id: str) -> list[Seen]:
        self._roots.add(root_id)
        found = []
        for guest in virsh("list", "--all", "--uuid").split():
            text = virsh("metadata", guest, METADATA, "--config", check=False)
            mark = ElementTree.fromstring(text).attrib if text else {}
            if mark.get("root") == root_id:
                label = f"{mark.get('type')}/{mark.get('instance')}"
                found.append(
                    Seen(guest, mark.get("uuid", ""), label, virsh("domname", guest), self.word(guest), 0)
                )
        return found

    def word(self, guest: str) -> str:
        return virsh("domstate", guest)

    def exists(self, guest: str) -> bool:
        return guest in virsh("list", "--all", "--uuid").split()

    def pid(self, guest: str) -> int:
        return int(Path(f"/run/libvirt/qemu/{virsh('domname', guest)}.pid").read_text())

    def memory_limit(self, guest: str) -> int:
        lines = dict(line.split(":", 1) for line in virsh("dominfo", guest).splitlines() if ":" in line)
        return int(lines["Used memory"].split()[0]) << 10

    def is_privileged(self, guest: str) -> bool:
        return Path(f"/proc/{self.pid(guest)}").stat().st_uid == 0

    def run(self, guest: str, *command: str) -> str:
        with driver_of(self) as driver:
            return driver.execute_in_guest("", guest, list(command)).output.decode()

    def kill(self, guest: str) -> None:
        virsh("destroy", guest)

    def stop(self, guest: str) -> None:
        virsh("shutdown", guest)
        wait_until(lambda: self.word(guest) == self.ended, 30, "it has shut down")

    def pause(self, guest: str) -> None:
        virsh("suspend", guest)

    def unpause(self, guest: str) -> None:
        virsh("resume", guest)

    def remove(self, *guests: str) -> None:
        for guest in guests:
            virsh("destroy", guest, check=False)
            virsh("undefine", guest)

    def clear(self, *guests: str) -> None:
        with driver_of(self) as driver:
            for guest in guests:
                driver.destroy("", guest)

    def make_stranger(self, name: str) -> str:
        return make_by_driver(self, name)
