"""The reference says what the code does: neither leaves out what the other has."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import errno
import importlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from hypervisor.hypervisor_base import BootOptions
from hypervisor.hypervisor_factory import DRIVERS
from middleboxes import Directory, File, Knob, Middlebox, Order
from nfio import cli, errors, metrics, states, values
from nfio.modules import DEFAULT, ModuleRoot, resolve
from nfio.tree import FILES

REPO = Path(__file__).parents[2]
DOCS = REPO / "docs"
REFERENCE = DOCS / "reference"
TYPES = ModuleRoot(resolve(DEFAULT)).types()
#: words of capital letters that look like an errno
NO_ERRNOS = {"END", "ENGINE", "ENGINES", "ERROR", "EXITED"}


def pages() -> list[Path]:
    """All Markdown of the repository that is, or may come to be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    return [REPO / name for name in sorted(set(listed.stdout.splitlines())) if (REPO / name).exists()]


def section(page: Path, title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", page.read_text(), re.MULTILINE)
    assert found, f"{page.name} has no section {title!r}"
    rest = page.read_text()[found.end() :]
    return re.split(rf"^#{{1,{len(found[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(page: Path, title: str) -> list[list[str]]:
    """The rows of a section's tables without their headings; backquotes are taken off."""
    rows: list[list[str]] = []
    lines = section(page, title).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("| ---"):
            rows = [row for row in rows if row != cells(before)]
        elif line.startswith("|"):
            rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip().strip("|").split(" | ")]


def slugs(page: Path) -> set[str]:
    """Anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_file_of_an_instance_is_in_the_reference_with_its_mode() -> None:
    rows = table(REFERENCE / "filesystem.md", "Files of an instance")
    assert {row[0]: int(row[1], 8) for row in rows} == {name: spec.mode for name, spec in FILES.items()}


def test_every_word_has_its_states_in_the_reference() -> None:
    rows = table(REFERENCE / "filesystem.md", "Words")
    # From the state it leads to a word does nothing; the page says so once for all.
    told = {row[0]: ({*row[1].split(", ")} - {row[2]}, row[2]) for row in rows}
    meant = {
        word: ({state.name for state in move.sources} - {move.target.name}, move.target.name)
        for word, move in states.MOVES.items()
    }
    assert told == meant
    assert {row[0] for row in rows if row[2] in row[1].split(", ")} == states.ALWAYS_ACT


def test_every_state_is_in_the_reference_with_its_number() -> None:
    rows = table(REFERENCE / "filesystem.md", "States")
    assert {row[0]: int(row[1]) for row in rows} == {state.name: state.value for state in states.State}


def test_every_key_of_boot_conf_is_in_the_reference() -> None:
    rows = table(REFERENCE / "filesystem.md", "boot.conf")
    keys = {field.name for kind in (values.BootConfig, BootOptions) for field in dataclasses.fields(kind)}
    assert {row[0] for row in rows} == keys - {"options"}


def error_classes(base: type[errors.NfioError] = errors.NfioError) -> Iterator[type[errors.NfioError]]:
    if base.__module__ == errors.__name__:
        yield base
    for derived in base.__subclasses__():
        yield from error_classes(derived)


def test_every_error_is_in_the_reference_with_its_errno() -> None:
    rows = table(REFERENCE / "errnos.md", "Errnos")
    told = {row[1]: getattr(errno, row[0]) for row in rows}
    assert told == {kind.__name__: kind.errno for kind in error_classes()}


def test_every_errno_of_the_errors_is_in_the_table_of_symptoms_or_plain_unix() -> None:
    rows = table(DOCS / "howto" / "troubleshoot.md", "By symptom")
    told = {getattr(errno, row[1]) for row in rows}
    plain = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY}
    assert {kind.errno for kind in error_classes()} - plain <= told


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPO)))
def test_no_page_names_an_errno_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"\bE[A-Z]{3,}\b", page.read_text())) - NO_ERRNOS
    assert {name for name in named if not name.startswith("EX")} <= {*errno.errorcode.values(), "EOPNOTSUPP"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def test_every_command_and_option_is_in_the_reference() -> None:
    page = REFERENCE / "command-line.md"
    told = {}
    for title in re.findall(r"^## (nfio .+)$", page.read_text(), re.MULTILINE):
        command = " ".join(re.findall(r"\b[a-z]+\b", title))
        told[command] = {row[0].split()[0] for row in table(page, title)}
    made = {}
    for parser in parsers(cli._parser()):
        if not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
            options = {name for action in parser._actions for name in action.option_strings}
            made[parser.prog] = options - {"-h", "--help"}
    assert told == made
    whole = {name for parser in parsers(cli._parser()) for a in parser._actions for name in a.option_strings}
    assert set(re.findall(r"`(--?[a-z][a-z-]*)", page.read_text())) == whole


def variables_of(sources: Iterable[Path]) -> set[str]:
    """Environment variables that modules read."""
    found = (re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', source.read_text()) for source in sources)
    return {name for names in found for name in names}


def test_every_environment_variable_is_in_the_reference() -> None:
    used = variables_of(
        [*REPO.glob("nfio/*.py"), *REPO.glob("hypervisor/*.py"), REPO / "tests" / "probes.py"]
    )
    assert {row[0] for row in table(REFERENCE / "command-line.md", "Environment")} == used


@pytest.mark.parametrize("name", DRIVERS)
def test_every_driver_has_a_page_with_its_settings(name: str) -> None:
    page = REFERENCE / "hypervisors" / f"{name.lower()}.md"
    used = variables_of(REPO.glob(f"hypervisor/{name.lower()}_*.py"))
    assert {row[0] for row in table(page, "Settings")} == used


def test_no_page_describes_a_driver_that_is_not_there() -> None:
    pages = {page.stem for page in (REFERENCE / "hypervisors").glob("*.md")}
    assert pages <= {name.lower() for name in DRIVERS}


def test_every_metric_is_in_its_page() -> None:
    page = DOCS / "howto" / "monitor-with-prometheus.md"
    rows = table(page, "Metrics")
    assert {row[0]: row[1] for row in rows} == {name: kind for name, (kind, _) in metrics._FAMILIES.items()}
    assert set(re.findall(r"\bnfio_\w+", page.read_text())) == set(metrics._FAMILIES) | {"nfio_vnf_up"}


def mode_of(path: str, file: File) -> str:
    """How a page says what may be done with a file; "" for a directory that nobody makes."""
    if isinstance(file, Directory):
        return "mkdir" if path.endswith("*") else ""
    return "rw" if isinstance(file, Knob) else "w" if isinstance(file, Order) else "r"


@pytest.mark.parametrize("middlebox", TYPES.values(), ids=TYPES)
def test_every_type_has_a_page_with_its_files(middlebox: Middlebox) -> None:
    page = REFERENCE / "middleboxes" / f"{middlebox.type}.md"
    modes = {path: mode_of(path, file) for path, file in middlebox.all_files()}
    assert {row[0]: row[1] for row in table(page, "Files")} == {
        path: mode for path, mode in modes.items() if mode
    }
    facts = {row[0]: row[1] for row in table(page, middlebox.type) if len(row) == 2}
    assert middlebox.image in facts["image"]
    assert all(name in facts["capabilities"] for name in middlebox.capabilities or ("none",))
    assert all(f"{key}={value}" in facts["sysctls"] for key, value in middlebox.sysctls.items())
    assert f"(middleboxes/{middlebox.type}.md)" in (REFERENCE / "filesystem.md").read_text()


def test_no_page_describes_a_type_that_is_not_there() -> None:
    assert {page.stem for page in (REFERENCE / "middleboxes").glob("*.md")} == set(TYPES)


def api() -> list[tuple[str, str]]:
    """Module and class of every section of the API's page."""
    found, module = [], ""
    for level, title in re.findall(r"^(##+) (\S+)$", (REFERENCE / "python-api.md").read_text(), re.MULTILINE):
        if level == "##":
            module = title
        else:
            found.append((module, title))
    return found


def public(kind: type) -> set[str]:
    """What a class itself offers by name."""
    if issubclass(kind, enum.Enum):
        return set(kind.__members__)
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    return {name for name in {*vars(kind), *fields} if not name.startswith("_")}


@pytest.mark.parametrize(("module", "name"), api(), ids=lambda part: part)
def test_every_member_of_the_api_is_in_the_reference(module: str, name: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    text = section(REFERENCE / "python-api.md", name)
    named = set(re.findall(r"`(\w+)`", text))
    assert public(kind) <= named | ({"use_ns"} & public(kind))
    # The first cells, or the list where there is no table, name members and nothing else.
    for row in re.findall(r"^\| (`[^|]+`)[^|]*\|", text, re.MULTILINE):
        assert {member for member in re.findall(r"`(\w+)`", row) if not hasattr(kind, member)} <= public(kind)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPO)))
def test_every_relative_link_resolves(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in slugs(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPO)))
def test_no_page_names_a_place_on_a_developers_machine(page: Path) -> None:
    assert not re.findall(r"(?<![\w/])/(?:home|work|root|Users)/\S*", page.read_text())
    assert str(REPO) not in page.read_text()


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        if page != DOCS / "README.md":
            assert f"({page.relative_to(DOCS)})" in index, page
