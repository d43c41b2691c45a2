"""Who may import whom, what the pure layers may not touch, which tests must exist."""

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

# Folder -> the folders of this package that it may import, beside itself.
PURE = frozenset({"core", "identity", "limits", "metering"})
EDGE = PURE | {"detect", "config"}
ALLOWED: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "identity": frozenset({"core"}),
    "metering": frozenset({"core"}),
    "limits": PURE - {"limits"},
    "detect": PURE,
    "config": PURE,
    "http": EDGE,
    "proxy": EDGE | {"http"},
    "store": EDGE,
    "sinks": EDGE,
    "alerts": EDGE,
    "admin": EDGE | {"alerts"},
    "offline": EDGE,
    "stream": EDGE,
    "serve": EDGE | {"http", "store"},
    "worker": EDGE | {"http", "proxy", "store", "serve"},
    "control": EDGE | {"admin", "alerts", "serve", "sinks", "store"},
    # Commands that consist of parts which do not import one another.
    "replay": EDGE | {"store", "stream", "offline", "serve"},
    "demo": EDGE,
    "commands": EDGE | {"replay", "serve", "demo", "offline", "stream"},
    "__main__": frozenset({"commands"}),
    "__init__": frozenset(),
}
# Neither I/O nor a clock of their own in the pure layers.
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
# What workers import must not pull these into their memory.
HEAVY = ("rich", "cyclopts", "aiohttp", "redis", "structlog", "watchfiles")


def layer(path: Path) -> str:
    """The layer of a module: its folder, or its own name at the top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def name(path: Path) -> str:
    """How a failing case is called."""
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, inside functions too."""
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
    """A module imports only the layers below its own."""
    mine = layer(path)
    for target in imports(path):
        parts = target.split(".")
        if parts[0] == "gateway" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in ALLOWED[mine] | {mine}, f"{mine} may not import {target}"


@pytest.mark.parametrize("path", pure_modules(), ids=name)
def test_pure_layers_import_no_io(path):
    """core and detect know no sockets, files, clocks, logs or event loops."""
    for target in imports(path):
        heads = {target, target.split(".")[0]}
        assert not heads & BANNED, f"{target} in a pure module"


@pytest.mark.parametrize("path", pure_modules(), ids=name)
def test_pure_layers_have_no_clock_and_no_coroutines(path):
    """Time and chance are arguments; only Protocols of ``ports`` are async."""
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
