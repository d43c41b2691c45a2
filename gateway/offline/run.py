"""``tidegate analyze``: files in, report to standard output and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from gateway.offline.analyze import analyze_files
from gateway.offline.columns import Choice
from gateway.offline.errors import InputError
from gateway.offline.plot import write_png
from gateway.offline.report import AnalysisReport
from gateway.offline.table import HEAD, rows, summary


class Wanted(msgspec.Struct, frozen=True):
    """What the command line asks for."""

    files: Sequence[str]
    window: str
    choice: Choice
    time_format: str | None
    timezone: str
    as_json: bool
    html: str | None
    plot: str | None


def run(wanted: Wanted) -> AnalysisReport:
    """Analyse, write what was asked for. Raises InputError for unusable input."""
    with _bar(wanted.files) as passed:
        report = analyze_files(
            wanted.files,
            wanted.window,
            choice=wanted.choice,
            time_format=wanted.time_format,
            timezone=wanted.timezone,
            passed=passed,
        )
    if wanted.html:
        _write(wanted.html, report.to_html())
    if wanted.plot:
        write_png(report, wanted.plot)
    if wanted.as_json:
        sys.stdout.buffer.write(msgspec.json.encode(report.to_dict()) + b"\n")
    else:
        _print(report)
    sys.stdout.flush()
    return report


def _print(report: AnalysisReport) -> None:
    if not sys.stdout.isatty():
        sys.stdout.write(report.table())
        return
    from rich.console import Console  # noqa: PLC0415 - only for terminals
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    found = rows(report)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in HEAD:
        right = name in {"tokens", "expected", ""}
        table.add_column(
            name, justify="right" if right else "left", no_wrap=name == "for"
        )
    colors = {"critical": "bold red", "warning": "yellow"}
    for row in found:
        table.add_row(Text(row[0], style=colors[row[0]]), *map(Text, row[1:]))
    console.print(table if found else "nothing abnormal", end="\n\n")
    for line in summary(report):
        console.print(line, highlight=False, markup=False)


def _write(name: str, text: str) -> None:
    try:
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror}") from None


@contextmanager
def _bar(files: Sequence[str]) -> Iterator[Callable[[int], None]]:
    """How far the files are read: a bar on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _bytes: None
        return
    from rich.console import Console  # noqa: PLC0415 - only for terminals
    from rich.progress import Progress  # noqa: PLC0415

    sizes = [os.path.getsize(name) for name in files if os.path.isfile(name)]
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=sum(sizes))
        yield lambda done: bar.update(task, completed=done)
