"""The one place that knows which drivers there are."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import ClassVar

from hypervisor.hypervisor_base import HypervisorBase

#: hypervisor type -> "module:class"; a driver is imported when it is asked for.
DRIVERS = {
    "Docker": "hypervisor.docker_driver:Docker",
    "Libvirt": "hypervisor.libvirt_driver:Libvirt",
    "Native": "hypervisor.native_driver:Native",
}


def make_driver(hypervisor_type: str) -> HypervisorBase:
    """A new driver object of a type in ``DRIVERS``."""
    module, _, name = DRIVERS[hypervisor_type].partition(":")
    made: HypervisorBase = getattr(import_module(module), name)()
    return made


class HypervisorFactory:
    """A singleton class for creating hypervisor driver objects.

    In one process there is exactly one driver object of one type.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _type: ClassVar[str | None] = None
    _instance: ClassVar[HypervisorBase | None] = None

    def __init__(self, hypervisor_type: str = "Docker") -> None:
        """Make the driver, or find that it is made already.

        Raises:
            TypeError: no such hypervisor type.
            ValueError: this process already has a driver of another type.
        """
        if hypervisor_type not in DRIVERS:
            raise TypeError(f"unknown hypervisor {hypervisor_type!r}: one of {', '.join(DRIVERS)}")
        with self._lock:
            if self._type is None:
                HypervisorFactory._instance = make_driver(hypervisor_type)
                HypervisorFactory._type = hypervisor_type
            elif self._type != hypervisor_type:
                raise ValueError(f"the hypervisor of this process is {self._type}, not {hypervisor_type}")

    @staticmethod
    def get_hypervisor_instance() -> HypervisorBase:
        """The driver. Raises RuntimeError if no factory was instantiated before."""
        if HypervisorFactory._instance is None:
            raise RuntimeError("instantiate HypervisorFactory(type) first")
        return HypervisorFactory._instance
