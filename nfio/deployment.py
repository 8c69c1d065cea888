"""What a hypervisor is told of a VNF when it is to make it."""

from __future__ import annotations

import pwd
import re
from pathlib import Path

from hypervisor.hypervisor_base import VnfSpec
from middleboxes import Middlebox
from nfio import values
from nfio.recipes import function_of
from nfio.vnf import Vnf


def spec_of(vnf: Vnf, middlebox: Middlebox, root_id: str, config_dir: Path) -> VnfSpec:
    """What it is made from, as its stored files say now. InvalidValue (EINVAL) if one is not valid."""
    return VnfSpec(
        root=root_id,
        type=vnf.type,
        instance=vnf.name,
        uuid=vnf.uuid,
        resources=vnf.resources(),
        capabilities=middlebox.capabilities,
        sysctls=dict(middlebox.sysctls),
        user=middlebox.user,
        config_dir=config_dir,
        boot=values.parse_boot_conf(vnf.value("config/boot.conf")).options,
        function=function_of(middlebox),
    )


def owner_name(uid: int) -> str:
    """The user's name as far as container names allow its characters."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
