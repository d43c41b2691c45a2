"""Frozen, killed, lossy and read-only stores: counts stay exact, callers never wait."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import pytest

from gateway.limits.ports import Plan, Reserved
from gateway.store.redis import RedisStore
from tests.cells import concurrent, reserve, reserve_all, sliding
from tests.engines import Engine, engine_binaries, running_engine

# A reserve is answered after at most 50 ms without an answer of the store (measured by
# loadtests/exactness.py); the rest is a margin for a loaded machine.
PATIENCE_S = 30.0

# Store timeout that an engine on a loaded machine does not exceed.
SILENCE_S = 0.5

_names = count()


@pytest.fixture(name="engine")
def _engine() -> Iterator[Engine]:
    """One engine per test, because tests kill it."""
    binary = next(iter(engine_binaries().values()), None)
    if binary is None:
        pytest.skip("no engine on this machine")
    with running_engine(binary) as engine:
        yield engine


@pytest.fixture(name="store")
async def _store(engine) -> AsyncIterator[RedisStore]:
    """A connected store."""
    store = RedisStore(engine.url)
    await store.start()
    yield store
    await store.close()


@pytest.fixture(name="patient")
async def _patient(engine) -> AsyncIterator[RedisStore]:
    """A store with a time-out that a busy machine does not reach."""
    store = RedisStore(engine.url, timeout_s=5.0)
    await store.start()
    yield store
    await store.close()


@pytest.fixture(name="plan")
def _plan() -> Plan:
    """A plan for requests, tokens and concurrent exchanges of one subject."""
    name = f"f{next(_names)}"
    return Plan(
        (
            sliding(name, 10_000, meter="requests"),
            sliding(name + "t", 1_000_000),
            concurrent(name + "c", 100),
        )
    )


async def until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.002)


async def away(store: RedisStore, plan: Plan) -> Reserved:
    """Open the breaker with one reserve; return its answer."""
    answer = await reserve(store, plan, 1, 100, 1)
    assert not store.up
    return answer


async def test_a_frozen_store_opens_the_breaker_in_time(engine, store, plan):
    """The first reserve waits for the time-out, later ones are answered immediately."""
    engine.freeze()
    start = time.perf_counter()
    first = await reserve(store, plan, 1, 100, 1)
    assert 0.02 < time.perf_counter() - start < PATIENCE_S
    second = store.reserve(plan, (1, 100, 1), lambda _: None)
    assert (first.local, second.local, second.admitted) == (True, True, True)
    engine.thaw()


async def test_counts_are_exact_after_a_freeze(engine, store, plan):
    """Reserves in doubt, settled or not, and local ones are charged exactly once."""
    before = await reserve(store, plan, 1, 100, 1)
    engine.freeze()
    in_doubt = await reserve_all(store, plan, [(1, 100, 1)] * 4)
    local = await reserve_all(store, plan, [(1, 100, 1)] * 3)
    for answer in (before, in_doubt[0], in_doubt[1], local[0]):
        store.settle(answer, (1, 40, 1))
    engine.thaw()
    await until(lambda: store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [8, 4 * 40 + 4 * 100, 4]
    for answer in (*in_doubt[2:], *local[1:]):
        store.settle(answer, (1, 70, 1))
    assert await store.peek(plan.cells) == [8, 4 * 40 + 4 * 70, 0]


async def test_counts_are_exact_after_a_kill(engine, store, plan):
    """A restarted engine is sent what it missed."""
    before = await reserve(store, plan, 1, 100, 1)
    engine.kill()
    local = [await reserve(store, plan, 1, 100, 1) for _ in range(3)]
    store.settle(before, (1, 30, 1))
    store.settle(local[0], (1, 30, 1))
    engine.start()
    await until(lambda: store.up and store.backlog == 0)
    for answer in local[1:]:
        store.settle(answer, (1, 30, 1))
    assert await store.peek(plan.cells) == [4, 120, 0]


async def test_calls_that_the_store_lost_are_replayed(engine, store, plan):
    """Acknowledged and lost reserves and settlements are replayed."""
    open_still = await reserve(store, plan, 1, 100, 1)
    store.settle(await reserve(store, plan, 1, 100, 1), (1, 30, 1))
    assert await store.peek(plan.cells) == [2, 130, 1]
    engine.command(b"FLUSHALL")
    await reserve(store, plan, 1, 5, 1)
    await until(lambda: store.stats.replayed > 0 and store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [3, 135, 2]
    store.settle(open_still, (1, 0, 1))
    assert await store.peek(plan.cells) == [3, 35, 1]


async def test_calls_are_replayed_to_a_store_that_comes_back_empty(engine, store, plan):
    """After a failover to a lagging replica the last seconds are replayed."""
    open_still = await reserve(store, plan, 1, 100, 1)
    store.settle(await reserve(store, plan, 1, 100, 1), (1, 30, 1))
    await store.peek(plan.cells)
    engine.kill()
    engine.forget()
    engine.start()
    store.settle(open_still, (1, 60, 1))
    await until(lambda: store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [2, 90, 0]


async def test_calls_lost_twice_count_once(engine, store, plan):
    """Replayed calls that are lost again are replayed once more and counted once."""
    store.settle(await reserve(store, plan, 1, 100, 1), (1, 30, 1))
    for loss in (1, 2):
        await store.peek(plan.cells)
        before = store.stats.replayed
        engine.command(b"FLUSHALL")
        await reserve(store, plan, 0, 5, 0)
        await until(
            lambda seen=before: (
                store.stats.replayed > seen and store.up and store.backlog == 0
            )
        )
        await until(lambda: store.up)
        assert await store.peek(plan.cells) == [1, 30 + 5 * loss, 0]


@pytest.mark.parametrize("seed", range(3))
async def test_counts_are_exact_whatever_the_timing(engine, store, plan, seed):
    """Random freezes around the time-out, kills and lost scripts."""
    dice = random.Random(seed)
    used = [0, 0]
    busy = True

    async def client() -> None:
        while busy:
            answer = await reserve(store, plan, 1, 10, 1)
            await asyncio.sleep(dice.random() * 0.03)
            if answer.admitted:
                tokens = dice.randint(0, 25)
                store.settle(answer, (1, tokens, 1))
                used[0] += 1
                used[1] += tokens

    async with asyncio.TaskGroup() as clients:
        for _ in range(20):
            clients.create_task(client())
        for _ in range(8):
            await asyncio.sleep(dice.random() * 0.1)
            await inject_fault(engine, dice)
        busy = False
    await until(lambda: store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [*used, 0]


async def inject_fault(engine: Engine, dice: random.Random) -> None:
    """Inject one fault of random kind and length."""
    kind = dice.choice(["freeze", "freeze", "freeze", "kill", "script"])
    if kind == "script":
        engine.command(b"SCRIPT FLUSH")
        return
    if kind == "kill":
        engine.kill()
        await asyncio.to_thread(engine.start)
        return
    engine.freeze()
    await asyncio.sleep(dice.uniform(0.01, 0.12))
    engine.thaw()


async def test_a_call_that_wakes_late_changes_nothing(engine, plan):
    """A call executed by a frozen engine after the reconnect is refused."""
    store = RedisStore(engine.url)
    await store.start()
    for _ in range(5):
        engine.freeze()
        store.settle(await away(store, plan), (1, 10, 1))
        engine.thaw()
        await until(lambda: store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [5, 50, 0]
    await store.close()


async def test_a_flushed_script_is_loaded_again(engine, patient, plan):
    """SCRIPT FLUSH causes one retry and does not open the breaker."""
    engine.command(b"SCRIPT FLUSH")
    answer = await reserve(patient, plan, 1, 100, 1)
    assert (answer.admitted, answer.local, patient.up) == (True, False, True)


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        (b"CONFIG SET maxmemory 1", b"CONFIG SET maxmemory 0"),
        (b"REPLICAOF 127.0.0.1 1", b"REPLICAOF NO ONE"),
    ],
)
async def test_a_store_that_refuses_writes_counts_as_unavailable(
    engine, store, plan, fault, cure
):
    """With a full or demoted server limits are local until it accepts writes."""
    engine.command(fault)
    answer = await reserve(store, plan, 1, 100, 1)
    assert (answer.admitted, answer.local) == (True, True)
    store.settle(answer, (1, 60, 1))
    engine.command(cure)
    await until(lambda: store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [1, 60, 0]


async def test_an_outage_grants_no_fresh_quota(engine, patient):
    """Local windows start from the last sums of the store."""
    store = patient
    plan = Plan((sliding(f"f{next(_names)}", 100),))
    store.settle(await reserve(store, plan, 90), (90,))
    await store.peek(plan.cells)
    engine.kill()
    assert not (await reserve(store, plan, 20)).admitted
    assert (await reserve(store, plan, 10)).admitted


async def test_a_limit_is_shared_by_the_known_replicas(engine):
    """Each local limiter has its share of the limit, at least 1."""
    engine.kill()
    store = RedisStore(engine.url, replicas=4)
    await store.start()
    plan = Plan((sliding("share", 8, meter="requests"),))
    answers = await reserve_all(store, plan, [(1,)] * 5)
    assert [answer.admitted for answer in answers] == [True, True, False, False, False]
    store.replicas = 100
    assert not (await reserve(store, plan, 1)).admitted
    engine.start()
    await store.close()


@pytest.mark.parametrize(("choice", "admitted"), [("open", True), ("closed", False)])
async def test_when_down_may_admit_all_or_refuse_all(engine, choice, admitted):
    """``when_down`` decides; what was admitted is charged afterwards."""
    engine.kill()
    store = RedisStore(engine.url, when_down=choice)
    await store.start()
    plan = Plan((sliding(choice, 10),))
    answers = await reserve_all(store, plan, [(7,)] * 3)
    assert {answer.admitted for answer in answers} == {admitted}
    assert answers[0].retry_after == (0.0 if admitted else 1.0)
    engine.start()
    await until(lambda: store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [21 if admitted else 0]
    await store.close()


async def test_degraded_and_recovered_are_reported_once(engine, patient, plan):
    """Each outage calls each hook once, with the number of merged exchanges."""
    store = patient
    reported: list[object] = []
    store.on_degraded = reported.append
    store.on_recovered = reported.append
    engine.kill()
    await until(lambda: not store.up)
    store.settle(await reserve(store, plan, 1, 100, 1), (1, 50, 1))
    engine.start()
    await until(lambda: store.up)
    assert reported == ["the store closed the connection", 1]


async def test_a_locally_refused_reserve_that_the_store_admitted_is_undone(engine):
    """A reserve refused locally is not charged although the store admitted it."""
    store = RedisStore(engine.url, when_down="closed")
    await store.start()
    plan = Plan((sliding("undone", 10, meter="requests"), concurrent("undone", 9)))
    engine.freeze()
    refused = await reserve(store, plan, 1, 1)
    assert not refused.admitted
    engine.thaw()
    await until(lambda: store.up and store.backlog == 0)
    assert await store.peek(plan.cells) == [0, 0]
    await store.close()


async def test_a_stall_of_the_own_loop_does_not_open_the_breaker(engine, plan):
    """A long delay of the own event loop does not open the breaker."""
    store = RedisStore(engine.url, timeout_s=SILENCE_S)
    await store.start()
    for _ in range(3):
        loop = asyncio.get_running_loop()
        answered = loop.create_task(reserve(store, plan, 1, 1, 1))
        for _ in range(3):
            await asyncio.sleep(0)
        busy_until = time.perf_counter() + 1.6 * SILENCE_S
        while time.perf_counter() < busy_until:
            pass
        assert not (await answered).local
    assert store.up
    await store.close()


async def test_close_sends_what_is_queued(engine, plan):
    """Settlements queued at close are sent."""
    store = RedisStore(engine.url, timeout_s=5.0)
    await store.start()
    answers = await reserve_all(store, plan, [(1, 100, 1)] * 40)
    for answer in answers:
        store.settle(answer, (1, 10, 1))
    await store.close()
    other = RedisStore(engine.url)
    await other.start()
    assert await other.peek(plan.cells) == [40, 400, 0]
    await other.close()


async def test_a_failing_callback_does_not_affect_others(engine, patient, plan):
    """A callback that raises does not affect other answers."""
    loop = asyncio.get_running_loop()
    reported: list[str] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))

    def fails(reserved: Reserved) -> None:
        raise ValueError

    patient.reserve(plan, (1, 1, 1), fails)
    assert (await reserve(patient, plan, 1, 1, 1)).admitted
    assert reported == ["a reserve's callback failed"]


async def test_start_without_a_store_serves_locally(engine, plan):
    """The gateway starts with local limits and connects when the store appears."""
    engine.kill()
    store = RedisStore(engine.url)
    await store.start()
    assert (await reserve(store, plan, 1, 100, 1)).local
    engine.start()
    await until(lambda: store.up)
    await store.close()
