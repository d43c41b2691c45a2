"""Names of log events: one form, all of them documented."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs/operations.md"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
SNAKE_CASE = re.compile(r"[a-z]+(_[a-z]+)*")


def is_logger(node: ast.expr) -> bool:
    """Whether an expression is named like a logger: ``log``, ``_log``, ``self._log``."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in {"log", "_log"}


def event_arguments(call: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call that name a log event."""
    function = call.func
    if isinstance(function, ast.Attribute) and is_logger(function.value):
        if function.attr in LEVELS:
            yield call.args[0]
        elif function.attr == "log":
            yield call.args[1]
    elif isinstance(function, ast.Name) and function.id == "log_state":
        names = {"failing", "working"}
        yield from (one.value for one in call.keywords if one.arg in names)
    elif is_logger(function) and getattr(call.args[0], "value", None) in LEVELS:
        yield call.args[1]  # the supervisor's: level, event


def logged_events() -> dict[str, str]:
    """Event names in ``gateway/`` with one place of each."""
    found: dict[str, str] = {}
    for path in sorted((REPOSITORY / "gateway").rglob("*.py")):
        if path.parts[-2:] == ("serve", "logs.py"):
            continue  # passes names on
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            for argument in event_arguments(node):
                place = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
                assert isinstance(argument, ast.Constant), f"{place}: not a literal"
                found.setdefault(argument.value.partition(" ")[0], place)
    return found


def documented_events() -> list[str]:
    """Names in the table of the section on logs."""
    section = DOCUMENT.read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_events_are_found():
    """The search finds events of all processes."""
    assert {"child_died", "task_failed", "records_dropped"} <= logged_events().keys()


def test_events_are_snake_case():
    """An event name is lower-case words joined by underscores."""
    wrong = {
        name: place
        for name, place in logged_events().items()
        if not SNAKE_CASE.fullmatch(name)
    }
    assert wrong == {}


def test_events_are_documented_once():
    """The table lists every event that is logged, and no other."""
    assert sorted(documented_events()) == sorted(logged_events())
