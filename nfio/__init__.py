"""nfio: an orchestrator of virtual network functions whose interface is a file system.

Importing this package imports nothing else: the layers below it (``hypervisor``,
``middleboxes``) take their exceptions from ``nfio.errors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nfio.filesystem import Nfio
    from nfio.vnfs_operations import VNFSOperations

__all__ = ["Nfio", "VNFSOperations", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Nfio":
        from nfio.filesystem import Nfio

        return Nfio
    if name == "VNFSOperations":
        from nfio.vnfs_operations import VNFSOperations

        return VNFSOperations
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
