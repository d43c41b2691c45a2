"""The in-process limiter: eviction, shares of replicas, initial sums."""

from __future__ import annotations

from gateway.limits.ports import Plan, Reserved
from gateway.store.memory import MemoryStore
from tests.cells import concurrent, reserve, sliding

NOW_US = 1_700_000_000_000_000


def store(**settings) -> MemoryStore:
    """A limiter with a frozen clock."""
    return MemoryStore(clock=lambda: NOW_US, monotonic=lambda: 5.0, **settings)


async def test_the_least_recently_used_counter_is_evicted():
    """Unknown clients cannot fill the memory; evictions are counted."""
    limiter = store(capacity=2)
    plans = [Plan((sliding(name, 10),)) for name in "abc"]
    for plan in (plans[0], plans[1], plans[0], plans[2]):
        await reserve(limiter, plan, 3)
    sums = [(await limiter.peek(plan.cells))[0] for plan in plans]
    assert (sums, limiter.evicted) == ([6, 0, 3], 1)


async def test_a_new_counter_starts_from_the_last_sum_of_the_store():
    """The sum is divided among the replicas, rounded up."""
    limiter = store(replicas=4)
    plan = Plan((sliding("a", 100), concurrent("c", 40)))
    plan.seen, plan.seen_us = (90, 10), NOW_US - 1
    refused = await reserve(limiter, plan, 3, 1)
    assert (refused.admitted, list(refused.sums)) == (False, [23, 3])
    assert (await reserve(limiter, plan, 2, 1)).admitted


async def test_settling_an_evicted_counter_is_harmless():
    """Settling an evicted counter changes nothing."""
    limiter = store()
    plan = Plan((sliding("a", 100),))
    answer = await reserve(limiter, plan, 50)
    limiter.clear()
    limiter.settle(answer, (20,))
    assert await limiter.peek(plan.cells) == [0]


def test_a_clock_of_its_own_never_steps_back():
    """The default clock returns epoch microseconds that follow the monotonic clock."""
    limiter = MemoryStore()
    times = [limiter.now_us() for _ in range(100)]
    assert times == sorted(times)
    assert Reserved(Plan(()), ()).at_us < times[0]
