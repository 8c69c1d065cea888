"""Giving a guest its configuration: its files of config/, and what nfio makes of a type's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from hypervisor.hypervisor_base import HypervisorBase
from middleboxes import Middlebox, Settings
from nfio.errors import ConfigurationRejected, NfioError
from nfio.guest_config import GuestConfig
from nfio.modules import ModuleRoot
from nfio.store import Store
from nfio.type_files import settings_of
from nfio.vnf import Vnf


class Configurator:
    """Configures the guests of a root; a configuration that is refused leaves the old one."""

    def __init__(self, store: Store, modules: ModuleRoot, hypervisor: HypervisorBase) -> None:
        self.store = store
        self.modules = modules
        self.hypervisor = hypervisor

    def _config(self, vnf: Vnf) -> GuestConfig:
        return GuestConfig(vnf.path / "config", self.store.guest_dir(vnf.uuid))

    def _render(self, vnf: Vnf, middlebox: Middlebox, settings: Settings) -> dict[str, bytes]:
        """What nfio adds to the configuration, going on from the drops counted so far."""
        if middlebox.render is None:
            return {}
        # On another host the function's own count is out of reach, and no part of pkt_drops.
        if middlebox.drops is not None and vnf.guest is not None and vnf.guest.pid is not None:
            settings = replace(settings, drops=middlebox.drops(vnf.guest))
        return {name: text.encode() for name, text in middlebox.render(settings).items()}

    def configure(self, vnf: Vnf) -> None:
        """Give the guest the present configuration."""
        middlebox = self.modules.require(vnf.type)
        config = self._config(vnf)
        config.replace(self._render(vnf, middlebox, settings_of(middlebox, vnf.path)))
        if vnf.vnf_id is not None:
            self.hypervisor.push_config(vnf.host, vnf.vnf_id, config.guest_dir)

    def reload(self, vnf: Vnf) -> None:
        """Check the configuration in the guest, then apply it; a bad one leaves the old one."""
        with self._or_the_old_one(vnf):
            self.configure(vnf)
            self._apply(vnf)

    def reconfigure(
        self, vnf: Vnf, settings: Settings, apply: Callable[[Settings], None] | None = None
    ) -> None:
        """Change a running VNF to other settings; files of ``config/`` stay as they were accepted.

        Args:
            apply: puts them in force; None: the type's own check and reload do.
        """
        middlebox = self.modules.require(vnf.type)
        config = self._config(vnf)
        with self._or_the_old_one(vnf):
            config.write({**config.current(), **self._render(vnf, middlebox, settings)})
            self.hypervisor.push_config(vnf.host, vnf.deployed_id(), config.guest_dir)
            if apply is None:
                self._apply(vnf)
            else:
                apply(settings)

    @contextmanager
    def _or_the_old_one(self, vnf: Vnf) -> Iterator[None]:
        """Give the guest the files back that it had, if the body fails."""
        config = self._config(vnf)
        before = config.current()
        try:
            yield
        except (NfioError, OSError):  # an OSError: the disk is full
            config.write(before)
            self.hypervisor.push_config(vnf.host, vnf.deployed_id(), config.guest_dir)
            raise

    def _apply(self, vnf: Vnf) -> None:
        middlebox = self.modules.require(vnf.type)
        for command in (middlebox.check, middlebox.reload):
            result = self.hypervisor.execute_in_guest(vnf.host, vnf.deployed_id(), list(command))
            if result.exit_code:
                words = result.output.decode(errors="replace").strip()
                raise ConfigurationRejected(words or f"{command[0]} refused it")
