"""Operations on a type's own files: what they answer, and what a write to one does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from middleboxes import Directory, Guest, Knob, LiveFile, Middlebox, Order, Settings
from nfio.errors import (
    AlreadyExists,
    Busy,
    HypervisorTimeout,
    HypervisorUnreachable,
    InvalidValue,
    NfioError,
    NotEmpty,
    NotFound,
)
from nfio.orchestrator import Orchestrator
from nfio.states import State
from nfio.type_files import (
    Own,
    check_entry,
    default_of,
    entries_of,
    find,
    in_words,
    make_parents,
    settings_of,
)
from nfio.values import MAX_BYTES
from nfio.vnf import Vnf

#: changes the running function to new settings
Apply = Callable[..., None]


class OwnOperations:
    """Reads and writes of the files that the types declare."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator

    # -- reading ----------------------------------------------------------------------------

    def read_live(self, vnf: Vnf, own: Own) -> bytes:
        assert isinstance(own.file, LiveFile)
        value = own.file.read(vnf.running_guest(), *own.entries)
        return f"{value}\n".encode() if isinstance(value, int) else value.encode()

    # -- knobs ------------------------------------------------------------------------------

    def set_value(
        self,
        vnf: Vnf,
        own: Own,
        content: bytes,
        take: Callable[[], None] | None = None,
        *,
        make: bool = False,
    ) -> None:
        """Put the value of a knob in force, then store it.

        Args:
            take: called when it is in force: takes the file away that holds the old one.
            make: an entry that is not there is made.

        Raises:
            InvalidValue (EINVAL): the knob does not take it, or the function refused the
                configuration that it leads to. Nothing has changed.
            NotFound (ENOENT): the entry was removed while this write waited for its turn.
        """
        assert isinstance(own.file, Knob)
        with self._orchestrator.operation(vnf, own.path):
            text = _text(own, content)
            in_words(own.file.check, text, own.path)
            place = vnf.path / own.path
            before = place.read_bytes() if place.exists() else None
            self._require_there(vnf, own.path.rpartition("/")[0] if make else own.path)
            if own.made and before is None:
                check_entry(self._middlebox(vnf), own)
            is_sure = before is not None and not self._orchestrator.store.changing(vnf.uuid).exists()
            with self._changing(vnf):
                if not is_sure or before is None or before.strip() != content.strip():
                    self._put_in_force(vnf, own, own.file.apply, changed={own.path: content})
                with self._or_what_is_stored(vnf):
                    if take is not None and before is not None:
                        take()
                    make_parents(vnf.path, own.path)
                    self._orchestrator.store.write(place, content)
            vnf.emptied.discard(own.path)
            vnf.save(error="")

    def give(self, vnf: Vnf, own: Own, text: str) -> None:
        """Carry out an order. Raises NetworkDown (ENETDOWN) if the VNF does not run."""
        order = own.file
        assert isinstance(order, Order)
        with self._orchestrator.operation(vnf, own.path):
            guest = vnf.running_guest()
            in_words(lambda given: order.give(guest, given, *own.entries), text, own.path)
            vnf.save(error="")

    # -- entries ----------------------------------------------------------------------------

    def make_directory(self, vnf: Vnf, own: Own, mode: int, owner: tuple[int, int]) -> None:
        """mkdir of an entry. Raises AlreadyExists (EEXIST), InvalidValue (EINVAL)."""
        assert isinstance(own.file, Directory)
        place = vnf.path / own.path
        with self._orchestrator.operation(vnf, f"mkdir {own.path}"):
            if place.exists():
                raise AlreadyExists(own.path)
            self._require_there(vnf, own.path.rpartition("/")[0])
            check_entry(self._middlebox(vnf), own)
            with self._changing(vnf):
                self._put_in_force(vnf, own, own.file.apply, changed={f"{own.path}/": b""})
                with self._or_what_is_stored(vnf):
                    make_parents(vnf.path, own.path)
                    _make_place(place, own.file, mode, owner)
            vnf.save(error="")

    def remove(self, vnf: Vnf, own: Own, take: Callable[[], None] | None = None) -> None:
        """rmdir or rm of an entry. Raises NotEmpty (ENOTEMPTY) if others are in it.

        Args:
            take: takes its stored file away, if that is not just removed.
        """
        place = vnf.path / own.path
        with self._orchestrator.operation(vnf, f"rm {own.path}"):
            if not os.path.lexists(place):
                raise NotFound(own.path)
            if isinstance(own.file, Directory) and entries_of(own.file, place):
                raise NotEmpty(own.path)
            apply = own.file.apply if isinstance(own.file, Knob | Directory) else None
            with self._changing(vnf):
                self._put_in_force(vnf, own, apply, without=own.path)
                with self._or_what_is_stored(vnf):
                    if take is not None:
                        take()
                    elif place.is_dir():
                        shutil.rmtree(place)
                    else:
                        place.unlink()
            vnf.save(error="")

    @contextmanager
    def _changing(self, vnf: Vnf) -> Iterator[None]:
        """Leave a mark while what is in force and what is stored may differ: nfio may be killed.

        It stays where the hypervisor did not say what it did. The next mount, or the next write,
        puts in force what is stored.
        """
        mark = self._orchestrator.store.changing(vnf.uuid)
        was_there = mark.exists()
        mark.touch()
        try:
            yield
        except (HypervisorTimeout, HypervisorUnreachable):
            raise
        except BaseException:
            if not was_there:
                mark.unlink(missing_ok=True)
            raise
        mark.unlink(missing_ok=True)

    @contextmanager
    def _or_what_is_stored(self, vnf: Vnf) -> Iterator[None]:
        """What is in force already and cannot be stored, since the disk is full, does not stay in force."""
        try:
            yield
        except OSError:
            with suppress(NfioError, OSError):
                self._orchestrator.renew(vnf)
            raise

    def _require_there(self, vnf: Vnf, path: str) -> None:
        if find(self._middlebox(vnf), vnf.path, path) is None:
            raise NotFound(f"{path} has been removed")

    def renew(self, vnf: Vnf) -> None:
        """Put in force what is stored, where it was changed otherwise."""
        with self._orchestrator.operation(vnf, "renew"):
            self._orchestrator.renew(vnf)

    # -- all --------------------------------------------------------------------------------

    def _middlebox(self, vnf: Vnf) -> Middlebox:
        return self._orchestrator.modules.require(vnf.type)

    def _put_in_force(
        self,
        vnf: Vnf,
        own: Own,
        apply: Apply | None,
        changed: dict[str, bytes] | None = None,
        without: str = "",
    ) -> None:
        self._orchestrator.refresh(vnf)
        if vnf.state is State.PAUSED:
            raise Busy(f"{vnf.label} is PAUSED: resume it before you change {own.path}")
        if vnf.state is not State.RUNNING:
            return  # it is configured when it is started
        settings = settings_of(self._middlebox(vnf), vnf.path, 0, changed, without)
        # Where this host cannot look into the guest, the type's command for it does the work.
        guest = vnf.guest
        if apply is not None and guest is not None and guest.is_open:
            call = partial(_call, apply, guest, entries=own.entries)
            self._orchestrator.configurator.reconfigure(vnf, settings, call)
        else:
            self._orchestrator.configurator.reconfigure(vnf, settings)


def _make_place(place: Path, directory: Directory, mode: int, owner: tuple[int, int]) -> None:
    """Store an entry that is a directory, whole or not at all."""
    place.mkdir()
    try:
        for name, file in directory.files.items():
            if isinstance(file, Knob):
                (place / name).write_bytes(default_of(file))
                (place / name).chmod(0o644)
        for path in (place, *place.iterdir()):
            os.chown(path, *owner)
        place.chmod(mode & 0o777)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _call(apply: Apply, guest: Guest, settings: Settings, entries: tuple[str, ...]) -> None:
    try:
        apply(guest, settings, *entries)
    except ValueError as error:
        raise InvalidValue(str(error)) from None


def _text(own: Own, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise InvalidValue(f"{own.path} takes at most {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise InvalidValue(f"{own.path} takes UTF-8 text") from None
    assert isinstance(own.file, Knob)
    lines = text.splitlines() if own.file.lines else [text]
    if any(not character.isprintable() and character != "\t" for line in lines for character in line):
        raise InvalidValue(f"{own.path} takes {'lines' if own.file.lines else 'one line'} of printable text")
    return text
