"""The report of a replay as text: totals side by side, then the worst subjects."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.replay.report import ReplayReport, usd
from gateway.replay.totals import (
    Column,
    ComparedTotals,
    Key,
    PolicyTotals,
    ReplayTotals,
)
from gateway.stream.watch import printable

# Width when the output is no terminal: enough for ids and reasons.
_PIPE_WIDTH = 160
_TITLES: dict[Column, str] = {"then": "then", "current": "current", "draft": "draft"}
_ROWS = (
    ("allowed", lambda one: f"{one.allowed + one.tagged:,}"),
    ("  tagged", lambda one: f"{one.tagged:,}"),
    ("limited", lambda one: f"{one.limited:,}"),
    ("throttled", lambda one: f"{one.throttled:,}"),
    ("blocked", lambda one: f"{one.blocked:,}"),
    ("tokens saved", lambda one: f"{one.tokens_saved:,}"),
    ("dollars saved", usd),
)


def write_tables(report: ReplayReport, out: IO[str], top: int) -> None:
    """Write totals and the ``top`` worst subjects to ``out``."""
    wide = None if out.isatty() else _PIPE_WIDTH
    console = Console(file=out, width=wide, highlight=False)
    totals = report.totals
    shown = report.to_dict()
    console.print(
        Text(
            f"{totals.total.requests:,} requests from {shown['span']['from']} to "
            f"{shown['span']['to']}, {totals.tokens:,} tokens"
        )
    )
    console.print(_totals(report))
    worst = totals.worst()
    if not worst:
        console.print(Text("No subject is limited, throttled or blocked."))
        return
    console.print(_subjects(totals, worst[:top]))
    if len(worst) > top:
        more = f"{len(worst) - top:,} more subjects: --top N or --json shows them"
        console.print(Text(more))


def _totals(report: ReplayReport) -> Table:
    totals = report.totals
    table = Table(title="Requests", title_justify="left")
    table.add_column("")
    for column in totals.columns:
        table.add_column(_TITLES[column], justify="right")
    sums = [totals.total.of(column) for column in totals.columns]
    for title, write in _ROWS:
        table.add_row(title, *(Text(write(one)) for one in sums))
    touched = [totals.touched(column) for column in totals.columns]
    for name in ("limited", "throttled", "blocked"):
        row = [f"{counts[name]:,}" for counts in touched]
        table.add_row(f"subjects {name}", *row)
    opened = [_incidents(report, column) for column in totals.columns]
    table.add_row("incidents", *map(Text, opened))
    changed = [_changes(one) for one in sums]
    table.add_row("changed decisions", *map(Text, changed))
    return table


def _incidents(report: ReplayReport, column: Column) -> str:
    """Opened incidents; records do not contain them."""
    simulation = report.simulations.get(column)
    return "-" if simulation is None else f"{sum(simulation.incidents.values()):,}"


def _changes(sums: PolicyTotals) -> str:
    """Requests decided differently: newly refused, newly passed."""
    if not sums.newly_refused and not sums.newly_passed:
        return "-"
    return f"+{sums.newly_refused:,} / -{sums.newly_passed:,}"


def _subjects(totals: ReplayTotals, worst: list[tuple[Key, ComparedTotals]]) -> Table:
    table = Table(title="Subjects, worst first", title_justify="left")
    for heading in ("tenant", "subject", "requests"):
        right: Any = "right" if heading == "requests" else "left"
        table.add_column(heading, justify=right, overflow="fold")
    for column in totals.columns:
        table.add_column(_TITLES[column], overflow="fold")
    table.add_column("tokens saved", justify="right")
    table.add_column("dollars saved", justify="right")
    for key, found in worst:
        asked = totals.requests_of(key)
        cells = [_actions(found.sums.get(column)) for column in totals.columns]
        draft = found.sums.get("draft", PolicyTotals())
        row = [
            printable(key[0]),
            printable(f"{key[1]} {key[2]}"),
            "-" if asked is None else f"{asked:,}",
            *cells,
            f"{draft.tokens_saved:,}",
            usd(draft),
        ]
        table.add_row(*map(Text, row))
    return table


def _actions(sums: PolicyTotals | None) -> str:
    """The actions of a policy on a subject: ``412 limited (user.tokens.1m)``."""
    if sums is None:
        return "-"
    parts = [
        f"{count:,} {word}"
        for word, count in (
            ("blocked", sums.blocked),
            ("throttled", sums.throttled),
            ("limited", sums.limited),
            ("tagged", sums.tagged),
        )
        if count
    ]
    if not parts:
        return "-"
    why = ", ".join(sorted(sums.by, key=lambda name: (-sums.by[name], name))[:3])
    seen = " (observed only)" if sums.observed_only == sums.refused > 0 else ""
    return printable(", ".join(parts) + (f" ({why})" if why else "") + seen)
