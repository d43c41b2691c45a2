"""The limits of a subject as the admin API shows them."""

from __future__ import annotations

from datetime import datetime

import pytest

from gateway.control.counters import public_limit
from gateway.core.model import Limit, Policy
from gateway.limits.plans import cells_of_subject

NOW = datetime.fromisoformat("2026-11-27T17:30:00Z").timestamp()
MINUTE = Limit(per="user", meter="requests", amount=60, window_us=60_000_000)
DAY = Limit(per="user", meter="tokens", amount=60, calendar="day")
OPEN = Limit(per="user", meter="concurrent", amount=4)


@pytest.mark.parametrize(
    ("limit", "used", "free_at"),
    [
        (MINUTE, 60, "2026-11-27T17:31:01+00:00"),
        (MINUTE, 0, None),
        (DAY, 5, "2026-11-28T00:00:00+00:00"),
        (OPEN, 4, None),
    ],
    ids=["sliding", "unused", "calendar", "open at once"],
)
def test_reset_time_of_a_limit(limit, used, free_at):
    """A sliding limit resets at the latest one window and bucket later, a calendar
    limit at the end of its period.
    """
    policy = Policy(name="p", limits=(limit,))
    (cell,) = cells_of_subject(policy, "acme", "user", "u", NOW)
    shown = public_limit("acme", cell, used, NOW)["free_at"]
    assert (shown and shown.isoformat()) == free_at
