"""One contract for every store: in-process, embedded engine, server on PATH."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from gateway.limits.ports import Plan, WorkAnswer
from gateway.store import works
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from tests.cells import calendar, concurrent, reserve, reserve_all, sliding
from tests.engines import Engine, engine_binaries, running_engine

_names = count()


@pytest.fixture(name="engine", scope="module", params=["memory", "embedded", "redis"])
def _engine(request) -> Iterator[Engine | None]:
    """A running engine, or None for the in-process limiter."""
    if request.param == "memory":
        yield None
        return
    binary = engine_binaries().get(request.param)
    if binary is None:
        pytest.skip(f"no engine named {request.param} on this machine")
    with running_engine(binary) as engine:
        yield engine


@pytest.fixture(name="store")
async def _store(engine) -> AsyncIterator[MemoryStore | RedisStore]:
    """A started store of each kind."""
    # A slow machine must not trip the breaker: these tests are about arithmetic.
    store = (
        RedisStore(engine.url, timeout_s=5.0) if engine is not None else MemoryStore()
    )
    await store.start()
    yield store
    await store.close()


@pytest.fixture(name="name")
def _name() -> str:
    """A new counter."""
    return f"c{next(_names)}"


async def test_admits_exactly_the_limit(store, name):
    """Of many requests at once, those that fit are admitted in order of arrival."""
    plan = Plan((sliding(name, 5, meter="requests"),))
    answers = await reserve_all(store, plan, [(1,)] * 12)
    assert [answer.admitted for answer in answers] == [True] * 5 + [False] * 7
    assert [list(answer.sums) for answer in answers[3:6]] == [[4], [5], [5]]


async def test_all_or_none(store, name):
    """A request that one counter refuses is counted in none."""
    plan = Plan((sliding(name, 100), sliding(name + "b", 1, meter="requests")))
    first = await reserve(store, plan, 10, 1)
    second = await reserve(store, plan, 10, 1)
    assert first.admitted
    assert not second.admitted
    assert second.violated == 1
    assert await store.peek(plan.cells) == [10, 1]


async def test_a_cost_fits_up_to_the_amount(store, name):
    """The limit itself is allowed, one more is not."""
    plan = Plan((sliding(name, 100),))
    assert (await reserve(store, plan, 60)).admitted
    assert (await reserve(store, plan, 40)).admitted
    assert not (await reserve(store, plan, 1)).admitted


async def test_a_cost_of_nothing_always_fits(store, name):
    """A full counter does not refuse a request of cost 0 in it."""
    plan = Plan((sliding(name, 10), sliding(name + "r", 100, meter="requests")))
    await reserve(store, plan, 10, 1)
    assert (await reserve(store, plan, 0, 1)).admitted


async def test_more_than_the_whole_limit_never_fits(store, name):
    """A request above the whole limit gets ``retry_after`` -1 (never)."""
    answer = await reserve(store, Plan((sliding(name, 10),)), 11)
    assert not answer.admitted
    assert answer.retry_after == -1.0


async def test_retry_after_is_when_the_oldest_bucket_leaves(store, name):
    """``retry_after`` is at most the window and one bucket."""
    plan = Plan((sliding(name, 10),))
    await reserve(store, plan, 10)
    answer = await reserve(store, plan, 1)
    assert 45.0 < answer.retry_after <= 61.0


async def test_settling_less_refunds(store, name):
    """Reserved but unused amounts are available to other requests."""
    plan = Plan((sliding(name, 100),))
    first = await reserve(store, plan, 90)
    assert not (await reserve(store, plan, 20)).admitted
    store.settle(first, (30,))
    assert (await reserve(store, plan, 70)).admitted
    assert await store.peek(plan.cells) == [100]


async def test_settling_more_is_charged_over_the_limit(store, name):
    """Usage is counted in full, also above the limit."""
    plan = Plan((sliding(name, 100),))
    store.settle(await reserve(store, plan, 90), (150,))
    assert await store.peek(plan.cells) == [150]


async def test_a_second_settlement_changes_nothing(store, name):
    """A request is settled once; a repetition changes nothing."""
    plan = Plan((sliding(name, 100),))
    first = await reserve(store, plan, 50)
    store.settle(first, (20,))
    store.settle(first, (0,))
    assert await store.peek(plan.cells) == [20]


async def test_a_refused_reserve_has_nothing_to_settle(store, name):
    """Settling a refusal is harmless."""
    plan = Plan((sliding(name, 100),))
    refused = await reserve(store, plan, 101)
    store.settle(refused, (7,))
    assert await store.peek(plan.cells) == [0]


async def test_full_by_settled_weight_tells_when_it_frees(store, name):
    """``frees_at`` is set only where settled amounts fill the limit: reservations may
    still be refunded.
    """
    loop = asyncio.get_running_loop()
    plan = Plan((sliding(name, 100),))
    first = await reserve(store, plan, 100)
    assert (await reserve(store, plan, 1)).frees_at == 0.0
    store.settle(first, (100,))
    frees_at = (await reserve(store, plan, 1)).frees_at
    assert 45.0 < frees_at - loop.time() <= 61.1


async def test_full_by_requests_tells_when_it_frees(store, name):
    """A request is never refunded, so it counts as settled at once."""
    plan = Plan((sliding(name, 1, meter="requests"),))
    await reserve(store, plan, 1)
    assert (await reserve(store, plan, 1)).frees_at > 0.0


async def test_a_request_without_a_reserve_can_be_charged(store, name):
    """A charge counts once, also above the limit, and takes no concurrency slot."""
    plan = Plan((sliding(name, 10), sliding(name, 20), concurrent(name + "c", 1)))
    store.charge(plan, (15, 15, 1))
    assert await store.peek(plan.cells) == [15, 15, 0]
    assert not (await reserve(store, plan, 1, 1, 1)).admitted


async def test_open_exchanges_are_counted_until_settled(store, name):
    """A concurrency slot is free again when its exchange ends."""
    plan = Plan((concurrent(name, 2),))
    first = await reserve(store, plan, 1)
    await reserve(store, plan, 1)
    refused = await reserve(store, plan, 1)
    assert (refused.admitted, refused.retry_after, refused.frees_at) == (
        False,
        1.0,
        0.0,
    )
    store.settle(first, (1,))
    assert (await reserve(store, plan, 1)).admitted
    assert await store.peek(plan.cells) == [2]


async def test_a_renewed_exchange_stays_open(store, name):
    """Renewing twice does not count twice."""
    plan = Plan((concurrent(name, 5),))
    first = await reserve(store, plan, 1)
    store.renew(first)
    store.renew(first)
    assert await store.peek(plan.cells) == [1]


async def test_a_calendar_counter_is_kept_until_its_period_ends(store, name):
    """A calendar limit refuses until the end of its period."""
    ends_at = store.now_us() / 1e6 + 500
    plan = Plan((calendar(name, 100, ends_at),))
    store.settle(await reserve(store, plan, 80), (60,))
    refused = await reserve(store, plan, 50)
    assert list(refused.sums) == [60]
    assert 480 < refused.retry_after <= 500.1
    assert (await reserve(store, plan, 40)).admitted


async def test_a_settlement_after_the_period_is_harmless(store, name):
    """The period's counter is gone; nothing fails."""
    plan = Plan((calendar(name, 100, store.now_us() / 1e6 - 7200),))
    store.settle(await reserve(store, plan, 80), (90,))
    assert (await store.peek(plan.cells))[0] <= 90


async def test_two_limits_of_one_counter_count_once(store, name):
    """Limits that differ only in their amount share a key; the tighter one refuses."""
    plan = Plan((sliding(name, 100), sliding(name, 30)))
    first = await reserve(store, plan, 20, 20)
    assert list(first.sums) == [20, 20]
    assert (await reserve(store, plan, 20, 20)).violated == 1
    store.settle(first, (5, 5))
    assert await store.peek(plan.cells[:1]) == [5]


async def test_a_short_window_forgets(store, name):
    """Usage expires after its window and one bucket."""
    plan = Plan((sliding(name, 10, window_us=2_000_000),))
    await reserve(store, plan, 10)
    wait_s = (await reserve(store, plan, 10)).retry_after
    assert 0.5 < wait_s <= 2.067
    await asyncio.sleep(wait_s + 0.005)
    assert (await reserve(store, plan, 10)).admitted


async def test_reset_forgets(store, name):
    """Resetting a subject deletes its counters."""
    plan = Plan((sliding(name, 10), concurrent(name + "c", 1)))
    await reserve(store, plan, 10, 1)
    await store.reset(plan.cells)
    assert await store.peek(plan.cells) == [0, 0]
    assert (await reserve(store, plan, 10, 1)).admitted


async def test_a_plan_without_limits_is_admitted(store):
    """A plan without limits admits everything."""
    answer = await reserve(store, Plan(()))
    assert answer.admitted
    store.settle(answer, ())


async def test_a_long_name_is_a_key_like_any_other(store, name):
    """Names of any length work as keys."""
    plan = Plan((sliding(name + "n" * 400, 10),))
    assert (await reserve(store, plan, 4)).admitted
    assert await store.peek(plan.cells) == [4]


async def test_windows_from_a_second_to_a_day(store, name):
    """Windows from a second to a day count the same."""
    cells = [
        sliding(f"{name}{window}", 10, window_us=window * 1_000_000)
        for window in (1, 7, 3600, 86_400)
    ]
    answer = await reserve(store, Plan(tuple(cells)), 4, 4, 4, 4)
    assert list(answer.sums) == [4, 4, 4, 4]


async def test_money_is_exact(store, name):
    """Nano-dollars of a large budget add up exactly."""
    plan = Plan((sliding(name, 4 * 10**15, meter="usd"),))
    store.settle(await reserve(store, plan, 10**15 + 1), (10**15 + 3,))
    await reserve(store, plan, 2 * 10**15)
    assert await store.peek(plan.cells) == [3 * 10**15 + 3]


async def test_the_clock_is_the_wall_clock(store):
    """``now_us`` is epoch microseconds."""
    assert abs(store.now_us() / 1e6 - time.time()) < 10.0
    assert store.up


async def test_every_key_has_a_time_to_live(store, engine, name):
    """Every key that a client causes expires."""
    if engine is None:
        pytest.skip("the in-process limiter has no keys")
    plan = Plan(
        (
            sliding(name, 10),
            concurrent(name + "c", 10),
            calendar(name + "d", 10, time.time() + 60),
        )
    )
    store.settle(await reserve(store, plan, 5, 1, 5), (1, 1, 1))
    await store.peek(plan.cells)
    await keep(store, b"w", b"note", name.encode())
    keys = [cell.key for cell in plan.cells] + [store.stream_key]
    later = b"tidegate:1:{%b}:later:" % name.encode()
    keys += [later + b"order", later + b"notes"]
    ttls = [engine.command(b"PTTL " + key) for key in keys]
    assert [ttl for ttl in ttls if int(ttl[1:]) <= 0] == [b":-2\r\n"]


def strangers(name: str, *, amount: int = 100, overdraft: int = 0) -> Plan:
    """A plan that looks at one counter and counts in its tally."""
    tally = sliding(name + ":new", 1 << 53)
    plan = Plan((sliding(name, amount, overdraft=overdraft), tally))
    plan.looks = {0: 1}
    return plan


async def test_a_stranger_needs_room_and_holds_none(store, name):
    """Strangers see the counter and each other; the counter's own calls do not."""
    known, plan = Plan((sliding(name, 100),)), strangers(name)
    await reserve(store, known, 30)
    first = await reserve(store, plan, 60, 60)
    assert first.admitted
    second = await reserve(store, plan, 11, 11)
    assert (second.admitted, second.violated, second.retry_after) == (False, 0, 1.0)
    assert (await reserve(store, plan, 10, 10)).admitted
    assert (await reserve(store, known, 70)).admitted
    third = await reserve(store, plan, 1, 1)
    assert 45.0 < third.retry_after <= 61.0
    assert await store.peek(plan.cells) == [100, 70]
    store.settle(first, (0, 0))
    assert await store.peek(plan.cells) == [100, 10]


async def test_strangers_share_the_overdraft(store, name):
    """What they may cost stays within limit and overdraft, together."""
    plan = strangers(name, overdraft=10)
    least = (20, 0)
    answers = [await reserve(store, plan, 50, 50, least=least) for _ in range(3)]
    assert [answer.admitted for answer in answers] == [True, True, False]
    assert answers[2].retry_after == 1.0


async def test_strangers_with_leases(store, name):
    """Open calls are looked at, tallied, and not renewed as if they counted."""
    plan = Plan((concurrent(name, 2), concurrent(name + ":new", 1 << 53)))
    plan.looks = {0: 1}
    first, second, third = [await reserve(store, plan, 1, 1) for _ in range(3)]
    assert (first.admitted, second.admitted, third.admitted) == (True, True, False)
    store.renew(first)
    assert await store.peek(plan.cells) == [0, 2]
    store.settle(first, (1, 1))
    store.settle(second, (1, 1))
    assert await store.peek(plan.cells) == [0, 0]


async def test_what_is_held_counts_beyond_the_limit(store, name):
    """It is settled as any reservation is."""
    plan = Plan((sliding(name, 100), concurrent(name + "c", 1)))
    await reserve(store, plan, 90, 1)
    held = store.hold(plan, (50, 1))
    assert held.admitted
    assert await store.peek(plan.cells) == [140, 2]
    store.settle(held, (20, 1))
    store.settle(held, (20, 1))
    assert await store.peek(plan.cells) == [110, 1]


async def test_a_stranger_that_is_taken_back_leaves_no_key(store, engine, name):
    """Counters of invalid credentials do not fill the store."""
    day = calendar(name, 10, time.time() + 60, meter="requests")
    plan = Plan((day, sliding(name + "s", 10), sliding(name + "t", 10)))
    kept = await reserve(store, plan, 1, 5, 0)
    store.settle(kept, (1, 0, 0))
    assert await store.peek(plan.cells) == [1, 0, 0]
    store.settle(await reserve(store, plan, 1, 5, 0), (0, 0, 0))
    assert await store.peek(plan.cells) == [1, 0, 0]
    fresh = Plan((calendar(name + "f", 10, time.time() + 60, meter="requests"),))
    store.settle(await reserve(store, fresh, 1), (0,))
    assert await store.peek(fresh.cells) == [0]
    if engine is None:
        assert fresh.cells[0].key not in store._windows
    else:
        keys = [fresh.cells[0].key, plan.cells[1].key]
        assert [engine.command(b"EXISTS " + key) for key in keys] == [b":0\r\n"] * 2


async def keep(store, work: bytes, note: bytes, tag: bytes = b"t") -> WorkAnswer:
    """Keep a note, and wait for the answer."""
    answered: asyncio.Future[WorkAnswer] = asyncio.get_running_loop().create_future()
    store.works.keep(tag, work, note, answered.set_result)
    return await answered


async def take(store, work: bytes, tag: bytes = b"t") -> WorkAnswer:
    """Take the notes of a work, and wait for the answer."""
    answered: asyncio.Future[WorkAnswer] = asyncio.get_running_loop().create_future()
    store.works.take(tag, work, answered.set_result)
    return await answered


async def test_a_detached_reservation_stays_without_its_lease(store, name):
    """Its leases end, its amounts stay, and the call itself settles nothing more."""
    plan = Plan((sliding(name, 100), concurrent(name + "c", 1)))
    first = await reserve(store, plan, 60, 1)
    assert store.detach(first)
    assert await store.peek(plan.cells) == [60, 0]
    assert not store.detach(first)
    store.settle(first, (0, 0))
    assert await store.peek(plan.cells) == [60, 0]
    assert (await reserve(store, plan, 1, 1)).admitted


@pytest.mark.parametrize("actual", [0, 25, 90, 150])
async def test_a_resumed_reservation_is_settled(store, name, actual):
    """Whoever resumes it settles it as the call itself would."""
    ends_at = time.time() + 3600
    plan = Plan((sliding(name, 100), calendar(name + "d", 100, ends_at)))
    first = await reserve(store, plan, 90, 90)
    assert store.detach(first)
    held = store.works.resume(plan, (90, 90), first.at_us)
    store.settle(held, (actual, actual))
    store.settle(held, (0, 0))
    assert await store.peek(plan.cells) == [actual, actual]


async def test_a_refused_reservation_cannot_be_detached(store, name):
    """There is nothing to keep."""
    refused = await reserve(store, Plan((sliding(name, 1),)), 2)
    assert not store.detach(refused)


async def test_notes_are_taken_once(store, name):
    """Of many who ask at once, one gets the notes, in the order in which they came."""
    work = name.encode()
    assert (await keep(store, work, b"\0one\xff")).notes == [b"\0one\xff"]
    assert (await keep(store, work, b"two")).notes == [b"two"]
    answers = await asyncio.gather(*(take(store, work) for _ in range(20)))
    assert sorted(len(answer.notes) for answer in answers) == [0] * 19 + [2]
    assert max(answer.notes for answer in answers) == [b"\0one\xff", b"two"]
    assert all(answer.known for answer in answers)


async def test_notes_of_tenants_are_apart(store, name):
    """An id of another tenant is another work."""
    await keep(store, name.encode(), b"note")
    assert (await take(store, name.encode(), b"other")).notes == []
    assert (await take(store, name.encode())).notes == [b"note"]


async def test_one_work_has_a_bounded_number_of_notes(store, name):
    """More than there is room for is not kept, and the answer says so."""
    work = name.encode()
    assert (await keep(store, work, b"x" * 40_000)).notes
    assert await keep(store, work, b"y" * 40_000) == WorkAnswer()
    assert (await take(store, work)).notes == [b"x" * 40_000]


async def test_works_beyond_the_bound_are_dropped(store, name, monkeypatch):
    """The oldest makes room, and its notes are answered."""
    monkeypatch.setattr(works, "MOST_WORKS", 3)
    tag = name.encode()
    answers = [await keep(store, b"%d" % i, b"n%d" % i, tag) for i in range(5)]
    assert [answer.dropped for answer in answers] == [[], [], [], [b"n0"], [b"n1"]]
    assert (await take(store, b"1", tag)).notes == []
    assert (await take(store, b"2", tag)).notes == [b"n2"]


async def test_works_that_wait_for_too_long_are_dropped(store, name, monkeypatch):
    """The next question about any work of the tenant answers their notes, once."""
    tag = name.encode()
    monkeypatch.setattr(works, "KEPT_S", 0.05)
    for i in range(10):
        await keep(store, b"%d" % i, b"n%d" % i, tag)
    await asyncio.sleep(0.1)
    found = [(await take(store, b"none", tag)).dropped for _ in range(3)]
    assert sorted(map(len, found), reverse=True) == [8, 2, 0]
    notes = [note for some in found for note in some]
    assert sorted(notes) == [b"n%d" % i for i in range(10)]
