"""Limits against adversarial answer sizes: four processes on one engine.

usage: python loadtests/overrun.py [--engine embedded|redis] [--calls 4000] [part...]
parts: tokens, usd, calendar, uncapped, honest, honest-capped-high, honest-uncapped
(default: all, about a minute and a half)

Each process trains the expectation with one-token answers, then makes parallel calls with
large caps that use all of them, mixed with short ones. Prints one JSON line per part:
``settled`` is the most that any window holds, ``bound`` what docs/policies.md promises;
``shares`` what honest calls (caps of 4,000 tokens, of 8,000, none and no stream) use of
the limit in windows one after another.
Exit code 1 when a part fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.core.model import CellKind, Limit, RequestFacts
from gateway.limits.admission import demand
from gateway.limits.edges import missing_edge, too_large, with_edges
from gateway.limits.plans import LimitPlan
from gateway.limits.ports import Cell, Reserved
from gateway.metering.usage import CompletionExpectation
from gateway.proxy.steps.reserve import UNSEEN
from gateway.store.redis import RedisStore
from loadtests.exactness import in_all, most_in_a_window
from tests.engines import engine_binaries, running_engine

OVERDRAFT = 0.1
ASSUMED = 4096
PROMPT = 10
SECOND_US = 1_000_000
WINDOW_US = 2 * SECOND_US
WINDOWS = 7
TASKS = 40
NANOS_PER_TOKEN = 10_000
LIMIT = 100_000
LONGEST_UNCAPPED = 30_000


def plan_of(part: str) -> LimitPlan:
    """A plan of one limit."""
    usd = part in ("usd", "calendar")
    amount = LIMIT * NANOS_PER_TOKEN if usd else LIMIT
    window_us = 0 if part == "calendar" else WINDOW_US
    limit = Limit("user", "usd" if usd else "tokens", amount, window_us)
    kind = CellKind.CALENDAR if part == "calendar" else CellKind.SLIDING
    ends_at = time.time() // 3600 * 3600 + 7200 if part == "calendar" else 0.0
    key = b"tidegate:1:{t}:w:overrun-" + part.encode()
    overdraft = int(amount * OVERDRAFT)
    return LimitPlan((Cell(key, kind, window_us, amount, limit, ends_at, overdraft),))


async def ask(
    store: RedisStore, plan: LimitPlan, costs: tuple[int, ...], least: tuple[int, ...]
) -> Reserved:
    """Reserve once."""
    answered: asyncio.Future[Reserved] = asyncio.get_running_loop().create_future()
    store.reserve(plan, costs, answered.set_result, least)
    return await answered


class Client:
    """Calls as the gateway makes them: bounds, demand, reserve, settle."""

    def __init__(self, store: RedisStore, part: str, number: int) -> None:
        self.store = store
        self.part = part
        self.plan = plan_of(part)
        self.expectation = CompletionExpectation()
        self.dice = random.Random(number)
        self.unit = NANOS_PER_TOKEN if part in ("usd", "calendar") else 1
        self.log: list[tuple[int, int]] = []
        self.asked = self.refused = 0

    async def call(self, max_tokens: int | None, answer: int, took_s: float) -> bool:
        """One call; its settled cost counts at the time when it was reserved."""
        facts = RequestFacts("chat.completions", max_tokens=max_tokens)
        most, expected, capped = self.expectation.bounds("user", facts, ASSUMED)
        most = most if capped else max(most, UNSEEN * ASSUMED)
        expected = min(expected, self.plan.slack_tokens)
        costs = ((PROMPT + most) * self.unit,)
        least = ((PROMPT + expected) * self.unit,)
        asked = demand(self.plan, costs, least, capped=capped)
        plan, places = self.plan, too_large(self.plan, costs, least)
        if places:
            plan, (costs, least) = self.at_edge(places, costs, least)
        reserved = await ask(self.store, plan, costs, least)
        place = missing_edge(reserved)
        if not reserved.admitted and asked.unbounded and place >= 0:
            plan, (costs, least) = self.at_edge([place], costs, least)
            reserved = await ask(self.store, plan, costs, least)
        self.asked += 1
        if not reserved.admitted:
            self.refused += 1
            return False
        await asyncio.sleep(took_s)
        cost = (PROMPT + answer) * self.unit
        self.store.settle(reserved, plan.pick((1, cost, 0, 0, cost)))
        self.expectation.learn("user", answer)
        self.log.append((reserved.at_us, cost))
        return True

    def at_edge(
        self, places: list[int], costs: tuple[int, ...], least: tuple[int, ...]
    ) -> tuple[LimitPlan, tuple[tuple[int, ...], tuple[int, ...]]]:
        """The plan with the edges of these cells, and the costs there."""
        plan = with_edges(self.plan, places)
        return plan, plan.costs(costs, least)

    async def attack(self, calls: int) -> None:
        """Short answers first, then the largest that the caps allow."""
        dice, uncapped = self.dice, self.part == "uncapped"
        for _ in range(25):
            await self.call(None, 1, 0)

        async def each() -> None:
            for _ in range(calls // TASKS):
                if dice.random() < 0.3:
                    await self.call(500, 1, 0.002)
                elif uncapped and dice.random() < 0.5:
                    size = dice.choice((1, 300, LONGEST_UNCAPPED))
                    await self.call(None, size, dice.random() * 0.1)
                else:
                    cap = dice.choice((2_000, 8_000, 30_000, 64_000))
                    await self.call(cap, cap, dice.random() * 0.1)

        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(each())

    async def behave(self, seconds: float) -> None:
        """Answers far below their caps, as much as the limit allows."""
        until = time.monotonic() + seconds
        cap = {"honest": 4_000, "honest-capped-high": 8_000}.get(self.part)

        async def each() -> None:
            while time.monotonic() < until:
                size = self.dice.randint(50, 600)
                if not await self.call(cap, size, 0.02):
                    await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(each())


async def worker(store: RedisStore, number: int, part: str, calls: int) -> Any:
    """One process."""
    client = Client(store, part, number)
    if part in HONEST:
        await client.behave(WINDOWS * WINDOW_US / 1e6)
    else:
        await client.attack(calls)
    return client.log, client.asked, client.refused


def run_part(part: str, url: str, calls: int) -> dict[str, Any]:
    """One part in all processes."""
    results = in_all(worker, url, part, calls)
    log = sorted(entry for result in results for entry in result[0])
    unit = NANOS_PER_TOKEN if part in ("usd", "calendar") else 1
    bound = int(LIMIT * (1 + OVERDRAFT)) + (
        PROMPT + LONGEST_UNCAPPED if part == "uncapped" else 0
    )
    window_us = 10**15 if part == "calendar" else WINDOW_US
    settled = most_in_a_window(log, window_us) // unit
    figures = {
        "asked": sum(result[1] for result in results),
        "refused": sum(result[2] for result in results),
        "limit": LIMIT,
        "settled": settled,
        "bound": bound,
        "ok": 0.9 * LIMIT <= settled <= bound or (settled <= bound and part in HONEST),
    }
    if part in HONEST:
        # Of whole windows one after another, with the pauses of refused clients.
        shares = [0] * WINDOWS
        for at, cost in log:
            window = (at - log[0][0]) // window_us
            if window < WINDOWS:
                shares[window] += cost
        figures["shares"] = [round(share / LIMIT, 3) for share in shares[:-1]]
        figures["share_of_limit"] = round(sum(shares[:-1]) / (WINDOWS - 1) / LIMIT, 3)
        figures["ok"] &= part != "honest" or figures["share_of_limit"] >= 0.9
    return figures


HONEST = ("honest", "honest-capped-high", "honest-uncapped")
PARTS = ("tokens", "usd", "calendar", "uncapped", *HONEST)


def main() -> int:
    """Run every part on its own engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="embedded", choices=["embedded", "redis"])
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    args = parser.parse_args()
    failed = False
    for part in args.parts:
        with running_engine(engine_binaries()[args.engine]) as engine:
            result = run_part(part, engine.url, args.calls)
        failed |= not result["ok"]
        print(json.dumps({"part": part, **result}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
