"""The interface of a middlebox type.

A file of the module root that assigns a ``Middlebox`` to ``MIDDLEBOX`` is a type: its name
appears in ``nf-types/``. The declaration says what image the function needs, how its
configuration is checked and applied, and which live files it has beside the common ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from middleboxes.host.guest import Guest

__all__ = ["Guest", "LiveFile", "Middlebox", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What an image of the function holds, whatever engine it is built for.

    Attributes:
        packages: Debian packages.
        setup: shell commands run once inside the new root file system, as root.
    """

    packages: tuple[str, ...]
    setup: tuple[str, ...] = ()


@dataclass(frozen=True)
class LiveFile:
    """A file whose content is asked for when it is opened.

    Attributes:
        read: gives the value; text is served as it is, a number in decimal with a newline.
            Raises an NfioError when there is none to give.
        summary: one line for the reference: what it reads, in which unit, from where.
    """

    read: Callable[[Guest], str | int]
    summary: str


@dataclass(frozen=True)
class Middlebox:
    """A VNF type.

    Commands are argument lists, run in the VNF. The files of the instance's ``config/`` are in
    ``/etc/nfio`` there, among them ``/etc/nfio/nf_conf``.

    Attributes:
        type: the directory's name in ``nf-types/``; the same as the module's file name.
        summary: one line.
        recipe: what its image holds.
        check: exits non-zero, and says why on stderr, if the configuration is not valid.
        apply: applies the configuration before ``run``, and refuses one that is not valid, as
            ``check`` does; None where ``run`` reads it itself, after ``check``.
        run: the program that serves, in the foreground; None where the kernel does the work.
        ready: a shell condition that is true once ``run`` serves; empty: at once.
        reload: applies a changed configuration to the running function.
        default_config: ``config/nf_conf`` of a new instance.
        capabilities: Linux capabilities the function needs; it gets no others.
        sysctls: of its network namespace.
        user: uid it runs as; None is root without any capability but the declared.
        render: files that nfio adds to ``/etc/nfio``, by name, from the packets that the
            function has dropped so far (so that a count can go on over a reload).
        live: the type's own live files, by name.
        drops: packets dropped on purpose since the VNF was started.
    """

    type: str
    summary: str
    recipe: Recipe
    check: tuple[str, ...]
    reload: tuple[str, ...]
    run: tuple[str, ...] | None = None
    apply: tuple[str, ...] | None = None
    ready: str = ""
    default_config: str = ""
    capabilities: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None
    render: Callable[[int], Mapping[str, str]] | None = None
    live: Mapping[str, LiveFile] = field(default_factory=dict)
    drops: Callable[[Guest], int] | None = None

    @property
    def image(self) -> str:
        """The image that ``nfio image build`` makes, and ``vm.image`` of a new instance."""
        return f"nfio/{self.type}"
