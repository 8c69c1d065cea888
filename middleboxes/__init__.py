"""The interface of a middlebox type.

A file of the module root that assigns a ``Middlebox`` to ``MIDDLEBOX`` is a type: its name
appears in ``nf-types/``. The declaration says what image the function needs, how its
configuration is checked and applied, and which files it has beside the common ones.

A file is one of five: a ``LiveFile`` is asked for when it is read, a ``Knob`` keeps a value that
becomes part of the configuration, an ``Order`` does something to the running function, a
``Stream`` blocks until the function says more, and a ``Directory`` holds such files, or entries
that users make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from middleboxes.host.guest import Guest

__all__ = [
    "Directory",
    "File",
    "Guest",
    "Knob",
    "LiveFile",
    "Middlebox",
    "Order",
    "Recipe",
    "Settings",
    "Stream",
    "accept",
]


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
class Settings:
    """What a configuration is made from, beside the files of ``config/``.

    Attributes:
        values: content of every knob by its path (``policy``, ``backends/a/weight``), without the
            white space around it.
        made: names of the entries that users made, sorted, by the path of their directory.
        drops: packets that the function has dropped so far, so that a count can go on.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drops: int = 0

    def __getitem__(self, path: str) -> str:
        return self.values[path]

    def lines(self, path: str) -> list[str]:
        """A knob's lines, without empty ones and those that begin with #."""
        lines = (line.strip() for line in self.values[path].splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    def names(self, directory: str) -> tuple[str, ...]:
        """The entries that users made in a directory."""
        return self.made.get(directory, ())


def accept(_text: str) -> None:
    """The check of a knob, or of a name, that takes anything."""


@dataclass(frozen=True)
class LiveFile:
    """A file whose content is asked for when it is opened.

    Attributes:
        read: gives the value; text is served as it is, a number in decimal with a newline. Called
            with the guest, and with the names of the entries that the file is in. Raises an
            NfioError when there is none to give.
        summary: one line for the reference: what it reads, in which unit, from where.
    """

    read: Callable[..., str | int]
    summary: str


@dataclass(frozen=True)
class Knob:
    """A file that keeps a value, from which ``Middlebox.render`` makes a part of the configuration.

    A write that is refused changes nothing. While the VNF runs, a write that is accepted is in
    force when it returns; else it is when the VNF is started.

    Attributes:
        check: raises ValueError, with the reason in words, if it does not take that text; an
            NfioError where the text is right and this host cannot do it.
        default: its content until somebody writes to it.
        lines: it holds lines, to which ``>>`` adds; else one value, of which ``>>`` takes the place.
        apply: puts the new settings in force without a reload. Called with the guest, the settings
            and the names of the entries that the file is in; an NfioError means that the old ones
            are in force. None: ``Middlebox.reload`` does it, as it does where this host cannot look
            into the guest.
    """

    summary: str
    check: Callable[[str], object] = accept
    default: str = ""
    lines: bool = False
    apply: Callable[..., None] | None = None


@dataclass(frozen=True)
class Order:
    """A file that reads empty; each write to it does something to the running function.

    Attributes:
        give: called with the guest, the text without the white space around it, and the names of
            the entries that the file is in. Raises ValueError if the text is no such order.
    """

    summary: str
    give: Callable[..., None]


@dataclass(frozen=True)
class Stream:
    """A file whose readers block until the function adds lines to a file of its own.

    Attributes:
        path: that file in the guest.
    """

    summary: str
    path: str


@dataclass(frozen=True)
class Directory:
    """A directory of the type's own.

    Attributes:
        files: what it holds by itself.
        entries: what users may make in it: a ``Directory`` by mkdir, or a ``Knob`` by writing a
            file, which ``rm`` removes again. None: nothing.
        check: raises ValueError, with the reason in words, for a name that no entry may have.
        apply: of a directory that is an entry: called, as a ``Knob``'s, when it was made or removed.
    """

    summary: str
    files: Mapping[str, File] = field(default_factory=dict)
    entries: Directory | Knob | None = None
    check: Callable[[str], object] = accept
    apply: Callable[..., None] | None = None


File = LiveFile | Knob | Order | Stream | Directory


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
        render: files that nfio adds to ``/etc/nfio``, by name, made from the type's settings.
        files: the type's own files, by name. The names of the common files are taken.
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
    render: Callable[[Settings], Mapping[str, str]] | None = None
    files: Mapping[str, File] = field(default_factory=dict)
    drops: Callable[[Guest], int] | None = None

    @property
    def image(self) -> str:
        """The image that ``nfio image build`` makes, and ``vm.image`` of a new instance."""
        return f"nfio/{self.type}"

    def all_files(self) -> Iterator[tuple[str, File]]:
        """Every file and directory by its path, in which ``*`` stands for an entry's name."""
        yield from _below("", self.files)


def _below(place: str, files: Mapping[str, File]) -> Iterator[tuple[str, File]]:
    for name, file in files.items():
        yield f"{place}{name}", file
        if isinstance(file, Directory):
            inner: dict[str, File] = dict(file.files)
            if file.entries is not None:
                inner["*"] = file.entries
            yield from _below(f"{place}{name}/", inner)
