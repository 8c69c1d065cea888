"""Programs that keep capabilities as a user of their own (capabilities(7): ambient).

No engine starts a program like that: Docker gives the capabilities of a type to root alone. So its
first program becomes that user by itself, with capsh of libcap2-bin.
"""

from __future__ import annotations


def as_user(
    uid: int, script: str, *, capabilities: tuple[str, ...] = (), groups: tuple[int, ...] = ()
) -> tuple[str, ...]:
    """A command that runs a shell script as a user, in the group of the same number.

    The type declares SETUID and SETGID beside those capabilities, and the package libcap2-bin.

    Args:
        capabilities: those that it keeps, and whatever it starts: ``NET_ADMIN``. It has no others.
        groups: further ones.
    """
    members = ",".join(str(group) for group in (uid, *groups))
    become = ("--keep=1", f"--gid={uid}", f"--groups={members}", f"--uid={uid}")
    kept = ",".join(f"cap_{name.lower()}" for name in capabilities)
    keep = (f"--inh={kept}", f"--addamb={kept}") if kept else ()
    return ("capsh", *become, *keep, "--shell=/bin/sh", "--", "-c", script)
