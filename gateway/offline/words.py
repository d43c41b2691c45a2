"""Formatting of figures and times for reports."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_HUNDRED = 99.5
_TO, _TIMES = "\u2013", "\u00d7"
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def short(count: float) -> str:
    """Three figures: 412, 9.1k, 120k, 3.4M."""
    for size, unit in _UNITS:
        if abs(count) >= 0.9995 * size:
            scaled = count / size
            return (
                f"{scaled:.0f}{unit}" if scaled >= _HUNDRED else f"{scaled:.3g}{unit}"
            )
    return f"{count:.0f}"


def length(seconds: float) -> str:
    """45s, 20m, 2h 5m, 3d 4h."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m"
    if whole < _DAY_S:
        hours, rest = divmod(whole, _HOUR_S)
        return f"{hours}h {rest // _MINUTE_S}m" if rest >= _MINUTE_S else f"{hours}h"
    days, rest = divmod(whole, _DAY_S)
    return f"{days}d {rest // _HOUR_S}h" if rest >= _HOUR_S else f"{days}d"


def moment(at: float, zone: ZoneInfo) -> str:
    """Mon 2026-01-05 08:20."""
    return datetime.fromtimestamp(at, zone).strftime("%a %Y-%m-%d %H:%M")


def clock(at: float, zone: ZoneInfo) -> str:
    """08:20."""
    return datetime.fromtimestamp(at, zone).strftime("%H:%M")


def span(start: float, end: float, zone: ZoneInfo) -> str:
    """Mon 2026-01-05 08:20-09:40; the second day too where it is another."""
    same = moment(start, zone)[:14] == moment(end, zone)[:14]
    return (
        f"{moment(start, zone)}{_TO}{clock(end, zone) if same else moment(end, zone)}"
    )


def times(tokens: float, expected: float) -> str:
    """x12, or "new" where nothing was expected."""
    if expected < 1:
        return "new"
    factor = tokens / expected
    return f"{_TIMES}{factor:.1f}" if factor < 9.95 else f"{_TIMES}{short(factor)}"  # noqa: PLR2004 - two figures
