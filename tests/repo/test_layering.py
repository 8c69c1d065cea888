"""Imports point downwards, and the rules that keep modules readable: checked in the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("nfio", "hypervisor", "middleboxes")

FILE_LINES = 400
FUNCTION_LINES = 60

#: nfio's modules that may know FUSE: the adapter, and the binding itself
KNOW_FUSE = {"nfio.filesystem", "nfio._fuse"}

#: what those above drivers may know of the package they are in
NO_DRIVER = {"hypervisor.hypervisor_base", "hypervisor.network_namespace"}

#: what may be imported only where it is wrapped
ONLY_IN = {
    "fuse": {"nfio._fuse"},
    "docker": {"hypervisor.docker_"},
    "urllib3": {"hypervisor.docker_"},
    "requests": {"hypervisor.docker_"},
    "pyroute2": {"middleboxes.host.link_table", "hypervisor.native_network"},
    "libvirt": {"hypervisor.libvirt_"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: str) -> Iterator[str]:
    """Full names of the modules that a module imports anywhere, also inside functions."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], base]
                ).strip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def those_of(package: str) -> list[str]:
    return [module for module in MODULES if inside(module, package)]


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 30
    assert set(imports("nfio.filesystem")) >= {"nfio._fuse", "nfio.errors", "hypervisor.hypervisor_factory"}


@pytest.mark.parametrize("module", those_of("hypervisor"))
def test_drivers_know_nothing_of_the_file_system(module: str) -> None:
    for name in imports(module):
        assert not inside(name, "nfio") or name == "nfio.errors", name
        assert not inside(name, "middleboxes"), name


@pytest.mark.parametrize("module", those_of("middleboxes"))
def test_middleboxes_know_no_driver_and_nothing_of_the_file_system(module: str) -> None:
    for name in imports(module):
        assert not inside(name, "nfio") or name == "nfio.errors", name
        assert not inside(name, "hypervisor") or name in NO_DRIVER, name


@pytest.mark.parametrize("module", [module for module in MODULES if module.endswith("_driver")])
def test_no_driver_imports_another(module: str) -> None:
    family = module.removesuffix("_driver")
    foreign = {name for name in MODULES if name.endswith("_driver") and name != module}
    for name in imports(module):
        assert name not in foreign, name
        shared = name.startswith("hypervisor.hypervisor_") or name == "hypervisor"
        assert not inside(name, "hypervisor") or shared or name.startswith(f"{family}_"), name


@pytest.mark.parametrize("module", those_of("nfio"))
def test_nfio_speaks_to_drivers_through_the_base_class_only(module: str) -> None:
    for name in imports(module):
        assert not inside(name, "hypervisor") or name.startswith("hypervisor.hypervisor_"), name


@pytest.mark.parametrize("module", MODULES)
def test_what_is_wrapped_is_imported_only_where_it_is_wrapped(module: str) -> None:
    for name in imports(module):
        wrappers = ONLY_IN.get(name.partition(".")[0])
        assert wrappers is None or any(module.startswith(wrapper) for wrapper in wrappers), name


@pytest.mark.parametrize("module", [module for module in MODULES if module not in KNOW_FUSE])
def test_nothing_below_the_adapter_knows_fuse(module: str) -> None:
    for name in imports(module):
        assert name != "nfio._fuse"
        # The command line mounts: it imports the adapter, and nothing else of nfio's does.
        assert name != "nfio.filesystem" or module in ("nfio", "nfio.mounting")


def test_imports_go_round_in_no_circle() -> None:
    """At the top of modules: what is imported inside a function is imported when it is called."""

    def at_top(module: str) -> set[str]:
        names = set()
        for node in tree(MODULES[module]).body:
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (full & set(MODULES)) or {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        return names & set(MODULES) - {module}

    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in at_top(module):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


# -- readable modules ---------------------------------------------------------------------------


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_a_reader_bears(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_no_test_module_is_either(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("module", MODULES)
def test_no_function_is_longer_than_a_screen(module: str) -> None:
    for node in functions(module):
        assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, f"{node.name}, line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_and_class_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(tree(MODULES[module])), module
    for node in tree(MODULES[module]).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            # An error that is nothing but an errno is described in the tree at the module's top.
            one_errno = module == "nfio.errors" and not any(isinstance(n, ast.FunctionDef) for n in node.body)
            assert ast.get_docstring(node) or one_errno, f"class {node.name}, line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_says_what_it_does(module: str) -> None:
    """Functions of a module; methods say it where their class or the method they implement does not."""
    for node in tree(MODULES[module]).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name}, line {node.lineno}"


# -- what is never done ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_no_shell_is_given_a_line_and_no_process_is_ended_by_its_name(module: str) -> None:
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("os.system", "os.popen", "subprocess.getoutput", "eval"), (
                f"line {node.lineno}"
            )
            for keyword in node.keywords:
                given = isinstance(keyword.value, ast.Constant) and keyword.value.value
                assert keyword.arg != "shell" or not given, f"line {node.lineno}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in ("pkill", "killall"), f"line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_everything_is_caught_only_where_nothing_may_escape(module: str) -> None:
    """What libfuse calls, the errno boundary, the loader of foreign modules, and the mount's own process."""
    allowed = {"nfio._fuse": 1, "nfio.filesystem": 1, "nfio.modules": 1, "nfio.mounting": 1}
    broad = [
        node.lineno
        for node in ast.walk(tree(MODULES[module]))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)})
        and not any(isinstance(n, ast.Raise) and n.exc is None for n in node.body)
    ]  # fmt: skip
    assert len(broad) <= allowed.get(module, 0), f"lines {broad}"
