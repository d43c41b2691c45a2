"""The timeline drawing of the page and of the picture, and its form as inline SVG."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import floor, log1p, log10
from typing import TypeAlias
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from gateway.offline.findings import Findings, ServiceTimeline
from gateway.offline.usual import Floats, spans
from gateway.offline.words import short

_WIDTH, _HEIGHT = 1120, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 8, 10, 26
_LABEL = "Tokens of each window, expected and seen"
_MOST_DAYS = 16
_MOST_POINTS = 2400
_FULL_HOURS = 24
_MANY_POWERS = 4
# The highest value ends this far below the upper edge.
_HEADROOM = 1.06

Point: TypeAlias = tuple[float, float]


class Mark(msgspec.Struct, frozen=True):
    """A labelled place on an axis, 0 to 1."""

    at: float
    label: str


class Drawing(msgspec.Struct, frozen=True):
    """The timeline in a unit square: x is time, y is tokens (upwards)."""

    figures: list[Mark]  # of the y axis
    days: list[Mark]  # of the x axis
    stripes: list[Point]  # begin and end of adjacent abnormal windows
    limit: list[Point]  # upper edge of the band
    tokens: list[Point]
    expected: list[Point]
    abnormal: list[Point]


class _Axes:
    """Windows and tokens to the unit square. The y axis is linear up to about ``bend``
    and logarithmic above: next to a flood, ordinary days would be a flat line.
    """

    def __init__(self, line: ServiceTimeline) -> None:
        seen, expected = line.tokens, line.expected
        most = max(np.max(seen, initial=1.0), np.max(expected, initial=1.0))
        self.count = max(1, len(seen))
        self.most = float(most) * _HEADROOM
        busy = seen[seen > 0]
        self.bend = max(1.0, float(np.median(busy)) / 3.0) if len(busy) else 1.0

    def x(self, at: float) -> float:
        return at / self.count

    def y(self, tokens: float) -> float:
        share = log1p(max(0.0, tokens) / self.bend) / log1p(self.most / self.bend)
        return min(1.0, share)


def draw(report: Findings, zone: ZoneInfo) -> Drawing:
    """Tokens, expectation, the band up to the threshold, abnormal windows."""
    line = report.timeline
    axes = _Axes(line)
    whole = [one for one in report.windows if one.kind == "all"]
    places = [(one.start - line.start) / report.window_s for one in whole]
    return Drawing(
        figures=[
            Mark(axes.y(at), short(at)) for at in round_figures(axes.bend, axes.most)
        ],
        days=_days(line, zone, axes),
        stripes=_stripes(places, axes),
        limit=_points(line.limit, axes),
        tokens=_points(line.tokens, axes),
        expected=_points(line.expected, axes),
        abnormal=[
            (axes.x(at + 0.5), axes.y(one.tokens))
            for at, one in zip(places, whole, strict=True)
        ],
    )


def round_figures(bend: float, most: float) -> list[float]:
    """Labels of a logarithmic axis: 0, then 1, 2 and 5 of each power of ten; over many
    powers, the powers alone.
    """
    first, last = floor(log10(bend)), floor(log10(most))
    steps = (1.0, 2.0, 5.0) if last - first < _MANY_POWERS else (1.0,)
    marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [0.0, *(mark for mark in marks if bend <= mark <= most)]


def _days(line: ServiceTimeline, zone: ZoneInfo, axes: _Axes) -> list[Mark]:
    """Midnights, or full hours of a short log."""
    begin = datetime.fromtimestamp(line.start, zone)
    hours = len(line.tokens) * line.window_s / 3600
    every = timedelta(days=max(1, -(-int(hours / 24) // _MOST_DAYS)))
    form = "%a %d %b"
    if hours <= 2 * _FULL_HOURS:
        every, form = timedelta(hours=max(1, round(hours / 12))), "%H:%M"
    day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    marks = []
    while (at := (day.timestamp() - line.start) / line.window_s) < axes.count:
        if at >= 0:
            marks.append(Mark(axes.x(at), day.strftime(form)))
        day += every
    return marks


def _points(values: Floats, axes: _Axes) -> list[Point]:
    """A line; of very many windows each point shows the highest of a few."""
    step = max(1, -(-len(values) // _MOST_POINTS))
    return [
        (axes.x(at + step / 2), axes.y(float(values[at : at + step].max())))
        for at in range(0, len(values), step)
    ]


def _stripes(places: list[float], axes: _Axes) -> list[Point]:
    """One stripe for windows that follow each other."""
    flagged = np.zeros(axes.count + 1, dtype=bool)
    for at in places:
        flagged[int(at)] = True
    return [(axes.x(begin), axes.x(end)) for begin, end in spans(flagged)]


# -- SVG -----------------------------------------------------------------------------


def timeline(report: Findings, zone: ZoneInfo) -> str:
    """The drawing as an SVG element; colours come from the page's style sheet."""
    drawing = draw(report, zone)
    line = _path(drawing.limit)
    band = f"{line}L{_x(1.0):.1f} {_y(0.0)}L{_LEFT} {_y(0.0)}Z"
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_LABEL}">',
        *map(_figure, drawing.figures),
        *map(_day, drawing.days),
        *(_stripe(begin, end) for begin, end in drawing.stripes),
        f'<path class="band" d="{band}"/>',
        f'<path class="tokens" d="{_path(drawing.tokens)}"/>',
        f'<path class="expected" d="{_path(drawing.expected)}"/>',
        *(
            f'<circle class="over" r="2.6" cx="{_x(x):.1f}" cy="{_y(y):.1f}"/>'
            for x, y in drawing.abnormal
        ),
        "</svg>",
    ]
    return "".join(parts)


def _x(at: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at


def _y(at: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - at)


def _path(points: list[Point]) -> str:
    return "M" + "L".join(f"{_x(x):.1f} {_y(y):.1f}" for x, y in points)


def _figure(mark: Mark) -> str:
    y = _y(mark.at)
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark.label}</text>'
    )


def _day(mark: Mark) -> str:
    x = _x(mark.at)
    return (
        f'<line class="day" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
        f'y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text x="{x + 3:.1f}" y="{_HEIGHT - 8}">{mark.label}</text>'
    )


def _stripe(begin: float, end: float) -> str:
    return (
        f'<rect class="flag" x="{_x(begin):.1f}" y="{_TOP}" '
        f'width="{max(1.5, _x(end) - _x(begin)):.1f}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM}"/>'
    )
