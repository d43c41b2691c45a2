"""The store's script gives the same results as the in-process limiter at every step.

The engine's clock cannot be set, so the model uses the times that the engine reports.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gateway.limits.ports import Plan, Reserved
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.store.states import HELD
from tests.cells import concurrent, reserve, sliding
from tests.engines import engine_binaries, running_engine

COSTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 1))
COUNTERS = ("a", "b", "c")


def copy_of(plan: Plan) -> Plan:
    """The same plan for another store."""
    copy = Plan(plan.cells)
    copy.edges, copy.looks = plan.edges, plan.looks
    return copy


def of_stranger(plan: Plan) -> Plan:
    """A plan that looks at the first and the last cell, and counts in their tallies."""
    first, _, last = (cell.key.rpartition(b":")[2].decode() for cell in plan.cells)
    tallies = (
        sliding(first + ":new", 1 << 53, window_us=3_000_000),
        concurrent(last + ":new", 1 << 53),
    )
    found = Plan((*plan.cells, *tallies))
    found.looks = {0: 3, 2: 4}
    return found


def padded(
    plan: Plan, costs: tuple[int, ...], more: tuple[int, ...]
) -> tuple[int, ...]:
    """Costs with those of the tallies, if there are any."""
    return (*costs, more[0], more[2]) if plan.looks else costs


class StoreAgainstModel(RuleBasedStateMachine):
    """Random reserves, settlements and pauses on a few counters with short windows."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now_us = 0
        self.model = MemoryStore(clock=lambda: self.now_us)
        self.store = self.run(self.open())
        prefix = os.urandom(6).hex()
        self.plans = [
            Plan(
                (
                    sliding(prefix + one, 100, window_us=1_000_000, overdraft=10),
                    sliding(
                        prefix + other + "2", 150, window_us=3_000_000, overdraft=40
                    ),
                    concurrent(prefix + one + "3", 4),
                )
            )
            for one in COUNTERS
            for other in COUNTERS
        ]
        for plan in self.plans[:9]:
            edged = Plan(plan.cells)
            edged.edges = frozenset({0})
            self.plans.append(edged)
        self.plans += [of_stranger(plan) for plan in self.plans[:9]]
        self.open_pairs: list[tuple[Reserved, Reserved]] = []

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def open(self) -> RedisStore:
        store = RedisStore(self.url, timeout_s=5.0)
        await store.start()
        return store

    @rule(
        index=st.integers(0, 26),
        costs=COSTS,
        share=st.sampled_from((0.0, 0.3, 1.0)),
        times=st.sampled_from((1, 5)),
    )
    def reserve(
        self,
        index: int,
        costs: tuple[int, int, int],
        share: float,
        times: int,
    ) -> None:
        """Both admit or both refuse, with equal sums and waits."""
        plan = self.plans[index]
        # Costs up to beyond the limits, of which a share is expected.
        costs = (costs[0] * times, costs[1] * times, costs[2])
        low = (int(costs[0] * share), int(costs[1] * share), costs[2])
        least, most = padded(plan, low, costs), padded(plan, costs, costs)
        real = self.run(reserve(self.store, plan, *most, least=least))
        self.now_us = real.at_us
        twin = Reserved(copy_of(plan), most, least)
        twin.lease = real.lease
        self.model.decide(twin)
        assert (real.admitted, real.violated) == (twin.admitted, twin.violated)
        assert list(real.sums) == list(twin.sums)
        assert real.retry_after == twin.retry_after
        assert (real.frees_at > 0) == (twin.frees_at > 0)
        if real.admitted:
            self.open_pairs.append((real, twin))

    @precondition(lambda self: self.open_pairs)
    @rule(which=st.integers(0, 50), actual=COSTS)
    def settle(self, which: int, actual: tuple[int, int, int]) -> None:
        """Sums are equal after a settlement."""
        real, twin = self.open_pairs.pop(which % len(self.open_pairs))
        actual = padded(real.plan, actual, (0, 0, 0))
        probe = self.run(self.settle_and_probe(real, actual))
        self.now_us = probe.at_us
        assert twin.state == HELD
        self.model.settle(twin, actual)
        assert list(probe.sums) == self.model.sums(real.plan.cells)

    async def settle_and_probe(
        self, real: Reserved, actual: tuple[int, ...]
    ) -> Reserved:
        """Both operations go into one call, so at the same time of the engine."""
        self.store.settle(real, actual)
        return await reserve(self.store, real.plan, *(0,) * len(real.plan.cells))

    @rule(wait_ms=st.integers(1, 40))
    def wait(self, wait_ms: int) -> None:
        """Let time pass in the engine."""
        self.run(asyncio.sleep(wait_ms / 1000))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()


def test_the_script_and_the_in_process_limiter_agree():
    """Every sequence of operations has the same effect on both."""
    binary = next(iter(engine_binaries().values()), None)
    if binary is None:
        pytest.skip("no engine on this machine")
    with running_engine(binary, "--appendonly", "no") as engine:
        StoreAgainstModel.url = engine.url
        case = StoreAgainstModel.TestCase
        case.settings = settings(
            max_examples=settings().max_examples // 4,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case("runTest").runTest()
