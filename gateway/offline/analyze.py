"""The two entry points: a data frame in memory, or files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from gateway.config import parse_duration
from gateway.offline.columns import ANY, Choice
from gateway.offline.errors import InputError
from gateway.offline.frames import gather_frame
from gateway.offline.judge import judge
from gateway.offline.report import AnalysisReport
from gateway.offline.times import Times, check_zone
from gateway.offline.traffic import Gatherer, gather_files

DAY_S = 86_400


def analyze(
    frame: Any,
    window: str = "5m",
    *,
    time_column: str | None = None,
    user_column: str | None = None,
    tokens_column: str | None = None,
    prompt_column: str | None = None,
    completion_column: str | None = None,
    time_format: str | None = None,
    timezone: str = "UTC",
) -> AnalysisReport:
    """Abnormal windows of a polars (also lazy) or pandas frame of requests.

    ``window`` is a duration that divides a day; ``timezone`` is that of times without
    one, and of the clock that windows are aligned to. Columns are found by their usual
    names. Raises InputError for a missing column, an unknown zone, no usable row.
    """
    choice = Choice(
        time_column, user_column, tokens_column, prompt_column, completion_column
    )
    gatherer = _gatherer(window, timezone)
    gather_frame(
        frame, choice, Times(timezone, time_format, whole_seconds=True), gatherer
    )
    return judge(gatherer.traffic(), timezone)


def analyze_files(
    names: Sequence[str],
    window: str = "5m",
    *,
    choice: Choice = ANY,
    time_format: str | None = None,
    timezone: str = "UTC",
    passed: Callable[[int], None] = lambda _bytes: None,
) -> AnalysisReport:
    """The same for files: CSV, JSON lines (both also gzipped), Parquet. ``passed`` is
    told how many bytes of them were read. Raises InputError as ``analyze``, and for a
    file that cannot be read.
    """
    gatherer = _gatherer(window, timezone)
    times = Times(timezone, time_format, whole_seconds=True)
    gather_files(list(names), choice, times, gatherer, passed)
    return judge(gatherer.traffic(", ".join(names)), timezone)


def _gatherer(window: str, timezone: str) -> Gatherer:
    """Windows of this length, aligned to the clock of this zone."""
    try:
        size = parse_duration(window)
    except ValueError as error:
        raise InputError(f"window: {error}") from None
    whole = int(size)
    if whole < 1 or float(size) != whole or DAY_S % whole:
        raise InputError(f"window: {window!r} does not divide a day into equal parts")
    return Gatherer(whole, ZoneInfo(check_zone(timezone)))
