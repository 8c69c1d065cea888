"""A machine that nfio itself runs on, with Native: what that needs, and nothing of nfio's."""

from middleboxes import Middlebox, Recipe

MIDDLEBOX = Middlebox(
    type="host",
    summary="a host",
    recipe=Recipe(
        packages=(
            "conmon",
            "conntrack",
            "crun",
            "fuse3",
            "iproute2",
            "kmod",
            "libfuse2",
            "libpython3-stdlib",
            "mount",
            "nftables",
            "python3-minimal",
            "runc",
            "util-linux",
        )
    ),
    check=("true",),
    run=("sleep", "infinity"),
    reload=("true",),
)
