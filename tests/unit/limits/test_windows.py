"""Window arithmetic against figures worked out by hand."""

from __future__ import annotations

import pytest

from gateway.core.model import CellKind
from gateway.limits.windows import (
    CONCURRENCY_WAIT_US,
    EPOCH_US,
    NEVER,
    Ask,
    CalendarWindow,
    Leases,
    SlidingWindow,
    Unsettled,
    fits,
    is_firm,
    open_window,
    wait_us,
)
from tests.cells import calendar, concurrent, sliding

SECOND = 1_000_000
MINUTE = 60 * SECOND
# A bucket border for windows of a minute (buckets of a second).
T0 = 1_000 * MINUTE


def test_sum_counts_until_its_whole_bucket_has_left():
    """A weight counts for the window and at most one bucket more."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0 + 999_999, 5)
    assert window.total(T0 + 61 * SECOND - 1) == 5
    assert window.total(T0 + 61 * SECOND) == 0


def test_nothing_is_left_after_a_long_pause():
    """A pause longer than the ring clears it."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 5)
    assert window.total(T0 + 10 * MINUTE) == 0


def test_a_clock_that_goes_back_keeps_counting():
    """Weights go to the newest bucket when the clock steps back."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 5)
    window.reserve(T0 - 30 * SECOND, 7)
    assert window.total(T0 + 60 * SECOND) == 12
    assert window.total(T0 + 61 * SECOND) == 0


def test_a_window_that_sixty_does_not_divide_never_forgets_early():
    """Bucket widths round up, so a window is never shorter than stated."""
    window = SlidingWindow(SECOND)
    window.reserve(T0, 1)
    assert window.total(T0 + SECOND) == 1
    assert window.total(T0 + SECOND + 2 * 16_667) == 0


def test_a_refund_goes_back_to_the_bucket_of_the_reserve():
    """A refund reduces the bucket of the reserve."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 100)
    window.settle(T0 + 30 * SECOND, T0, 100, 40)
    assert window.total(T0 + 30 * SECOND) == 40
    assert window.total(T0 + 61 * SECOND) == 0


def test_more_than_reserved_is_charged_now():
    """A deficit counts from the time of the settlement."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 100)
    window.settle(T0 + 30 * SECOND, T0, 100, 140)
    assert window.total(T0 + 61 * SECOND) == 40


def test_a_refund_after_the_window_changes_nothing():
    """A refund changes nothing once the reserve has left the window."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 100)
    window.reserve(T0 + 70 * SECOND, 7)
    window.settle(T0 + 70 * SECOND, T0, 100, 0)
    assert window.total(T0 + 70 * SECOND) == 7


def test_a_refund_never_makes_a_bucket_negative():
    """A refund larger than the bucket leaves 0."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 10)
    window.settle(T0, T0, 50, 0)
    assert window.total(T0) == 0


def test_an_exact_settlement_changes_no_sum():
    """Settling the reserved cost changes no sum."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 10)
    window.settle(T0, T0, 10, 10)
    assert window.total(T0) == 10


@pytest.mark.parametrize(
    ("at", "expected"), [(T0 - 61 * SECOND, 0), (T0 - SECOND, 9), (T0 + SECOND, 9)]
)
def test_a_charge_counts_where_it_happened(at, expected):
    """A charge counts in the bucket of its time, or not once that has left."""
    window = SlidingWindow(MINUTE)
    window.charge(T0, at, 9)
    assert window.total(T0) == expected


def test_wait_is_the_time_until_enough_buckets_have_left():
    """The wait ends when enough of the oldest buckets have left."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 40)
    window.reserve(T0 + 10 * SECOND, 60)
    now = T0 + 20 * SECOND
    assert window.wait_us(now, 40, 100) == 41 * SECOND
    assert window.wait_us(now, 41, 100) == 51 * SECOND
    assert window.wait_us(now, 0, 100) == 0
    assert window.wait_us(now, 101, 100) == NEVER


def test_open_weight_may_still_be_refunded():
    """Only settled weight makes a counter certainly full."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 100)
    assert window.frees_us(T0, 100) == 0
    window.settle(T0, T0, 100, 100)
    assert window.frees_us(T0, 100) == 61 * SECOND


def test_firm_weight_is_settled_at_once():
    """Requests, which are never refunded, count as settled at once."""
    window = SlidingWindow(MINUTE, firm=True)
    window.reserve(T0, 3)
    assert window.frees_us(T0, 3) == 61 * SECOND
    window.settle(T0, T0, 3, 3)
    assert window.frees_us(T0, 3) == 61 * SECOND


def test_a_calendar_sum_is_kept_until_its_period_ends():
    """A calendar counter has room again in the next period."""
    window = CalendarWindow(T0 + MINUTE)
    window.reserve(T0, 70)
    assert window.wait_us(T0, 30, 100) == 0
    assert window.wait_us(T0, 31, 100) == MINUTE
    assert window.wait_us(T0, 101, 100) == NEVER
    assert window.wait_us(T0 + 2 * MINUTE, 31, 100) == 0


def test_calendar_settles_the_difference():
    """Refunds and deficits change the calendar sum, never below zero."""
    window = CalendarWindow(T0 + MINUTE)
    window.reserve(T0, 70)
    window.settle(T0, T0, 70, 90)
    assert window.total(T0) == 90
    window.charge(T0, T0, 10)
    assert window.frees_us(T0, 100) == MINUTE
    assert window.frees_us(T0, 101) == 0
    window.settle(T0, T0, 500, 0)
    assert window.total(T0) == 0


def test_firm_calendar_weight_is_settled_at_once():
    """In calendar windows too, firm weight counts as settled at once."""
    window = CalendarWindow(T0 + MINUTE, firm=True)
    window.reserve(T0, 2)
    window.settle(T0, T0, 2, 2)
    assert window.frees_us(T0, 2) == MINUTE


def test_leases_end_by_settlement_or_by_time():
    """An exchange counts until it is settled or its lease expires."""
    leases = Leases(MINUTE)
    leases.reserve(T0, 1, b"a")
    leases.reserve(T0, 1, b"b")
    leases.reserve(T0, 0, b"c")
    assert leases.total(T0) == 2
    leases.settle(T0, T0, 1, 1, b"a")
    assert leases.total(T0) == 1
    assert leases.total(T0 + MINUTE) == 0


def test_a_renewed_lease_lasts_longer():
    """A renewed lease counts longer."""
    leases = Leases(MINUTE)
    leases.reserve(T0, 1, b"a")
    leases.reserve(T0 + 1, 1, b"b")
    leases.renew(T0 + 50 * SECOND, b"a")
    assert leases.total(T0 + MINUTE + 1) == 1
    assert leases.total(T0 + 110 * SECOND) == 0


def test_unknown_leases_end_unnamed_ones():
    """Settling an unknown lease ends one of the unnamed leases."""
    leases = Leases(MINUTE)
    leases.charge(T0, T0, 2)
    leases.settle(T0, T0, 1, 1, b"unknown")
    assert leases.total(T0) == 1
    leases.settle(T0, T0, 1, 1, b"unknown")
    leases.settle(T0, T0, 1, 1, b"unknown")
    assert leases.total(T0) == 0


def test_a_refusal_by_concurrency_waits_a_second():
    """A refusal by concurrency waits for a fixed second."""
    leases = Leases(MINUTE)
    leases.reserve(T0, 1, b"a")
    assert leases.wait_us(T0, 1, 1) == CONCURRENCY_WAIT_US
    assert leases.wait_us(T0, 1, 2) == 0
    assert leases.wait_us(T0, 3, 2) == NEVER
    assert leases.frees_us(T0, 1) == 0


def test_weights_have_no_leases():
    """Renewing changes no sum."""
    for window in (SlidingWindow(MINUTE), CalendarWindow(T0 + MINUTE)):
        window.reserve(T0, 4)
        window.renew(T0, b"a")
        assert window.total(T0) == 4


@pytest.mark.parametrize(("pause", "left"), [(0, 3), (1, 3), (2, 10)])
def test_unsettled_weight_is_released_from_its_own_epoch(pause, left):
    """Releasing weight of an epoch long past changes nothing."""
    unsettled = Unsettled()
    unsettled.add(0, 7)
    now = pause * EPOCH_US
    if pause == 2:
        unsettled.add(EPOCH_US, 0)
    unsettled.add(now, 3 if pause < 2 else 10)
    unsettled.release(now, 0, 7)
    assert unsettled.weight(now) == left


def test_weight_of_killed_workers_counts_as_settled():
    """Weight that is never settled counts as settled after two epochs."""
    unsettled = Unsettled()
    unsettled.add(0, 7)
    assert unsettled.weight(EPOCH_US) == 7
    assert unsettled.weight(2 * EPOCH_US) == 0


def test_every_kind_of_cell_has_its_window():
    """The cell's kind selects the window; only requests are firm."""
    assert isinstance(open_window(sliding("a", 1)), SlidingWindow)
    assert isinstance(open_window(calendar("b", 1, 5.0)), CalendarWindow)
    assert isinstance(open_window(concurrent("c", 1)), Leases)
    assert is_firm(sliding("d", 1, meter="requests"))
    assert not is_firm(sliding("e", 1))
    assert CellKind.SLIDING == 0


def test_open_calls_may_reach_the_overdraft():
    """With every open call at its most, the sum stays within amount and overdraft."""
    window = SlidingWindow(MINUTE)
    window.reserve(T0, 80)
    assert fits(window, T0, Ask(30, 5, 100, 10))
    assert not fits(window, T0, Ask(31, 5, 100, 10))
    # A certain cost has no overdraft.
    assert fits(window, T0, Ask(20, 20, 100, 10))
    assert not fits(window, T0, Ask(21, 21, 100, 10))


def test_settled_weight_and_the_expected_cost_stay_within_the_amount():
    """The overdraft is for open calls: settled weight does not use it."""
    window = SlidingWindow(MINUTE)
    window.charge(T0, T0, 95)
    assert fits(window, T0, Ask(15, 5, 100, 10))
    assert not fits(window, T0, Ask(15, 6, 100, 10))


def test_the_call_that_holds_the_edge_needs_room_for_its_expected_cost_alone():
    """Neither its most nor other open calls keep it from running."""
    window = CalendarWindow(T0 + MINUTE)
    window.charge(T0, T0, 95)
    assert fits(window, T0, Ask(4096, 5, 100, 10, edge=True))
    assert not fits(window, T0, Ask(4096, 6, 100, 10, edge=True))
    window.reserve(T0, 15)
    assert fits(window, T0, Ask(5, 5, 100, 10, edge=True))
    assert wait_us(window, T0, Ask(6, 6, 100, 10, edge=True)) == MINUTE
    leases = Leases(MINUTE)
    leases.reserve(T0, 1, b"a")
    assert leases.open_weight(T0) == 1


def test_open_calls_are_waited_for_a_second_and_settled_weight_until_it_leaves():
    """Retry-After does not count on open calls to cost all that they reserve."""
    window = SlidingWindow(MINUTE)
    window.charge(T0, T0, 60)
    window.reserve(T0, 45)
    assert wait_us(window, T0, Ask(45, 1, 100, 10)) == CONCURRENCY_WAIT_US
    assert wait_us(window, T0, Ask(60, 1, 100, 10)) == 61 * SECOND
    assert wait_us(window, T0, Ask(5, 1, 100, 10)) == 0
    assert wait_us(window, T0, Ask(111, 1, 100, 10)) == NEVER
    assert wait_us(window, T0, Ask(111, 101, 100, 10, edge=True)) == NEVER
    assert wait_us(window, T0, Ask(41, 41, 100, 10)) == 61 * SECOND


def test_what_is_held_beside_a_counter():
    """It needs room as well, and may end at any moment."""
    window = SlidingWindow(60_000_000)
    window.reserve(0, 60)
    assert fits(window, 0, Ask(10, 10, 100, beside=30))
    certain, uncertain = Ask(11, 11, 100, beside=30), Ask(21, 1, 100, 10, beside=30)
    assert not fits(window, 0, certain)
    assert not fits(window, 0, uncertain)
    assert wait_us(window, 0, certain) == CONCURRENCY_WAIT_US
    assert wait_us(window, 0, uncertain) == CONCURRENCY_WAIT_US
    assert wait_us(window, 0, Ask(50, 50, 100, beside=30)) > CONCURRENCY_WAIT_US
    assert fits(window, 0, Ask(21, 1, 100, 10, edge=True, beside=30))
