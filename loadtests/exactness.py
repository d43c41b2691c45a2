"""Exactness of limits: four stores in four processes on one engine, 400 tasks.

usage: python loadtests/exactness.py [--engine embedded|redis] [--events 1000000]
                                     [--freeze 10] [part...]
parts: admit, tokens, count, sliding, log, faults (default: all, about two minutes)

Prints one JSON line per part with what was measured; exit code 1 when one fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.limits.ports import Plan, Reserved
from gateway.limits.windows import SlidingWindow
from gateway.store.redis import RedisStore
from tests.cells import concurrent, sliding
from tests.engines import Engine, engine_binaries, running_engine

PROCESSES = 4
RESERVERS = 100
MINUTE_US = 60_000_000
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
# Timeout of these stores: several processes share few cores here, and what is
# measured is exactness. The part ``faults`` uses the default of 50 ms.
PATIENCE_S = 5.0


async def ask(store: RedisStore, plan: Plan, *costs: int) -> Reserved:
    """Reserve once."""
    answered: asyncio.Future[Reserved] = asyncio.get_running_loop().create_future()
    store.reserve(plan, costs, answered.set_result)
    return await answered


def in_process(work: Callable[..., Any], url: str, number: int, *args: Any) -> Any:
    """Run one worker's part on its own store."""

    async def run() -> Any:
        patience_s = 0.05 if work is worker_faults else PATIENCE_S
        store = RedisStore(url, timeout_s=patience_s)
        await store.start()
        assert store.up, store.last_error
        try:
            return await work(store, number, *args)
        finally:
            await store.close()

    return uvloop.run(run())


def in_all(work: Callable[..., Any], url: str, *args: Any) -> list[Any]:
    """Run the same part in every process at once."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        parts = [
            pool.submit(in_process, work, url, number, *args)
            for number in range(PROCESSES)
        ]
        return [part.result() for part in parts]


async def reservers(each: Callable[[], Any]) -> None:
    """Run ``each`` in one parallel task per reserver."""
    async with asyncio.TaskGroup() as group:
        for _ in range(RESERVERS):
            group.create_task(each())


# -- exactly L admitted --------------------------------------------------------------


async def worker_admit(store: RedisStore, _: int, limit: int) -> tuple[int, int]:
    plan = Plan((sliding("admit", limit, meter="requests"), concurrent("a", 10**6)))
    counts = [0, 0]

    async def each() -> None:
        for _ in range(60):
            answer = await ask(store, plan, 1, 1)
            counts[not answer.admitted] += 1
            store.settle(answer, (1, 1))

    await reservers(each)
    return counts[0], counts[1]


def part_admit(engine: Engine, _: argparse.Namespace) -> dict[str, Any]:
    """Requests: exactly as many are admitted as the limit allows."""
    limit = 10_007
    counts = in_all(worker_admit, engine.url, limit)
    admitted = sum(count[0] for count in counts)
    return {
        "limit": limit,
        "asked": sum(sum(count) for count in counts),
        "admitted": admitted,
        "ok": admitted == limit,
    }


async def worker_tokens(store: RedisStore, number: int, limit: int) -> tuple[int, int]:
    plan = Plan((sliding("tokens", limit),))
    dice = random.Random(number)
    highest, held = 0, 0

    async def each() -> None:
        nonlocal highest, held
        for _ in range(60):
            cost = dice.randint(1, 4000)
            answer = await ask(store, plan, cost)
            highest = max(highest, *answer.sums)
            if answer.admitted and dice.random() < 0.5:
                store.settle(answer, (dice.randint(0, cost),))
            elif answer.admitted:
                held += cost

    await reservers(each)
    return highest, held


def part_tokens(engine: Engine, _: argparse.Namespace) -> dict[str, Any]:
    """Tokens, with concurrent refunds: the sum never exceeds the limit."""
    limit = 3_000_000
    results = in_all(worker_tokens, engine.url, limit)
    highest = max(result[0] for result in results)
    return {
        "limit": limit,
        "highest_sum": highest,
        "ok": 0.9 * limit < highest <= limit,
    }


async def worker_count(store: RedisStore, _: int, events: int) -> None:
    plan = Plan((sliding("count", 10**12, window_us=DAY_US),))

    async def each() -> None:
        for _ in range(events // PROCESSES // RESERVERS):
            await ask(store, plan, 1)

    await reservers(each)


async def peek(url: str, plan: Plan) -> list[int]:
    store = RedisStore(url, timeout_s=PATIENCE_S)
    await store.start()
    sums = await store.peek(plan.cells)
    await store.close()
    return sums


def part_count(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """Increments: none is lost. The window is a day, so none expires."""
    start = time.monotonic()
    in_all(worker_count, engine.url, args.events)
    day = Plan((sliding("count", 10**12, window_us=DAY_US),))
    total = uvloop.run(peek(engine.url, day))[0]
    asked = args.events // PROCESSES // RESERVERS * PROCESSES * RESERVERS
    seconds = round(time.monotonic() - start, 1)
    return {"asked": asked, "counted": total, "seconds": seconds, "ok": total == asked}


# -- sliding windows against an exact log --------------------------------------------


async def worker_sliding(
    store: RedisStore, number: int, events: int, limit: int
) -> list[tuple[int, int, bool]]:
    plan = Plan((sliding("log", limit, window_us=SECOND_US),))
    dice = random.Random(number)
    log: list[tuple[int, int, bool]] = []

    async def each() -> None:
        for _ in range(events // PROCESSES // RESERVERS):
            cost = dice.randint(1, 400)
            answer = await ask(store, plan, cost)
            log.append((answer.at_us, cost, answer.admitted))

    await reservers(each)
    return log


def most_in_a_window(log: list[tuple[int, int]], window_us: int) -> int:
    """The largest sum of any span of the window's length."""
    times = [at for at, _ in log]
    sums = [0, *accumulate(cost for _, cost in log)]
    return max(
        sums[last + 1] - sums[bisect_right(times, at - window_us)]
        for last, at in enumerate(times)
    )


def exact_log_admits(
    offered: list[tuple[int, int, bool]], window_us: int, limit: int
) -> int:
    """The events that an exact sliding log would admit."""
    kept: list[tuple[int, int]] = []
    oldest = in_window = total = 0
    for at, cost, _ in offered:
        while oldest < len(kept) and kept[oldest][0] <= at - window_us:
            in_window -= kept[oldest][1]
            oldest += 1
        if in_window + cost <= limit:
            kept.append((at, cost))
            in_window += cost
            total += cost
    return total


def part_sliding(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """Token-weighted events of a saturated subject, compared with the exact log."""
    limit = 400_000
    logs = in_all(worker_sliding, engine.url, args.events, limit)
    offered = sorted((event for log in logs for event in log), key=lambda e: e[0])
    return against_exact_log(offered, SECOND_US, limit)


def against_exact_log(
    offered: list[tuple[int, int, bool]], window_us: int, limit: int
) -> dict[str, Any]:
    """Admitted events compared with the limit and the exact log."""
    passed = [(at, cost) for at, cost, admitted in offered if admitted]
    most = most_in_a_window(passed, window_us)
    ours = sum(cost for _, cost in passed)
    exact = exact_log_admits(offered, window_us, limit)
    windows = (offered[-1][0] - offered[0][0]) / window_us
    return {
        "events": len(offered),
        "windows": round(windows, 1),
        "offered_over_limit": round(sum(e[1] for e in offered) / limit / windows, 2),
        "limit": limit,
        "most_in_any_window": most,
        "share_of_exact_log": round(ours / exact, 4),
        "ok": most <= limit and ours >= 0.98 * exact,
    }


def part_log(_: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """The same over two hours of event time, through the in-process arithmetic.

    (A property test compares script and arithmetic.) The load alternates between bursts
    and pauses around four times the limit.
    """
    limit, window = 100_000, SlidingWindow(MINUTE_US)
    dice = random.Random(7)
    now, offered = 1_700_000_000_000_000, []
    for number in range(args.events):
        busy = 1 + (number // 20_000) % 4
        now += dice.randrange(2 * 7200 * SECOND_US // args.events // busy * 2)
        cost = int(dice.paretovariate(1.3) * 10) % 5_000
        admitted = window.total(now) + cost <= limit
        if admitted:
            window.reserve(now, cost)
        offered.append((now, cost, admitted))
    return against_exact_log(offered, MINUTE_US, limit)


# -- faults --------------------------------------------------------------------------


async def timed(store: RedisStore, plan: Plan, *costs: int) -> tuple[Reserved, float]:
    """One reserve and its milliseconds until the answer, without scheduling delay."""
    start = time.perf_counter()
    answered: asyncio.Future[tuple[Reserved, float]]
    answered = asyncio.get_running_loop().create_future()

    def done(reserved: Reserved) -> None:
        answered.set_result((reserved, (time.perf_counter() - start) * 1e3))

    store.reserve(plan, costs, done)
    return await answered


async def worker_faults(store: RedisStore, number: int, until: float) -> dict[str, Any]:
    plan = faults_plan()
    waits: dict[bool, list[float]] = {True: [], False: []}
    settled = [0, 0]
    back_at: list[float] = []
    store.on_recovered = lambda _: back_at.append(time.time())
    dice = random.Random(number)

    async def each() -> None:
        while time.time() < until:
            was_up = store.up
            answer, took_ms = await timed(store, plan, 1, 500, 1)
            waits[was_up].append(took_ms)
            await asyncio.sleep(dice.random() * 0.4)
            tokens = dice.randint(0, 900)
            settled[0] += 1
            settled[1] += tokens
            store.settle(answer, (1, tokens, 1))

    await reservers(each)
    while not store.up or store.backlog:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.01)
    return {"settled": settled, "waits": waits, "back_at": back_at}


def faults_plan() -> Plan:
    hour = 3600 * SECOND_US
    return Plan(
        (
            sliding("fr", 10**9, meter="requests", window_us=hour),
            sliding("ft", 10**12, window_us=hour),
            concurrent("fc", 10**6),
        )
    )


def hurt(engine: Engine, freeze_s: float) -> list[float]:
    """Freeze, kill and restart the engine; when it answered again."""
    time.sleep(3)
    engine.freeze()
    time.sleep(freeze_s)
    engine.thaw()
    answers_at = [time.time()]
    time.sleep(3)
    engine.kill()
    time.sleep(1)
    engine.start()
    return [*answers_at, time.time()]


def part_faults(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """The engine is frozen, killed and restarted: settled amounts are kept."""
    until = time.time() + args.freeze + 13
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        parts = [
            pool.submit(in_process, worker_faults, engine.url, number, until)
            for number in range(PROCESSES)
        ]
        answers_at = hurt(engine, args.freeze)
        results = [part.result() for part in parts]
    books = uvloop.run(peek(engine.url, faults_plan()))
    settled = [sum(r["settled"][i] for r in results) for i in (0, 1)]
    waits = sorted(wait for r in results for wait in r["waits"][True])
    waits_open = sorted(wait for r in results for wait in r["waits"][False])
    back_s = [
        max(r["back_at"][i] for r in results) - at for i, at in enumerate(answers_at)
    ]
    return {
        "settled": [*settled, 0],
        "books": books,
        "longest_wait_ms": round(waits[-1], 1),
        "breaker_open": len(waits_open),
        "breaker_open_p50_ms": round(waits_open[len(waits_open) // 2], 3),
        "breaker_open_p999_ms": round(waits_open[int(len(waits_open) * 0.999)], 3),
        "breaker_open_longest_ms": round(waits_open[-1], 3),
        "back_after_freeze_and_kill_s": [round(s, 2) for s in back_s],
        "ok": books == [*settled, 0],
    }


PARTS = {
    "admit": part_admit,
    "tokens": part_tokens,
    "count": part_count,
    "sliding": part_sliding,
    "log": part_log,
    "faults": part_faults,
}


def main() -> int:
    """Run every part on its own engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="embedded", choices=["embedded", "redis"])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--freeze", type=float, default=10.0)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    args = parser.parse_args()
    failed = False
    for name in args.parts:
        with running_engine(engine_binaries()[args.engine]) as engine:
            result = PARTS[name](engine, args)
        failed |= not result["ok"]
        print(json.dumps({"part": name, **result}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
