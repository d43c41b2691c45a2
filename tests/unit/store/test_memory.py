"""What only the in-process limiter has: a bound, shares, seeds."""

from __future__ import annotations

from gateway.limits.ports import Plan, Reserved
from gateway.store.memory import MemoryStore
from tests.cells import concurrent, reserve, sliding

NOW_US = 1_700_000_000_000_000


def store(**settings) -> MemoryStore:
    """A limiter whose clock stands still."""
    return MemoryStore(clock=lambda: NOW_US, monotonic=lambda: 5.0, **settings)


async def test_the_least_recently_used_counter_goes():
    """Strangers cannot fill the memory; what they push out is counted."""
    limiter = store(capacity=2)
    plans = [Plan((sliding(name, 10),)) for name in "abc"]
    for plan in (plans[0], plans[1], plans[0], plans[2]):
        await reserve(limiter, plan, 3)
    sums = [(await limiter.peek(plan.cells))[0] for plan in plans]
    assert (sums, limiter.evicted) == ([6, 0, 3], 1)


async def test_a_new_counter_starts_from_what_the_store_last_said():
    """Split among the replicas, rounded up."""
    limiter = store(replicas=4)
    plan = Plan((sliding("a", 100), concurrent("c", 40)))
    plan.seen, plan.seen_us = (90, 10), NOW_US - 1
    refused = await reserve(limiter, plan, 3, 1)
    assert (refused.admitted, list(refused.sums)) == (False, [23, 3])
    assert (await reserve(limiter, plan, 2, 1)).admitted


async def test_settling_what_was_evicted_is_harmless():
    """The counter is gone, and with it what it held."""
    limiter = store()
    plan = Plan((sliding("a", 100),))
    answer = await reserve(limiter, plan, 50)
    limiter.clear()
    limiter.settle(answer, (20,))
    assert await limiter.peek(plan.cells) == [0]


def test_a_clock_of_its_own_never_steps_back():
    """Epoch microseconds from the monotonic clock."""
    limiter = MemoryStore()
    times = [limiter.now_us() for _ in range(100)]
    assert times == sorted(times)
    assert Reserved(Plan(()), ()).at_us < times[0]
