"""The persistent root."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfio.errors import AlreadyExists, Busy
from nfio.store import RECORD, Record, Store

ME = (os.getuid(), os.getgid())
FILES = {"config/nf_conf": b"rules\n", "machine/vm.image": b"nfio/plain\n"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "root")
    made.acquire("/mnt")
    yield made
    made.release()


def tree(path: Path) -> dict[str, bytes | None]:
    return {
        str(found.relative_to(path)): found.read_bytes() if found.is_file() else None
        for found in path.rglob("*")
    }


def test_an_instance_is_made_whole(store: Store) -> None:
    record = store.create_instance("plain", "a", 0o750, ME, FILES)
    assert list(store.instances()) == [("plain", "a")]
    place = store.instance("plain", "a")
    assert {name for name, content in tree(place).items() if content is None} == {
        "config",
        "machine",
        "stats",
    }
    assert {file: (place / file).read_bytes() for file in FILES} == FILES
    assert stat.S_IMODE(place.stat().st_mode) == stat.S_IMODE((place / "config").stat().st_mode) == 0o750
    assert stat.S_IMODE((place / "config/nf_conf").stat().st_mode) == 0o644
    assert store.read_record("plain", "a") == record
    assert os.listdir(store.own / "new") == []


def test_an_instance_that_cannot_be_made_whole_is_not_there_at_all(store: Store) -> None:
    with pytest.raises(OSError):
        store.create_instance("plain", "a", 0o755, ME, {"config/nf_conf": b"", "config/nf_conf/below": b""})
    assert list(store.instances()) == [] and os.listdir(store.own / "new") == []


def test_a_second_instance_of_a_name_is_refused_and_changes_nothing(store: Store) -> None:
    store.create_instance("plain", "a", 0o755, ME, FILES)
    before = tree(store.root)
    with pytest.raises(AlreadyExists):
        store.create_instance("plain", "a", 0o755, ME, {"config/nf_conf": b"others\n"})
    assert tree(store.root) == before
    store.create_instance("other", "a", 0o755, ME, FILES)
    assert list(store.instances()) == [("other", "a"), ("plain", "a")]


def test_of_many_who_make_one_instance_at_once_one_succeeds(store: Store) -> None:
    made: list[Record] = []

    def make() -> None:
        try:
            made.append(store.create_instance("plain", "a", 0o755, ME, FILES))
        except (AlreadyExists, OSError):
            pass

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.uuid for record in made] == [store.read_record("plain", "a").uuid]
    assert os.listdir(store.own / "new") == []


def test_an_instance_is_removed_with_all_that_is_kept_for_its_guest(store: Store) -> None:
    record = store.create_instance("plain", "a", 0o755, ME, FILES)
    store.guest_dir(record.uuid).mkdir()
    store.remove_instance("plain", "a", record.uuid)
    assert list(store.instances()) == []
    assert not store.guest_dir(record.uuid).exists() and os.listdir(store.own / "trash") == []


def test_a_record_outlives_the_process(store: Store) -> None:
    record = store.create_instance("plain", "a", 0o755, ME, FILES)
    record.intent, record.action, record.error = "RUNNING", "activate", "what went wrong: “ä”"
    store.write_record("plain", "a", record)
    assert Store(store.root).read_record("plain", "a") == record
    assert json.loads((store.instance("plain", "a") / RECORD).read_text())["uuid"] == record.uuid


def test_a_write_keeps_mode_and_owner_and_leaves_nothing_beside_it(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    store.write(file, b"old", mode=0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o664)
    before = file.stat().st_ino
    store.write(file, b"new")
    assert file.read_bytes() == b"new" and file.stat().st_ino != before
    assert stat.S_IMODE(file.stat().st_mode) == 0o664
    assert set(os.listdir(tmp_path)) == {"file", "root"}


def test_a_write_that_fails_leaves_the_old_content(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    (directory / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        store.write(directory, b"new")
    assert set(os.listdir(tmp_path)) == {"directory", "root"}


def test_reading_follows_no_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        store.read(tmp_path / "link")
    assert store.read(tmp_path / "missing") == b""


def test_a_root_is_held_by_one_at_a_time(store: Store) -> None:
    second = Store(store.root)
    for _ in range(2):
        with pytest.raises(Busy, match=r"is mounted already at /mnt by process \d+"):
            second.acquire("/mnt2")
    second.release()
    assert second.root_id == ""
    store.release()
    second.acquire("/mnt2")
    assert second.root_id == store.root_id
    with pytest.raises(Busy, match="/mnt2"):
        store.acquire("/mnt")
    second.release()


def test_what_an_earlier_process_left_half_done_is_cleared(store: Store) -> None:
    store.create_instance("plain", "a", 0o755, ME, FILES)
    place = store.instance("plain", "a")
    for file in (".action.swp", "config/.nf_conf.aB3xYz", "config/sedAbCdEf", "machine/vm.image~", "4913"):
        (place / file).write_text("half")
    (place / "config" / "mine").write_text("kept")
    (store.own / "new" / "half").mkdir()
    (store.own / "trash" / "half").mkdir()
    before = tree(place)
    store.release()
    store.acquire("/mnt")
    assert os.listdir(store.own / "new") == os.listdir(store.own / "trash") == []
    assert set(before) - set(tree(place)) == {
        ".action.swp", "config/.nf_conf.aB3xYz", "config/sedAbCdEf", "machine/vm.image~", "4913"
    }  # fmt: skip
    assert (place / "config" / "mine").read_text() == "kept"


def test_what_is_no_instance_is_passed_over(store: Store) -> None:
    (store.types / "plain" / "half").mkdir(parents=True)
    (store.types / "file").write_text("")
    assert list(store.instances()) == []


def test_nobody_else_can_look_into_the_own_directory(store: Store) -> None:
    assert stat.S_IMODE(store.own.stat().st_mode) == 0o700


def test_a_copy_of_a_root_is_refused_until_it_is_said_which_of_the_two_it_is(tmp_path: Path) -> None:
    original = Store(tmp_path / "original")
    original.acquire("/mnt/a")
    original.release()
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    with pytest.raises(Busy, match="copied or restored"):
        copy.acquire("/mnt/b")
    (copy.own / "root-id").unlink()
    copy.acquire("/mnt/b")
    assert copy.root_id != original.root_id
    copy.release()
    shutil.copytree(tmp_path / "original", tmp_path / "restored")
    (tmp_path / "restored" / ".nfio" / "root-inode").unlink()
    restored = Store(tmp_path / "restored")
    restored.acquire("/mnt/c")
    assert restored.root_id == original.root_id
    restored.release()


def test_a_root_that_was_renamed_is_the_same_root(tmp_path: Path) -> None:
    store = Store(tmp_path / "old")
    store.acquire("/mnt/a")
    store.release()
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Store(tmp_path / "new")
    moved.acquire("/mnt/a")
    assert moved.root_id == store.root_id
    moved.release()
