"""A subject's limits as operators see them."""

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
def test_when_a_limit_is_free_again(limit, used, free_at):
    """At the latest: a window and its running part on, or with the calendar."""
    policy = Policy(name="p", limits=(limit,))
    (cell,) = cells_of_subject(policy, "acme", "user", "u", NOW)
    shown = public_limit("acme", cell, used, NOW)["free_at"]
    assert (shown and shown.isoformat()) == free_at
