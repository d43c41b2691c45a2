"""The data model: names of limits and windows."""

from __future__ import annotations

import pytest

from gateway.core.model import Limit, format_window


@pytest.mark.parametrize(
    ("window_us", "text"),
    [
        (86_400_000_000, "1d"),
        (172_800_000_000, "2d"),
        (5_400_000_000, "90m"),
        (3_600_000_000, "1h"),
        (60_000_000, "1m"),
        (1_000_000, "1s"),
        (1_500_000, "1500ms"),
        (1_500, "1500us"),
        (0, "0us"),
    ],
)
def test_windows_have_their_shortest_exact_name(window_us, text):
    """A window is written in the largest unit that divides it."""
    assert format_window(window_us) == text


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        (Limit("user", "tokens", 5, 60_000_000), "user.tokens.1m"),
        (Limit("tenant", "usd", 5, 0, "day"), "tenant.usd.day"),
        (Limit("user+model", "concurrent", 5), "user+model.concurrent"),
    ],
)
def test_limits_are_named_by_subject_meter_and_window(limit, name):
    """A limit's name has subject, meter and window; concurrency has no window."""
    assert limit.name == name
