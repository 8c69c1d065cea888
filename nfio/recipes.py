"""What an image holds, from a type's recipe: the same for every engine."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

from hypervisor.hypervisor_base import READY_LINE, REJECTED_LINE, Function
from middleboxes import Middlebox

SUITE = "bookworm"
#: What every image holds beside the function: a shell and the small tools (ip, ps, ping, wget).
BASE = ("busybox-static", "base-passwd")
INIT = "/usr/lib/nfio/init"


def init_script(middlebox: Middlebox) -> str:
    """The first program of a guest: checks the configuration, says so, runs the function.

    Its first console line is READY_LINE once the function serves, or REJECTED_LINE and the
    checker's words, after which it ends with EX_CONFIG (78).
    """
    lines = [
        "#!/bin/sh",
        f"if ! words=$({shlex.join(middlebox.apply or middlebox.check)} 2>&1); then",
        f"    printf '%s\\n%s\\n' '{REJECTED_LINE}' \"$words\"",
        "    exit 78",
        "fi",
    ]
    say_ready = f"echo '{READY_LINE}'"
    if middlebox.run is None:
        lines += [
            "trap 'exit 0' TERM INT",
            say_ready,
            "while :; do sleep 86400 & wait $!; done",
        ]
    elif middlebox.ready:
        lines += [
            f"(while ! {middlebox.ready}; do sleep 0.01; done; {say_ready}) &",
            f"exec {shlex.join(middlebox.run)}",
        ]
    else:
        lines += [say_ready, f"exec {shlex.join(middlebox.run)}"]
    return "\n".join([*lines, ""])


def setup_script(middlebox: Middlebox) -> str:
    """What mmdebstrap runs with the new root as its argument, once the packages are unpacked."""
    inside = "\n".join(
        [
            "set -e",
            # Links to the small tools, where no package has brought a program of that name.
            "for tool in $(/bin/busybox --list); do",
            '    [ -e "/bin/$tool" ] || [ -e "/sbin/$tool" ] || [ -e "/usr/sbin/$tool" ]'
            ' || [ -e "/usr/bin/$tool" ] || /bin/busybox ln -s /bin/busybox "/usr/bin/$tool"',
            "done",
            # Nothing is configured in this root: accounts come from base-passwd's own lists.
            "cp /usr/share/base-passwd/passwd.master /etc/passwd",
            "cp /usr/share/base-passwd/group.master /etc/group",
            *middlebox.recipe.setup,
        ]
    )
    # Only nfio's own programs are written here, and a type's: the text comes from its module.
    return "\n".join(
        [
            "#!/bin/sh",
            "set -e",
            f'cd "$1" && mkdir -p .{Path(INIT).parent} etc/nfio tmp usr/bin usr/sbin proc sys dev run',
            'chmod 1777 "$1/tmp"',
            f"cat > \"$1{INIT}\" <<'NFIO_END'\n{init_script(middlebox)}NFIO_END",
            f'chmod 755 "$1{INIT}"',
            'ln -sf busybox "$1/bin/sh"',
            f'chroot "$1" /bin/sh -c {shlex.quote(inside)}',
            'rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/cache/apt/*',
            "",
        ]
    )


def programs(middlebox: Middlebox) -> tuple[str, ...]:
    """What its commands run, by name."""
    commands = (middlebox.check, middlebox.apply, middlebox.run, middlebox.reload)
    return tuple(dict.fromkeys(command[0] for command in commands if command))


def function_of(middlebox: Middlebox) -> Function:
    """How the function is brought to serve on a root file system that was not made for it."""
    return Function(
        init=init_script(middlebox),
        setup=middlebox.recipe.setup,
        programs=programs(middlebox),
        packages=middlebox.recipe.packages,
    )


def recipe_hash(middlebox: Middlebox, image_packages: tuple[str, ...] = ()) -> str:
    """Changes whenever an image made now would differ from one made before, but for updates.

    Args:
        image_packages: what the engine adds to the function's own packages.
    """
    text = json.dumps([SUITE, BASE, image_packages, middlebox.recipe.packages, setup_script(middlebox)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
