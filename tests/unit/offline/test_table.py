"""The text report of ``analyze``."""

from __future__ import annotations

from gateway.offline.episodes import Episode
from gateway.offline.findings import AbnormalWindow, Share
from gateway.offline.table import made_up_by

MONDAY, WINDOW_S = 1_767_571_200, 300


def window(at, kind="all", requests=10):
    """An abnormal window, so many after the start."""
    start = MONDAY + at * WINDOW_S
    share = Share("u", 900, 0.9, requests, 10, f"{requests} requests, 90 tokens each")
    return AbnormalWindow(
        start, start + WINDOW_S, kind, "u", 1000, 100, 6.0, "critical", "cost_spike",
        (share,),
    )  # fmt: skip


def test_a_spike_of_several_windows_says_how_many_requests_it_had():
    """An episode shows the requests of all its windows."""
    windows = [window(at, "user", requests) for at, requests in ((3, 10), (4, 30))]
    spike = Episode("user", "u", "cost_spike", "critical", windows)
    assert made_up_by(spike).startswith("40 requests; in the worst 5m 10 requests")
    alone = Episode("user", "u", "cost_spike", "critical", windows[:1])
    assert made_up_by(alone) == "10 requests, 90 tokens each"
