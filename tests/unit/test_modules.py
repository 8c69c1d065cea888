"""The module root: files that declare VNF types."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from world import PLAIN_TYPE

from nfio.errors import NotPermitted
from nfio.modules import DEFAULT, ModuleRoot, resolve


def declare(directory: Path, name: str, text: str | None = None) -> Path:
    path = directory / f"{name}.py"
    path.write_text(PLAIN_TYPE.replace('"plain"', f'"{name}"') if text is None else text)
    return path


@pytest.fixture
def modules(tmp_path: Path) -> ModuleRoot:
    declare(tmp_path, "one")
    return ModuleRoot(tmp_path)


CATALOGUE = "dhcp dns firewall ids loadbalancer nat proxy router shaper web"


def test_nfio_comes_with_its_catalogue() -> None:
    modules = ModuleRoot(resolve(DEFAULT))
    assert sorted(modules.types()) == CATALOGUE.split()
    assert modules.broken == {}


def test_a_file_dropped_in_is_a_type_and_one_removed_is_none(modules: ModuleRoot) -> None:
    assert set(modules.types()) == {"one"}
    path = declare(modules.directory, "two")
    assert set(modules.types()) == {"one", "two"}
    assert modules.require("two").type == "two"
    path.unlink()
    assert set(modules.types()) == {"one"} and modules.get("two") is None
    with pytest.raises(NotPermitted, match=r"there is no two\.py"):
        modules.require("two")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def", "SyntaxError"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import no_such_module", "no_such_module"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "does not assign a middleboxes.Middlebox"),
        ("MIDDLEBOX = 'web'", "does not assign a middleboxes.Middlebox"),
        (PLAIN_TYPE, "its type 'plain' must be"),
        (PLAIN_TYPE.replace('"plain"', '"broken"').replace('"greeting"', '"action"'), "action"),
        (PLAIN_TYPE.replace('"plain"', '"broken"').replace('"greeting"', '"a/b"'), "a/b"),
        ("\0", "ValueError|SyntaxError"),
        ("x = '\udcff'", "SyntaxError"),
    ],
)
def test_a_broken_file_is_reported_once_and_hurts_no_other(
    modules: ModuleRoot, text: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    (modules.directory / "broken.py").write_bytes(text.encode(errors="surrogateescape"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert set(modules.types()) == {"one"}
    assert len(caplog.records) == 1
    assert set(modules.broken) == {"broken"}
    with pytest.raises(NotPermitted, match=words):
        modules.require("broken")


def test_a_broken_edit_leaves_the_last_good_declaration(modules: ModuleRoot) -> None:
    good = modules.require("one")
    declare(modules.directory, "one", "def")
    assert modules.require("one") is good and "one" in modules.broken
    declare(modules.directory, "one", PLAIN_TYPE.replace('"plain"', '"one"').replace("nothing", "something"))
    assert modules.require("one").summary == "something in particular" and modules.broken == {}


def test_what_was_broken_is_forgotten_with_its_file(modules: ModuleRoot) -> None:
    path = declare(modules.directory, "broken", "def")
    modules.types()
    path.unlink()
    modules.types()
    assert modules.broken == {}


def test_other_files_are_no_types(modules: ModuleRoot) -> None:
    for name in ("__init__.py", "_private.py", ".hidden.py", "notes.txt", "one.pyc"):
        (modules.directory / name).write_text("nothing that could be run")
    (modules.directory / "directory.py").mkdir()
    assert set(modules.types()) == {"one"} and modules.broken == {}


def test_nothing_is_written_into_the_module_root(modules: ModuleRoot) -> None:
    modules.types()
    assert [path.name for path in modules.directory.iterdir()] == ["one.py"]


def test_a_module_root_that_goes_away_keeps_its_types_and_is_reported(tmp_path: Path) -> None:
    directory = tmp_path / "types"
    directory.mkdir()
    declare(directory, "one")
    modules = ModuleRoot(directory)
    good = modules.require("one")
    directory.rename(tmp_path / "elsewhere")
    assert modules.require("one") is good
    assert "No such file or directory" in modules.broken[""]
    (tmp_path / "elsewhere").rename(directory)
    assert modules.require("one") is good and modules.broken == {}
    declare(directory, "two")
    assert set(modules.types()) == {"one", "two"} and modules.broken == {}


def test_a_module_root_that_is_missing_has_no_types(tmp_path: Path) -> None:
    modules = ModuleRoot(tmp_path / "none")
    assert modules.types() == {}
    with pytest.raises(NotPermitted):
        modules.require("one")
