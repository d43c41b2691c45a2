"""Imports between folders, purity of the pure layers, and required tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "gateway"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Folder -> the other folders of this package that it may import.
PURE = frozenset({"core", "identity", "limits", "metering"})
EDGE = PURE | {"detect", "config"}
ALLOWED: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "identity": frozenset({"core"}),
    "metering": frozenset({"core"}),
    "limits": PURE - {"limits"},
    "detect": PURE,
    "config": PURE | {"store"},
    "http": EDGE,
    "proxy": EDGE | {"http"},
    "store": frozenset({"core", "detect", "limits"}),
    "sinks": EDGE,
    "alerts": EDGE,
    "admin": EDGE | {"alerts"},
    "offline": EDGE,
    "stream": EDGE,
    "serve": EDGE | {"http", "store"},
    "worker": EDGE | {"http", "proxy", "store", "serve"},
    "control": EDGE | {"admin", "alerts", "serve", "sinks", "store"},
    # Commands with several parts that do not import each other.
    "replay": EDGE | {"store", "stream", "offline", "serve"},
    "demo": EDGE,
    "commands": EDGE | {"replay", "serve", "demo", "offline", "stream"},
    "__main__": frozenset({"commands"}),
    "__init__": frozenset(),
}
# Modules for I/O, clocks and logs, which the pure layers must not import.
BANNED = {
    "aiohttp",
    "asyncio",
    "hiredis",
    "http",
    "httptools",
    "logging",
    "os",
    "pathlib",
    "redis",
    "selectors",
    "socket",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "urllib.request",
    "uvloop",
}
# Unit tests of several small modules that share their fixtures.
SEVERAL_MODULES = {
    "proxy/test_unread.py",  # bodies that cannot be read, through all steps
    "admin/test_console_api.py",  # every route of the API that the console calls
    "serve/test_parts.py",  # background tasks, child processes, ports, store URLs
    "detect/test_outsiders.py",  # what refused clients can do to others, whole detector
}
# Packages that the imports of a worker must not load.
HEAVY = ("rich", "cyclopts", "aiohttp", "redis", "structlog", "watchfiles")


def layer(path: Path) -> str:
    """The layer of a module: its folder, or its own name at the top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def name(path: Path) -> str:
    """The id of a parametrized case."""
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "gateway":
                yield from (f"gateway.{alias.name}" for alias in node.names)


def pure_modules() -> list[Path]:
    """Modules of the layers that must stay pure."""
    return [
        path
        for path in MODULES
        if layer(path) in PURE | {"detect"} and path.stem != "counting"
    ]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_layers(path):
    """A module imports only the folders allowed for its own."""
    mine = layer(path)
    for target in imports(path):
        parts = target.split(".")
        if parts[0] == "gateway" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in ALLOWED[mine] | {mine}, f"{mine} may not import {target}"


@pytest.mark.parametrize("path", pure_modules(), ids=name)
def test_pure_layers_import_no_io(path):
    """The pure layers import no sockets, files, clocks, logs or event loops."""
    for target in imports(path):
        heads = {target, target.split(".")[0]}
        assert not heads & BANNED, f"{target} in a pure module"


@pytest.mark.parametrize("path", pure_modules(), ids=name)
def test_pure_layers_have_no_clock_and_no_coroutines(path):
    """The pure layers read no clock, and only Protocols of ``ports`` are async."""
    for node in ast.walk(ast.parse(path.read_text())):
        if path.stem != "ports":
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), path
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}:
            assert ast.unparse(node.value) not in {
                "datetime",
                "datetime.datetime",
                "date",
                "datetime.date",
            }
        if isinstance(node, ast.Global):
            pytest.fail(f"{path}: global state")


@pytest.mark.parametrize("path", pure_modules(), ids=name)
def test_pure_modules_have_their_own_tests(path):
    """Every module of core and detect with behaviour has its test file."""
    if not any(
        isinstance(node, ast.FunctionDef | ast.Lambda)
        for node in ast.walk(ast.parse(path.read_text()))
    ):
        return
    folder = REPOSITORY / "tests/unit" / path.relative_to(PACKAGE).parent
    stem = path.parent.name if path.stem == "__init__" else path.stem
    if path.stem != "ports":
        assert (folder / f"test_{stem}.py").exists(), f"no test_{stem}.py in {folder}"


def test_unit_tests_are_found_by_the_path_of_their_module():
    """``gateway/X/y.py`` has ``tests/unit/X/test_y.py``; ``loadtests/`` likewise."""
    unit = REPOSITORY / "tests/unit"
    lost = []
    for path in sorted(unit.rglob("test_*.py")):
        place = path.parent.relative_to(unit)
        if place == Path():
            continue  # of the whole tree
        root = REPOSITORY if place.parts[0] == "loadtests" else PACKAGE
        stem = path.stem.removeprefix("test_")
        package = place.name == stem  # the package itself
        test = str(path.relative_to(unit))
        if (
            not package
            and not (root / place / f"{stem}.py").exists()
            and not (root / place / stem / "__init__.py").exists()
            and test not in SEVERAL_MODULES
        ):
            lost.append(test)
    assert lost == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is(path):
    """A module starts with a docstring."""
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree)


def test_every_test_says_what_it_shows():
    """Every test function states the behaviour in a docstring."""
    silent = [
        f"{path.relative_to(REPOSITORY)}::{node.name}"
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_configuration_is_light():
    """Supervisor and workers import the configuration without heavy libraries."""
    program = f"import sys, gateway.config; print(*(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


# Modules that may write the fields of a Flow and of an Exchange.
OWNERS = {"flow": {"flow.py", "exchange.py"}, "exchange": {"exchange.py"}}
# The module of proxy/ that writes the gateway's own answers.
WIRE_WRITERS = {"local_reply.py"}
PROXY_MODULES = sorted((PACKAGE / "proxy").rglob("*.py"))


def written_attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Every attribute that is assigned, augmented or deleted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(
            node.ctx, ast.Store | ast.Del
        ):
            yield node


def names_of(tree: ast.AST, kind: str) -> set[str]:
    """Names that are called ``kind``, annotated with its class or assigned from it."""
    names = {kind}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            if (
                kind.capitalize()
                in ast.unparse(node.annotation).replace("|", " ").split()
            ):
                names.add(
                    node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
                )
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Attribute)
            and node.value.attr == kind
        ):
            names.update(ast.unparse(target) for target in node.targets)
    return names


def foreign_writes(source: str, kind: str) -> list[str]:
    """Assignments to a field of a Flow or an Exchange in this source."""
    tree = ast.parse(source)
    names = names_of(tree, kind)
    return [
        ast.unparse(node)
        for node in written_attributes(tree)
        if ast.unparse(node.value) in names
        or (isinstance(node.value, ast.Attribute) and node.value.attr == kind)
    ]


@pytest.mark.parametrize("kind", sorted(OWNERS))
@pytest.mark.parametrize("path", PROXY_MODULES, ids=name)
def test_only_owners_write_the_fields_of_an_exchange(path, kind):
    """A step returns a value or calls a method; it writes no field of the exchange."""
    if path.name not in OWNERS[kind]:
        assert foreign_writes(path.read_text(), kind) == []


@pytest.mark.parametrize(
    "source",
    [
        "def step(flow): flow.status = 1",
        "def step(one: Flow): one.status += 1",
        "def step(one: 'x', two: Flow | None): two.a, b = 1, 2",
        "class A:\n  def step(self): self.flow.status = 1",
        "def step(a):\n  f = a.flow\n  f.status = 1",
        "def step(flow): del flow.status",
    ],
)
def test_writes_of_foreign_fields_are_found(source):
    """The check above sees parameters, aliases, attributes and deletions."""
    assert len(foreign_writes(source, "flow")) == 1


@pytest.mark.parametrize("path", PROXY_MODULES, ids=name)
def test_only_http_and_local_replies_write_to_the_wire(path):
    """Status lines, header lines and framing are made in http/ (and for answers of the
    gateway's own in local_reply.py).
    """
    if path.name not in WIRE_WRITERS:
        assert [
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant)
            and isinstance(node.value, bytes | str)
            and ("\r\n" if isinstance(node.value, str) else b"\r\n") in node.value
        ] == []
