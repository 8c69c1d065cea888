"""nf.io's common operations on VNFs, by path."""

from __future__ import annotations

from pathlib import Path

from hypervisor.hypervisor_factory import HypervisorFactory
from hypervisor.hypervisor_return_codes import SUCCESS, ReturnCode, code_of
from nfio import values
from nfio.errors import NfioError, NotFound, NotPermitted
from nfio.instance_files import InstanceFiles
from nfio.modules import DEFAULT, ModuleRoot, resolve
from nfio.orchestrator import Orchestrator
from nfio.own_operations import OwnOperations
from nfio.paths import Location, check_name, locate
from nfio.store import Store
from nfio.vnf import Vnf


class VNFSOperations:
    """Provides a common set of operations for nfio. These operations act as a helper.

    Paths may begin with a mount point, or with ``nf-types``. The hypervisor is the one of the
    process's ``HypervisorFactory``.

    Args:
        vnfs_root: the root directory.
        module_root: where the types are; the default is the types that nfio comes with.
    """

    OP_UNDEFINED = 0xFF
    OP_NF = 0x01

    def __init__(self, vnfs_root: str, module_root: str = DEFAULT) -> None:
        self.vnfs_root = vnfs_root
        self.store = Store(Path(vnfs_root))
        self.modules = ModuleRoot(resolve(module_root))
        self.orchestrator = Orchestrator(
            self.store, self.modules, HypervisorFactory.get_hypervisor_instance()
        )
        self.own = OwnOperations(self.orchestrator)
        self.files = InstanceFiles(self.orchestrator, self.own)

    # -- paths ------------------------------------------------------------------------------

    def vnfs_get_opcode(self, path: str) -> int:
        """OP_NF for a path under ``nf-types``, else OP_UNDEFINED."""
        return self.OP_UNDEFINED if locate(path) is None else self.OP_NF

    def vnfs_get_nf_type(self, path: str) -> str:
        """``firewall`` of ``…/nf-types/firewall/fw-alpha/action``. NotFound (ENOENT) if none."""
        return self._at(path, "type")

    def vnfs_get_file_name(self, path: str) -> str:
        """The last component of a path."""
        return path.rstrip("/").rpartition("/")[2]

    def vnfs_is_nf_instance(self, path: str) -> bool:
        """Whether a path is that of an instance's directory."""
        location = locate(path)
        return location is not None and location.instance is not None and location.file is None

    @staticmethod
    def _at(path: str, part: str) -> str:
        value: str | None = getattr(locate(path) or Location(), part)
        if value is None:
            raise NotFound(f"{path} names no {part}")
        return value

    def vnf(self, nf_path: str) -> Vnf:
        """The VNF that a path leads to or into. NotFound (ENOENT) if it is not defined."""
        found = self.orchestrator.vnfs.get((self._at(nf_path, "type"), self._at(nf_path, "instance")))
        if found is None:
            raise NotFound(f"no VNF is defined at {nf_path}")
        return found

    # -- VNFs -------------------------------------------------------------------------------

    def vnfs_create_vnf_instance(self, path: str, mode: int, owner: tuple[int, int] = (0, 0)) -> ReturnCode:
        """Create the file system structure for a VNF. ``owner`` is (uid, gid).

        Raises:
            NotPermitted (EPERM): the path is no place for an instance, or has an unknown type.
            InvalidValue (EINVAL): its name is not a name.
            AlreadyExists (EEXIST).
        """
        if not self.vnfs_is_nf_instance(path):
            raise NotPermitted(f"{path}: directories are made in nf-types/<type>/ only")
        kind, name = self._at(path, "type"), self._at(path, "instance")
        self.modules.require(kind)
        self.orchestrator.define(kind, check_name(name), mode, owner)
        return SUCCESS

    def vnfs_get_instance_configuration(self, nf_path: str) -> tuple[str, str, str, str]:
        """(nf_instance_name, nf_type, ip_address, image_name) of a VNF."""
        vnf = self.vnf(nf_path)
        return vnf.name, vnf.type, vnf.host, values.parse_image(vnf.value("machine/vm.image"))

    def vnfs_deploy_nf(self, nf_path: str) -> ReturnCode:
        """Deploys a VNF instance and starts it. Why it failed stands in its file ``error``."""
        return self._code(nf_path, "activate")

    def vnfs_stop_vnf(self, nf_path: str) -> ReturnCode:
        """Stops a VNF instance. Why it failed stands in its file ``error``."""
        return self._code(nf_path, "stop")

    def _code(self, nf_path: str, word: str) -> ReturnCode:
        vnf = self.vnf(nf_path)
        try:
            self.orchestrator.act(vnf, word)
        except NfioError as error:
            return code_of(error)
        return SUCCESS

    def vnfs_get_rx_bytes(self, nf_path: str) -> int:
        """Number of bytes received by a VNF instance. NetworkDown (ENETDOWN) if it does not run."""
        return self.files.counter(self.vnf(nf_path), "rx_bytes")

    def vnfs_get_tx_bytes(self, nf_path: str) -> int:
        """Number of bytes sent by a VNF instance. NetworkDown (ENETDOWN) if it does not run."""
        return self.files.counter(self.vnf(nf_path), "tx_bytes")

    def vnfs_get_pkt_drops(self, nf_path: str) -> int:
        """Number of packets dropped by a VNF instance. NetworkDown (ENETDOWN) if it does not run."""
        return self.files.drops(self.vnf(nf_path))

    def vnfs_get_status(self, nf_path: str) -> str:
        """Hypervisor specific status of a VNF, live; ``undeployed`` before it is deployed."""
        return self.files.status(self.vnf(nf_path))
