"""Windows against a brute-force log: the limit is never exceeded and sums are exact."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.windows import NEVER, SlidingWindow

START_US = 1_700_000_000_000_000
WINDOWS = st.sampled_from([1_000_000, 7_000_001, 60_000_000, 86_400_000_000])
# Steps as fractions of the window, small ones and long pauses.
STEPS = st.one_of(st.floats(0, 0.05), st.floats(0, 1.5))
EVENTS = st.lists(st.tuples(STEPS, st.integers(0, 60)), max_size=120)


def times(window_us: int, steps: list[tuple[float, int]]) -> list[tuple[int, int]]:
    """Steps as (time, cost)."""
    now, out = START_US, []
    for step, cost in steps:
        now += int(step * window_us)
        out.append((now, cost))
    return out


def admitted(window_us: int, amount: int, events: list[tuple[int, int]]):
    """The events that a saturated window admits."""
    window = SlidingWindow(window_us)
    for now, cost in events:
        if window.total(now) + cost <= amount:
            window.reserve(now, cost)
            yield now, cost


@given(WINDOWS, st.integers(1, 200), EVENTS)
def test_no_span_of_a_window_exceeds_the_limit(window_us, amount, steps):
    """For any arrivals, every span of the window's length stays within the limit."""
    passed = list(admitted(window_us, amount, times(window_us, steps)))
    for now, _ in passed:
        span = sum(cost for at, cost in passed if now - window_us < at <= now)
        assert span <= amount


@given(WINDOWS, EVENTS)
def test_the_sum_equals_the_log_within_one_bucket(window_us, steps):
    """The sum is at least the exact log's, at most that of a window one bucket longer."""
    window = SlidingWindow(window_us)
    width_us = -(-window_us // 60)
    log: list[tuple[int, int]] = []
    for now, cost in times(window_us, steps):
        window.reserve(now, cost)
        log.append((now, cost))
        exact = sum(c for at, c in log if at > now - window_us)
        longest = sum(c for at, c in log if at > now - 61 * width_us)
        assert exact <= window.total(now) <= longest


@given(WINDOWS, EVENTS, st.lists(st.integers(0, 90), min_size=120, max_size=120))
def test_settling_conserves(window_us, steps, actuals):
    """Within the window the sum is the sum of the settled costs, in any order."""
    window = SlidingWindow(window_us)
    shrunk = [(step / 400, cost) for step, cost in steps]
    open_at = times(window_us, shrunk)
    for now, cost in open_at:
        window.reserve(now, cost)
    end = open_at[-1][0] if open_at else START_US
    for (at, cost), actual in zip(reversed(open_at), actuals, strict=False):
        window.settle(end, at, cost, actual)
    assert window.total(end) == sum(actuals[: len(open_at)])
    assert window.frees_us(end, window.total(end) + 1) == 0


@given(WINDOWS, st.integers(1, 200), EVENTS, st.integers(0, 250))
def test_wait_is_exact(window_us, amount, steps, cost):
    """At the end of the wait the cost fits; a microsecond earlier it does not."""
    window = SlidingWindow(window_us)
    events = times(window_us, steps)
    for now, weight in events:
        window.reserve(now, weight)
    now = events[-1][0] if events else START_US
    wait_us = window.wait_us(now, cost, amount)
    if wait_us == NEVER:
        assert cost > amount
        return
    if wait_us:
        assert window.total(now + wait_us - 1) + cost > amount
    assert window.total(now + wait_us) + cost <= amount


@given(EVENTS)
def test_sums_of_a_silent_window_only_fall(steps):
    """Without traffic the sum never increases."""
    window = SlidingWindow(60_000_000)
    events = times(60_000_000, steps)
    for now, cost in events:
        window.reserve(now, cost)
    end = events[-1][0] if events else START_US
    sums = [window.total(end + second * 1_000_000) for second in range(0, 70, 3)]
    assert all(after <= before for before, after in pairwise(sums))
    assert sums[-1] == 0
