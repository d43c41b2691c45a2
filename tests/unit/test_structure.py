"""No import circles, one meaning for each class name, sizes that a reader can hold."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.unit.test_architecture import ALLOWED, MODULES, PACKAGE, REPOSITORY, imports

CORE_LINES = 1_000
FILE_LINES = 600
FUNCTION_LINES = 60
# Folders that a later rebuild replaces.
REBUILT = frozenset({"detect", "offline"})
# Class name -> why it may have several meanings.
SEVERAL_MEANINGS: dict[str, str] = {}
# Function -> why it may be longer than FUNCTION_LINES.
LONG_FUNCTIONS: dict[str, str] = {
    "control/control.py:__init__": "connects every part of the process, one after another",
    "control/metrics.py:_event_families": "a flat list of metrics",
    "commands/learn.py:learn": "one parameter for each flag",
}


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, under TYPE_CHECKING too.

    ``__init__`` files only re-export names and are left out.
    """
    files = [path for path in MODULES if path.stem != "__init__"]
    known = {module_name(path) for path in files}
    graph: dict[str, set[str]] = {}
    for path in files:
        targets = set(imports(path))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                targets |= {f"{node.module}.{alias.name}" for alias in node.names}
        graph[module_name(path)] = (targets & known) - {module_name(path)}
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of a graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_itself_by_way_of_others():
    """The imports between files form no circle."""
    assert circle(import_graph()) == []


def test_folders_have_an_order():
    """The table of allowed imports forms no circle of folders."""
    assert circle({folder: set(below) for folder, below in ALLOWED.items()}) == []


def test_a_circle_is_found():
    """The check reports the members of a circle."""
    found = circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert set(found) == {"a", "b", "c"}


def class_names(paths: list[Path]) -> dict[str, list[str]]:
    """Class name -> the files that define a class of that name at their top level."""
    found = defaultdict(list)
    for path in paths:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(PACKAGE)))
    return found


def test_a_class_name_has_one_meaning():
    """No two modules define a class of the same name, unless it is listed with a reason."""
    double = {n: files for n, files in class_names(MODULES).items() if len(files) > 1}
    assert set(double) == set(SEVERAL_MEANINGS), double


def test_core_is_small():
    """``core`` holds what everything shares, and little of it."""
    lines = sum(
        path.read_text().count("\n")
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] == "core"
    )
    assert lines <= CORE_LINES


def small_modules() -> list[Path]:
    """Modules that the limits of size apply to."""
    return [p for p in MODULES if p.relative_to(PACKAGE).parts[0] not in REBUILT]


@pytest.mark.parametrize("path", small_modules(), ids=lambda p: str(p.name))
def test_a_file_can_be_read_at_once(path):
    """No file is longer than the limit."""
    assert path.read_text().count("\n") <= FILE_LINES


def long_functions() -> Iterator[str]:
    """Functions that are longer than the limit, as ``file:name``."""
    for path in small_modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                end = node.end_lineno or node.lineno
                if end - node.lineno + 1 > FUNCTION_LINES:
                    yield f"{path.relative_to(PACKAGE)}:{node.name}"


def test_long_functions_have_a_reason():
    """Every function above the limit is listed with its reason, and no other is."""
    assert sorted(long_functions()) == sorted(LONG_FUNCTIONS)
