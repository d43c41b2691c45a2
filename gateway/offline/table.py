"""The text report: worst episodes first, with the responsible users."""

from __future__ import annotations

from collections.abc import Iterator
from zoneinfo import ZoneInfo

from gateway.offline.episodes import Episode, episodes
from gateway.offline.findings import ALL, Findings
from gateway.offline.words import length, short, span, times

HEAD = (
    "severity",
    "when",
    "for",
    "who",
    "class",
    "tokens",
    "expected",
    "",
    "made up by",
)
_MADE_UP_BY = 3
_LEAST_SHARE = 0.05
_MOST = 40
_ID_LENGTH = 40


def rows(report: Findings, most: int = _MOST) -> list[tuple[str, ...]]:
    """One row an episode, the worst first."""
    zone = ZoneInfo(report.zone)
    found = episodes(report.windows, report.window_s)
    return [_row(one, zone) for one in found[:most]]


def summary(report: Findings) -> list[str]:
    """What was read and found, in a few lines."""
    zone = ZoneInfo(report.zone)
    found = episodes(report.windows, report.window_s)
    whole = sum(window.kind == "all" for window in report.windows)
    named = len({w.subject for w in report.windows if w.kind == "user"})
    of_users = f" of {report.users:,} users" if report.users else ""
    when = f"{span(report.start, report.end, zone)} {report.zone}"
    ordinary = short(report.threshold["median_window"])
    read = f"{report.rows:,} requests{of_users}, {when}"
    judged = f"{whole:,} of {len(report.timeline.tokens):,} windows of the service"
    spikes = f", spikes of {named:,} users" if report.users else ""
    lines = [
        f"{read}, windows of {length(report.window_s)}",
        f"{judged} were abnormal{spikes}; an ordinary window has {ordinary} tokens",
    ]
    if len(found) > _MOST:
        lines.append(f"the worst {_MOST} of {len(found)} episodes; --json has all")
    if report.skipped:
        lines.append(f"{report.skipped:,} rows could not be used:")
        lines += [
            f"  {where(one.line, one.file)}: {one.why}"
            for one in report.skipped_rows[:3]
        ]
    return lines


def where(line: int, file: str | None) -> str:
    """The place of a row."""
    return f"{file}, line {line}" if file else f"row {line}"


def text(report: Findings) -> str:
    """Plain columns, for pipes and for ``Findings.table``."""
    return "\n".join([*_columns(rows(report)), *summary(report)]) + "\n"


def _columns(found: list[tuple[str, ...]]) -> Iterator[str]:
    if not found:
        yield "nothing abnormal"
        return
    table = [HEAD, *found]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _row(one: Episode, zone: ZoneInfo) -> tuple[str, ...]:
    return (
        one.severity,
        span(one.start, one.end, zone),
        length(one.end - one.start),
        "the service" if one.subject == ALL and one.kind == "all" else _id(one.subject),
        one.cls,
        short(one.tokens),
        short(one.expected),
        times(one.tokens, one.expected),
        made_up_by(one),
    )


def made_up_by(one: Episode) -> str:
    """Of the service: its largest users; of a user: what they did."""
    worst = one.worst
    if one.kind == "user":
        return _did(one)
    held = [
        f"{_id(share.user)} {100 * share.share:.0f} %"
        for share in worst.top_users[:_MADE_UP_BY]
        if share.share >= _LEAST_SHARE
    ]
    if held or not worst.top_users:
        return ", ".join(held)
    return "many, none over 5 %"


def _did(one: Episode) -> str:
    """What a user did: all requests of a spike, then its worst window in words."""
    worst = one.worst
    if not worst.top_users or len(one.windows) == 1:
        return worst.top_users[0].did if worst.top_users else ""
    requests = sum(share.requests for w in one.windows for share in w.top_users)
    size = length(worst.end - worst.start)
    return f"{requests:,} requests; in the worst {size} {worst.top_users[0].did}"


def _id(name: str) -> str:
    return name if len(name) <= _ID_LENGTH else name[: _ID_LENGTH - 1] + "…"
