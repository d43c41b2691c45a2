"""Output of the commands: tables, JSON, messages on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from gateway.commands.flags import USAGE


def print_table(
    columns: Sequence[str], rows: Sequence[tuple[str, ...]], title: str = ""
) -> None:
    """Print a framed table on a terminal, aligned columns in a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(*columns, title=title or None, title_justify="left")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    if title:
        print(title)
    print_columns(rows if title else [tuple(columns), *rows], "  " if title else "")


def print_columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Print rows as left-aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"{indent}{'  '.join(cells)}".rstrip())


def print_items(
    items: Sequence[dict[str, Any]], columns: Sequence[str], empty: str
) -> None:
    """Print some fields of each item, or ``empty`` where there is none."""
    if not items:
        print(empty)
        return
    rows = [tuple(cell(item.get(name)) for name in columns) for item in items]
    print_columns([tuple(columns), *rows])


def print_json_list(items: Sequence[dict[str, Any]]) -> None:
    """Print a whole list in the shape of the admin API."""
    print_json({"items": list(items), "next": None})


def print_json(content: Any) -> None:
    """Print one JSON document on one line."""
    print(json.dumps(content, ensure_ascii=False))


def cell(value: Any) -> str:
    """The text of a table cell; ``-`` for an absent or empty value."""
    return "-" if value is None or value == "" else str(value)


def fail(message: str, code: int = USAGE) -> int:
    """Print a message on standard error and return ``code``."""
    print(f"tidegate: {message}", file=sys.stderr)
    return code


def unknown_option(names: Sequence[str]) -> str:
    """An error message if a file argument other than ``-`` looks like an option."""
    found = next((name for name in names if name.startswith("-") and name != "-"), "")
    return f"unknown option: {found}" if found else ""
