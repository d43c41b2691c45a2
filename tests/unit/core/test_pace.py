"""Periodic work when the clock is set back."""

from __future__ import annotations

import pytest

from gateway.core.pace import is_due


@pytest.mark.parametrize(
    ("now", "due"),
    [(100.0, False), (109.9, False), (110.0, True), (1e9, True), (99.9, True)],
)
def test_it_is_due_after_its_time_and_when_the_clock_was_set_back(now, due):
    """Work is due after its interval, and at once when the clock was set back."""
    assert is_due(100.0, 10.0, now) is due
