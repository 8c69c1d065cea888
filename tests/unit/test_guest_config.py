"""What a guest sees of its configuration."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nfio.guest_config import GuestConfig


@pytest.fixture
def config(tmp_path: Path) -> GuestConfig:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "nf_conf").write_bytes(b"rules\n")
    return GuestConfig(tmp_path / "config", tmp_path / "guest" / "uuid")


def test_the_guest_sees_the_files_and_what_nfio_adds(config: GuestConfig) -> None:
    assert config.current() == {}
    (config.config_dir / "extra").write_bytes(b"\xff\0")
    config.replace({"added": b"by nfio"})
    assert config.current() == {"nf_conf": b"rules\n", "extra": b"\xff\0", "added": b"by nfio"}


def test_what_was_removed_goes_and_the_directory_stays_the_same(config: GuestConfig) -> None:
    (config.config_dir / "extra").write_bytes(b"")
    config.replace({"added": b""})
    before = config.guest_dir.stat().st_ino
    (config.config_dir / "extra").unlink()
    (config.config_dir / "nf_conf").write_bytes(b"new\n")
    config.replace({})
    assert config.current() == {"nf_conf": b"new\n"}
    assert config.guest_dir.stat().st_ino == before


def test_a_link_to_a_file_beside_it_gives_the_guest_that_content(config: GuestConfig) -> None:
    (config.config_dir / "link").symlink_to("nf_conf")
    config.replace({})
    assert config.current() == {"nf_conf": b"rules\n", "link": b"rules\n"}
    assert not (config.guest_dir / "link").is_symlink()


def test_temporary_files_directories_and_what_lies_elsewhere_never_reach_a_guest(
    config: GuestConfig, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"not its business")
    (config.config_dir / "outside").symlink_to(tmp_path / "secret")
    (config.config_dir / "missing").symlink_to("nowhere")
    (config.config_dir / "loop").symlink_to("loop")
    (config.config_dir / ".nf_conf.aB3xYz").write_bytes(b"half")
    (config.config_dir / "nf_conf~").write_bytes(b"old")
    (config.config_dir / "link").symlink_to("/etc/passwd")
    (config.config_dir / "directory").mkdir()
    config.replace({})
    assert set(config.current()) == {"nf_conf"}


def test_a_program_without_privileges_can_read_it_whatever_the_owner_did(config: GuestConfig) -> None:
    (config.config_dir / "nf_conf").chmod(0o600)
    config.replace({})
    assert stat.S_IMODE(config.guest_dir.stat().st_mode) == 0o755
    assert stat.S_IMODE((config.guest_dir / "nf_conf").stat().st_mode) == 0o644


def test_what_it_saw_before_can_be_put_back(config: GuestConfig) -> None:
    config.replace({"added": b"1"})
    before = config.current()
    (config.config_dir / "nf_conf").write_bytes(b"nonsense")
    config.replace({"other": b"2"})
    config.write(before)
    assert config.current() == before
