"""The timeline drawing of the page and of the picture."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import numpy as np
import pytest

from gateway.offline.chart import round_figures, timeline
from gateway.offline.findings import AbnormalWindow, ServiceTimeline, Share
from gateway.offline.report import AnalysisReport
from gateway.offline.usual import spans

MONDAY, WINDOW_S = 1_767_571_200, 300


def window(at, kind="all", requests=10):
    """An abnormal window, so many after the start."""
    start = MONDAY + at * WINDOW_S
    share = Share("u", 900, 0.9, requests, 10, f"{requests} requests, 90 tokens each")
    return AbnormalWindow(
        start, start + WINDOW_S, kind, "u", 1000, 100, 6.0, "critical", "cost_spike",
        (share,),
    )  # fmt: skip


def report(*windows):
    """A day with these findings."""
    count = 288
    line = ServiceTimeline(
        MONDAY, WINDOW_S, np.full(count, 1000.0), np.full(count, 900.0),
        np.full(count, 2000.0),
    )  # fmt: skip
    return AnalysisReport(
        1000, 1, MONDAY, MONDAY + 86_400, WINDOW_S, {}, list(windows), line, 0, []
    )


def test_windows_that_follow_each_other_are_one_stripe():
    """Adjacent abnormal windows are drawn as one stripe."""
    picture = timeline(report(*map(window, [3, 4, 5, 9])), ZoneInfo("UTC"))
    assert picture.count('class="flag"') == len(spans(np.array([1, 1, 1, 0, 1]) > 0))
    assert picture.count('class="over"') == 4


@pytest.mark.parametrize(
    ("bend", "most", "figures"),
    [
        (30_000, 600_000, [0, 50_000, 100_000, 200_000, 500_000]),
        (1, 1_000_000, [0, *(10.0**power for power in range(7))]),
    ],
)
def test_an_axis_has_some_round_figures(bend, most, figures):
    """A logarithmic axis has several round labels."""
    assert round_figures(bend, most) == figures
