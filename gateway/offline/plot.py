"""The timeline drawing as a PNG picture."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from gateway.offline.chart import Drawing, Point, draw
from gateway.offline.errors import InputError
from gateway.offline.findings import Findings
from gateway.offline.words import length, span

_SIZE = (14, 5)
_DPI = 110


def write_png(report: Findings, name: str) -> None:
    """Draw the timeline; raises InputError when the file cannot be written."""
    import matplotlib as mpl  # noqa: PLC0415 - takes 0.5 s; only for pictures

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    zone = ZoneInfo(report.zone)
    drawing = draw(report, zone)
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for begin, end in drawing.stripes:
        axes.axvspan(begin, end, color="#d64545", alpha=0.18, lw=0)
    axes.fill_between(
        *_columns(drawing.limit),
        color="#7aa6da",
        alpha=0.25,
        lw=0,
        label="up to the threshold",
    )
    tokens, expected = _columns(drawing.tokens), _columns(drawing.expected)
    axes.plot(*tokens, color="#44546a", lw=0.9, label="tokens of each window")
    axes.plot(*expected, color="#2f7ed8", lw=1.1, label="expected")
    axes.scatter(
        *_columns(drawing.abnormal), s=14, color="#d64545", zorder=3, label="abnormal"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"tokens per {length(report.window_s)}")
    axes.set_yticks(
        [mark.at for mark in drawing.figures], [mark.label for mark in drawing.figures]
    )
    axes.set_xticks(
        [mark.at for mark in drawing.days], [mark.label for mark in drawing.days]
    )
    axes.grid(axis="y", color="#dfe3ea", lw=0.6)
    axes.grid(axis="x", color="#dfe3ea", lw=0.6, ls=":")
    axes.set_axisbelow(True)
    # The padding leaves room for the legend between title and drawing.
    axes.set_title(_title(report, drawing, zone), loc="left", fontsize=12, pad=26)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.3,
        frameon=False,
        ncols=4,
    )
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(name, dpi=_DPI, format="png")
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror or error}") from None
    finally:
        plt.close(figure)


def _columns(points: list[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _title(report: Findings, drawing: Drawing, zone: ZoneInfo) -> str:
    count = len(drawing.abnormal)
    found = f"{count:,} abnormal window{'' if count == 1 else 's'}"
    when = span(report.start, report.end, zone)
    return f"{found} of {len(report.timeline.tokens):,}, {when} {report.zone}"
