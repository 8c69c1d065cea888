"""The OCI runtime configuration of a guest (opencontainers/runtime-spec, config.md, version 1.0.2)."""

from __future__ import annotations

import os
import resource
from typing import Any

from hypervisor.hypervisor_base import CONFIG_DIR
from hypervisor.native_cgroups import GROUP, limits_of
from hypervisor.native_store import Guest

#: files that each of them may have open, as far as this process may give them as many
OPEN_FILES = 1 << 20
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_NO_DEVICE = ["nosuid", "noexec", "nodev"]

#: what a guest sees of proc(5) and sysfs is not to tell of, or to change, the host
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: system calls that act on the host as a whole, or reach around the namespaces; a guest's
#: capabilities refuse most of them, and this holds where one of those was declared
_FORBIDDEN_CALLS = (
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "setns",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
)


def _mounts(guest: Guest, overlay: list[str] | None) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _NO_DEVICE},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*_NO_DEVICE, "mode=1777", "size=65536k"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_NO_DEVICE, "ro"]},
    ]
    if overlay is not None:
        root = {"destination": "/", "type": "overlay", "source": "overlay", "options": overlay}
        mounts.insert(0, root)
    if os.path.exists("/etc/resolv.conf"):
        mounts.append(_shown(os.path.realpath("/etc/resolv.conf"), "/etc/resolv.conf"))
    if guest.config_dir:
        mounts.append(_shown(guest.config_dir, CONFIG_DIR))
    return mounts


def _shown(source: str, place: str) -> dict[str, Any]:
    """A file or directory of the host that the guest can read at ``place``."""
    return {
        "destination": place,
        "type": "none",
        "source": source,
        "options": ["bind", "ro", *_NO_DEVICE],
    }


def runtime_config(guest: Guest, namespace: str, overlay: list[str] | None) -> dict[str, Any]:
    """The content of ``config.json``.

    Args:
        namespace: path of its network namespace.
        overlay: how its root file system is stacked, in its own mount namespace: each mount in the
            host's would make the start of all others slower. None: it is mounted already.
    """
    capabilities = [f"CAP_{name}" for name in guest.capabilities]
    user = guest.user or 0
    open_files = min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": user, "gid": user, "umask": 0o022},
            "args": list(guest.command),
            "env": [f"PATH={PATH}", f"HOSTNAME={guest.instance[:63]}", "HOME=/"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": open_files, "hard": open_files}],
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": guest.instance[:63],
        "mounts": _mounts(guest, overlay),
        "linux": {
            "cgroupsPath": f"/{GROUP}/{guest.vnf_id}",
            "namespaces": [
                {"type": "network", "path": namespace},
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
            ],
            "sysctl": guest.sysctls,
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "resources": {
                **limits_of(guest.vcpu, guest.memory_bytes),
                "devices": [{"allow": False, "access": "rwm"}],
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": list(_FORBIDDEN_CALLS), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
            },
        },
    }
