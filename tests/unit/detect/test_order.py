"""The event clock and the reorder buffer."""

from __future__ import annotations

import random

import pytest

from gateway.detect.model import Event
from gateway.detect.order import EventClock, ReorderBuffer

T = 1_767_607_200.0


def at(ts, ip="10.0.0.1"):
    """An event with only a time and an address."""
    return Event(ts, ip)


def started(now=T):
    """A running clock."""
    clock = EventClock()
    clock.advance(now)
    return clock


def test_a_live_clock_starts_with_the_first_event():
    """A live clock starts with the first event, whatever its time."""
    clock = EventClock()
    assert times(clock.admit(at(0.0))) == [-T]
    assert clock.now > 0


def times(events):
    """Seconds since T."""
    return [event.ts - T for event in events]


def test_the_clock_follows_the_newest_and_counts_late_ones():
    """The clock is that of the newest event; an event more than a minute behind is late
    and dropped.
    """
    clock = started()
    assert times(clock.admit(at(T))) == [0]
    assert times(clock.admit(at(T + 5))) == [5]
    assert times(clock.admit(at(T - 55))) == [-55]
    assert clock.admit(at(T - 56)) == ()
    assert (clock.now, clock.late) == (T + 5, 1)


def test_one_absurd_future_time_moves_nothing():
    """An event far in the future is held, and dropped if the next one disagrees."""
    clock = started()
    assert clock.admit(at(T + 1e9)) == ()
    assert clock.now == T
    assert times(clock.admit(at(T + 1))) == [1]
    assert (clock.now, clock.absurd) == (T + 1, 1)


def test_a_jump_is_accepted_from_two_addresses():
    """Three events in a row from two addresses move the clock, and none of the agreeing
    ones is lost.
    """
    clock = started()
    assert clock.admit(at(T + 5000)) == ()
    assert clock.admit(at(T + 5001)) == ()
    assert times(clock.admit(at(T + 1e8, "10.0.0.2"))) == [5000, 5001]
    assert times(clock.admit(at(T + 5002))) == [5002]
    assert (clock.now, clock.absurd, clock.late) == (T + 5002, 1, 0)


def test_a_jump_of_one_address_needs_eight_events():
    """Eight events in a row from one address move the clock."""
    clock = started()
    got = [clock.admit(at(T + 5000 + n)) for n in range(8)]
    assert [len(one) for one in got] == [0] * 7 + [8]


def test_wide_gaps_lose_nothing_but_the_end():
    """Events twenty minutes apart are accepted in order, except the last two."""
    clock = started()
    out = [e for n in range(1, 9) for e in clock.admit(at(T + n * 1200, f"10.0.0.{n}"))]
    assert times(out) == [n * 1200 for n in range(1, 7)]
    assert clock.close() == ()
    assert clock.absurd == 2


@pytest.mark.parametrize("absurd", [T + 1e8, 5.0])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_first_events_wait_until_they_agree(absurd, place):
    """In a recorded stream one absurd time among the first three does not start the
    clock.
    """
    clock = EventClock(recorded=True)
    stamps = [T, T + 1]
    stamps.insert(place, absurd)
    out = [e for ts in [*stamps, T + 2] for e in clock.admit(at(ts))]
    assert times(out) == [0, 1, 2]
    assert (clock.now, clock.absurd + clock.late) == (T + 2, 1)


def test_too_few_to_agree_count_at_the_end():
    """A recorded stream of two events is returned by ``close``."""
    clock = EventClock(recorded=True)
    assert [clock.admit(at(T + 1)), clock.admit(at(T))] == [(), ()]
    assert times(clock.close()) == [0, 1]
    assert clock.close() == ()


def test_advance_releases_plausible_events():
    """``advance`` releases held events up to its time; those far ahead stay held."""
    clock = EventClock(recorded=True)
    assert [clock.admit(at(T + 3)), clock.admit(at(T + 1e8))] == [(), ()]
    assert times(clock.advance(T + 5)) == [3]
    assert clock.advance(T + 6) == []
    assert times(clock.admit(at(T + 7))) == [7]
    assert (clock.now, clock.absurd) == (T + 7, 1)


def test_held_events_leave_in_order():
    """Events within the hold are released in order of time."""
    events = [Event(T + n // 2, f"10.0.0.{n}", fingerprint=n) for n in range(20)]
    shuffled = random.Random(3).sample(events, len(events))
    buffer = ReorderBuffer(60.0)
    for event in shuffled:
        buffer.push(event)
    assert len(buffer) == 20
    first = buffer.pop_until(T + 4)
    assert [e.ts for e in first] == sorted(e.ts for e in events if e.ts <= T + 4)
    assert len(first) + len(buffer.pop_until(float("inf"))) == 20


def test_equal_events_are_held_side_by_side():
    """Equal events are all kept and released."""
    buffer = ReorderBuffer(60.0)
    out = []
    for n in range(60):
        buffer.push(Event(T + n // 20, "10.0.0.1", prompt_tokens=n // 20))
        if n % 7 == 0:
            out += buffer.pop_until(T + n // 20 - 1)
    assert len(out) + len(buffer) == 60


def test_a_late_event_is_sorted_into_its_second():
    """A late event is sorted into its second, equal ones in order of arrival."""
    buffer = ReorderBuffer(60.0)
    for user in "bcb":
        buffer.push(Event(T + 0.5, "10.0.0.1", user, model=f"first {user}"))
    buffer.push(Event(T + 0.1, "10.0.0.1"))
    assert times(buffer.pop_until(T + 0.2)) == [pytest.approx(0.1)]
    buffer.push(Event(T + 0.5, "10.0.0.1", "b", model="late"))
    buffer.push(Event(T - 3, "10.0.0.1", "a"))
    left = buffer.pop_until(T + 1)
    assert [event.user for event in left] == ["a", "b", "b", "b", "c"]
    assert left[3].model == "late"
