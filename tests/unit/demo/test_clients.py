"""The ordinary load of the demo."""

from __future__ import annotations

import pytest

from gateway.demo.clients import load_level


def test_the_load_changes_over_a_day():
    """The load is lowest at the begin of a day and highest in its middle."""
    assert load_level(0.0, 60.0) == pytest.approx(0.3)
    assert load_level(30.0, 60.0) == pytest.approx(1.0)
