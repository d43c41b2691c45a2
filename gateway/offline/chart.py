"""The timeline as inline SVG."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import floor, log1p, log10
from zoneinfo import ZoneInfo

import numpy as np

from gateway.offline.report import Report, Timeline
from gateway.offline.usual import Floats, spans
from gateway.offline.words import short

_WIDTH, _HEIGHT = 1120, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 8, 10, 26
_LABEL = "Tokens of each window, expected and seen"
_MOST_DAYS = 16
_MOST_POINTS = 2400
_FULL_HOURS = 24
_MANY_POWERS = 4


class _Scale:
    """Windows and tokens to places in the picture. Tokens go up by logarithm from
    ``bend`` on: beside a flood a day of ordinary traffic would be a flat line.
    """

    def __init__(self, count: int, most: float, bend: float) -> None:
        self.count, self.most, self.bend = max(1, count), most, bend

    def x(self, at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / self.count

    def y(self, tokens: float) -> float:
        inner = _HEIGHT - _TOP - _BOTTOM
        share = log1p(max(0.0, tokens) / self.bend) / log1p(self.most / self.bend)
        return _TOP + inner * (1 - min(1.0, share))


def timeline(report: Report, zone: ZoneInfo) -> str:
    """Tokens, expectation, the band up to the threshold, abnormal windows."""
    line = report.timeline
    scale = _Scale(len(line.tokens), _most(line), bend_of(line))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_LABEL}">',
        *_grid(scale),
        *_days(line, zone, scale),
        *_flags(report, scale),
        f'<path class="band" d="{_area(line.limit, scale)}"/>',
        f'<path class="tokens" d="{_path(line.tokens, scale)}"/>',
        f'<path class="expected" d="{_path(line.expected, scale)}"/>',
        *_dots(report, scale),
        "</svg>",
    ]
    return "".join(parts)


def _most(line: Timeline) -> float:
    most = max(np.max(line.tokens, initial=1.0), np.max(line.expected, initial=1.0))
    return float(most) * 1.06


def bend_of(line: Timeline) -> float:
    """Tokens at which the scale of a timeline turns from linear to logarithmic."""
    busy = line.tokens[line.tokens > 0]
    return max(1.0, float(np.median(busy)) / 3.0) if len(busy) else 1.0


def round_figures(bend: float, most: float) -> list[float]:
    """What an axis is marked with: nothing, then 1, 2 and 5 of each power of ten; over
    many powers these alone.
    """
    first, last = floor(log10(bend)), floor(log10(most))
    steps = (1.0, 2.0, 5.0) if last - first < _MANY_POWERS else (1.0,)
    marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [0.0, *(mark for mark in marks if bend <= mark <= most)]


def _grid(scale: _Scale) -> list[str]:
    """Round figures on the left."""
    parts = []
    for at in round_figures(scale.bend, scale.most):
        y = scale.y(at)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(at)}</text>'
        )
    return parts


def _days(line: Timeline, zone: ZoneInfo, scale: _Scale) -> list[str]:
    """Midnights, or full hours of a short log."""
    begin = datetime.fromtimestamp(line.start, zone)
    hours = len(line.tokens) * line.window_s / 3600
    every = timedelta(days=max(1, -(-int(hours / 24) // _MOST_DAYS)))
    form = "%a %d %b"
    if hours <= 2 * _FULL_HOURS:
        every, form = timedelta(hours=max(1, round(hours / 12))), "%H:%M"
    mark = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    parts = []
    while (at := (mark.timestamp() - line.start) / line.window_s) < scale.count:
        if at >= 0:
            x = scale.x(at)
            parts.append(
                f'<line class="day" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
                f'y2="{_HEIGHT - _BOTTOM}"/>'
                f'<text x="{x + 3:.1f}" y="{_HEIGHT - 8}">{mark.strftime(form)}</text>'
            )
        mark += every
    return parts


def _path(values: Floats, scale: _Scale) -> str:
    """A line; of very many windows each point shows the highest of a few."""
    step = max(1, -(-len(values) // _MOST_POINTS))
    points = [
        f"{scale.x(at + step / 2):.1f} {scale.y(float(values[at : at + step].max())):.1f}"
        for at in range(0, len(values), step)
    ]
    return "M" + "L".join(points)


def _area(values: Floats, scale: _Scale) -> str:
    base = _HEIGHT - _BOTTOM
    end = scale.x(len(values))
    return f"{_path(values, scale)}L{end:.1f} {base}L{_LEFT} {base}Z"


def _place(report: Report, start: int) -> float:
    return (start - report.timeline.start) / report.window_s


def _flags(report: Report, scale: _Scale) -> list[str]:
    """One stripe for windows that follow each other."""
    flagged = np.zeros(scale.count + 1, dtype=bool)
    for one in report.windows:
        if one.kind == "all":
            flagged[int(_place(report, one.start))] = True
    return [
        f'<rect class="flag" x="{scale.x(begin):.1f}" y="{_TOP}" '
        f'width="{max(1.5, scale.x(end) - scale.x(begin)):.1f}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM}"/>'
        for begin, end in spans(flagged)
    ]


def _dots(report: Report, scale: _Scale) -> list[str]:
    return [
        f'<circle class="over" r="2.6" '
        f'cx="{scale.x(_place(report, one.start) + 0.5):.1f}" '
        f'cy="{scale.y(one.tokens):.1f}"/>'
        for one in report.windows
        if one.kind == "all"
    ]
