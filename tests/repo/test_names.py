"""The names that nf.io and fog05 gave: classes, methods and their arguments stay as they are."""

from __future__ import annotations

import inspect
from enum import Enum

import pytest

import nfio as package
from hypervisor.docker_driver import Docker
from hypervisor.hypervisor_base import HypervisorBase
from hypervisor.hypervisor_factory import HypervisorFactory
from nfio import Nfio, VNFSOperations
from nfio.entity import Entity, EntityInstance
from nfio.states import State

#: class: method: its arguments without self; what nfio adds has a default
NAMES: dict[type, dict[str, str]] = {
    Nfio: {
        "__init__": "root mountpoint hypervisor module_root",
        "access": "path amode",
        "chmod": "path mode",
        "chown": "path uid gid",
        "getattr": "path fh",
        "readdir": "path fh",
        "readlink": "path",
        "mknod": "path mode dev",
        "rmdir": "path",
        "mkdir": "path mode",
        "statfs": "path",
        "unlink": "path",
        "symlink": "target source",
        "rename": "old new",
        "link": "target source",
        "utimens": "path times",
        "open": "path fi",
        "create": "path mode fi",
        "read": "path length offset fh",
        "write": "path buf offset fh",
        "truncate": "path length fh",
        "flush": "path fh",
        "release": "path fh",
        "fsync": "path datasync fh",
    },
    VNFSOperations: {
        "__init__": "vnfs_root",
        "vnfs_create_vnf_instance": "path mode",
        "vnfs_get_opcode": "path",
        "vnfs_get_nf_type": "path",
        "vnfs_get_file_name": "path",
        "vnfs_is_nf_instance": "path",
        "vnfs_get_instance_configuration": "nf_path",
        "vnfs_deploy_nf": "nf_path",
        "vnfs_stop_vnf": "nf_path",
        "vnfs_get_rx_bytes": "nf_path",
        "vnfs_get_tx_bytes": "nf_path",
        "vnfs_get_pkt_drops": "nf_path",
        "vnfs_get_status": "nf_path",
    },
    HypervisorFactory: {"__init__": "hypervisor_type", "get_hypervisor_instance": ""},
    HypervisorBase: {
        "get_id": "host user vnf_name",
        "deploy": "host user image_name vnf_name",
        "pause": "host vnf_id",
        "destroy": "host vnf_id",
        "execute_in_guest": "host vnf_id cmd",
        "guest_status": "host vnf_id",
    },
    Docker: {
        "__init__": "",
        "get_id": "host user vnf_name",
        "deploy": "host user image_name vnf_name",
        "start": "host vnf_id",
        "restart": "host vnf_id",
        "stop": "host vnf_id",
        "pause": "host vnf_id",
        "unpause": "host vnf_id",
        "destroy": "host vnf_id",
        "execute_in_guest": "host vnf_id cmd",
        "guest_status": "host vnf_id",
    },
    Entity: {
        "add_instance": "instance_object",
        "after_migrate": "",
        "before_migrate": "",
        "get_instance": "instance_uuid",
        "get_state": "",
        "has_instance": "instance_uuid",
        "on_clean": "",
        "on_configured": "configuration",
        "on_defined": "",
        "on_pause": "",
        "on_resume": "",
        "on_start": "",
        "on_stop": "",
        "remove_instance": "instance_object",
        "set_state": "state",
    },
    EntityInstance: {
        "__init__": "uuid entity_uuid",
        "after_migrate": "",
        "before_migrate": "",
        "get_state": "",
        "on_clean": "",
        "on_configured": "configuration",
        "on_pause": "",
        "on_resume": "",
        "on_start": "",
        "on_stop": "",
        "set_state": "state",
    },
}

METHODS = [(kind, method) for kind, methods in NAMES.items() for method in methods]


@pytest.mark.parametrize(
    ("kind", "method"), METHODS, ids=[f"{kind.__name__}.{name}" for kind, name in METHODS]
)
def test_a_method_has_its_name_and_its_arguments(kind: type, method: str) -> None:
    wanted = NAMES[kind][method].split()
    parameters = [p for p in inspect.signature(getattr(kind, method)).parameters.values() if p.name != "self"]
    assert [p.name for p in parameters[: len(wanted)]] == wanted
    assert all(p.default is not p.empty for p in parameters[len(wanted) :])


def test_defaults_are_nf_ios() -> None:
    parameters = inspect.signature(Nfio).parameters
    assert parameters["hypervisor"].default == "Docker"
    assert parameters["module_root"].default == "middleboxes"
    assert inspect.signature(HypervisorFactory).parameters["hypervisor_type"].default == "Docker"
    assert isinstance(inspect.getattr_static(HypervisorFactory, "get_hypervisor_instance"), staticmethod)
    assert (VNFSOperations.OP_UNDEFINED, VNFSOperations.OP_NF) == (0xFF, 0x01)
    assert issubclass(Docker, HypervisorBase)


def test_an_nfio_has_the_attributes_that_nf_io_names() -> None:
    source = inspect.getsource(Nfio.__init__)
    for attribute in ("root", "mountpoint", "hypervisor", "vnfs_ops", "module_root"):
        assert f"self.{attribute} = " in source


def test_states_are_an_enum() -> None:
    assert issubclass(State, Enum) and len(State) == 10


def test_what_the_package_exports_is_there() -> None:
    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError):
        package.no_such_name  # noqa: B018
