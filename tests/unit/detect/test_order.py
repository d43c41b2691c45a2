"""Order of events and the clock."""

from __future__ import annotations

import random

from gateway.detect.model import Event
from gateway.detect.order import EventClock, ReorderBuffer

T = 1_767_607_200.0


def test_the_clock_follows_the_newest_and_counts_late_ones():
    """A minute behind is counted, more is late."""
    clock = EventClock()
    assert clock.admit(T)
    assert clock.admit(T + 5)
    assert clock.admit(T - 55)
    assert not clock.admit(T - 56)
    assert (clock.now, clock.late) == (T + 5, 1)


def test_one_absurd_future_time_moves_nothing():
    """A jump is believed when three events in a row agree with it."""
    clock = EventClock(T)
    assert not clock.admit(T + 1e9)
    assert clock.admit(T + 1)
    assert clock.now == T + 1
    assert not clock.admit(T + 5000)
    assert not clock.admit(T + 9000)
    assert not clock.admit(T + 9001)
    assert clock.admit(T + 9002)
    assert (clock.now, clock.absurd) == (T + 9002, 4)


def test_held_events_leave_in_order():
    """Any order of arrival within the hold gives the same order out."""
    events = [Event(T + n // 2, f"10.0.0.{n}", fingerprint=n) for n in range(20)]
    shuffled = random.Random(3).sample(events, len(events))
    buffer = ReorderBuffer(60.0)
    for event in shuffled:
        buffer.push(event)
    assert len(buffer) == 20
    first = buffer.pop_until(T + 4)
    assert [e.ts for e in first] == sorted(e.ts for e in events if e.ts <= T + 4)
    assert len(first) + len(buffer.pop_until(float("inf"))) == 20
