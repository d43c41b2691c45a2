"""The timeline as a PNG picture."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import numpy as np

from gateway.offline.chart import bend_of, round_figures
from gateway.offline.errors import InputError
from gateway.offline.report import Report
from gateway.offline.words import length, short, span

_SIZE = (14, 5)
_DPI = 110


def write_png(report: Report, name: str) -> None:
    """Draw the timeline; raises InputError when the file cannot be written."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, for those who draw

    mpl.use("Agg")
    from matplotlib import dates, ticker  # noqa: PLC0415 - as above
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    line = report.timeline
    zone = ZoneInfo(report.zone)
    day_s = 86_400.0  # dates of matplotlib are days of the epoch
    at = (line.start + (np.arange(len(line.tokens)) + 0.5) * line.window_s) / day_s
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    axes.fill_between(
        at,
        0,
        line.limit,
        color="#7aa6da",
        alpha=0.25,
        lw=0,
        label="up to the threshold",
    )
    axes.plot(at, line.tokens, color="#44546a", lw=0.9, label="tokens of each window")
    axes.plot(at, line.expected, color="#2f7ed8", lw=1.1, label="expected")
    flagged = [w for w in report.windows if w.kind == "all"]
    axes.scatter(
        [(w.start + line.window_s / 2) / day_s for w in flagged],
        [w.tokens for w in flagged],
        s=14,
        color="#d64545",
        zorder=3,
        label="abnormal",
    )
    axes.set_yscale("symlog", linthresh=bend_of(line))
    axes.set_ylim(0, _top(report))
    axes.xaxis.axis_date(report.zone)
    locator = dates.AutoDateLocator(tz=zone, minticks=4, maxticks=12)  # type: ignore[no-untyped-call]
    form = dates.ConciseDateFormatter(  # type: ignore[no-untyped-call]
        locator,
        tz=zone,
        formats=["%Y", "%b", "%a %d %b", "%H:%M", "%H:%M", "%H:%M"],
        zero_formats=["", "%Y", "%a %d %b", "%a %d %b", "%H:%M", "%H:%M"],
        show_offset=False,
    )
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(form)
    axes.yaxis.set_major_locator(
        ticker.FixedLocator(round_figures(bend_of(line), _top(report)))
    )
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(axis="y", color="#dfe3ea", lw=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.005)
    axes.set_ylabel(f"tokens per {length(report.window_s)}")
    when = span(report.start, report.end, zone)
    found = f"{len(flagged):,} abnormal window{'' if len(flagged) == 1 else 's'}"
    title = f"{found} of {len(line.tokens):,}, {when} {report.zone}"
    axes.set_title(title, loc="left", fontsize=12, pad=26)  # above the legend
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


def _top(report: Report) -> float:
    line = report.timeline
    most = max(np.max(line.tokens, initial=1.0), np.max(line.expected, initial=1.0))
    return float(most) * 1.12
