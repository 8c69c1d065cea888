"""The files a guest sees in its configuration directory."""

from __future__ import annotations

import os
from pathlib import Path

from nfio.paths import is_temporary
from nfio.store import Store


class GuestConfig:
    """An instance's ``config/``, and the copy of it that its guest sees.

    The guest gets a copy so that what is being written never reaches it, and so that a program
    without privileges can read it whatever its owner did to the original's mode.
    """

    def __init__(self, config_dir: Path, guest_dir: Path) -> None:
        self.config_dir = config_dir
        self.guest_dir = guest_dir

    def current(self) -> dict[str, bytes]:
        """What the guest sees now."""
        if not self.guest_dir.exists():
            return {}
        return {name: (self.guest_dir / name).read_bytes() for name in os.listdir(self.guest_dir)}

    def replace(self, rendered: dict[str, bytes]) -> None:
        """Show the guest the present files, and those that nfio adds."""
        files = {}
        for entry in os.scandir(self.config_dir):
            # A link leads to a file beside it (see Namespace.symlink): the guest gets that content.
            name = os.readlink(entry) if entry.is_symlink() else entry.name
            place = self.config_dir / os.path.basename(name)
            if not is_temporary(entry.name) and place.is_file() and not place.is_symlink():
                files[entry.name] = Store.read(place)
        self.write({**files, **rendered})

    def write(self, files: dict[str, bytes]) -> None:
        """Show the guest exactly these. Each is replaced at once; the directory stays the same."""
        self.guest_dir.mkdir(parents=True, exist_ok=True)
        self.guest_dir.chmod(0o755)
        for name in set(os.listdir(self.guest_dir)) - set(files):
            os.unlink(self.guest_dir / name)
        for name, content in files.items():
            draft = self.guest_dir / ".draft"
            draft.write_bytes(content)
            draft.chmod(0o644)
            os.rename(draft, self.guest_dir / name)
