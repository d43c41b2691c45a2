"""Cells, plans and answers for tests of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.core.model import CellKind, Limit, Meter
from gateway.limits.ports import Cell, Plan, Reserved

MINUTE_US = 60_000_000


def sliding(
    key: str,
    amount: int,
    *,
    meter: Meter = "tokens",
    window_us: int = MINUTE_US,
    overdraft: int = 0,
) -> Cell:
    """A sliding counter whose key has a hash tag as in production."""
    limit = Limit(per="user", meter=meter, amount=amount, window_us=window_us)
    return Cell(_key(key), CellKind.SLIDING, window_us, amount, limit, 0.0, overdraft)


def calendar(
    key: str,
    amount: int,
    ends_at: float,
    *,
    meter: Meter = "usd",
    overdraft: int = 0,
) -> Cell:
    """A counter of a calendar period that ends at ``ends_at`` (epoch seconds)."""
    limit = Limit(per="user", meter=meter, amount=amount, calendar="day")
    return Cell(_key(key), CellKind.CALENDAR, 0, amount, limit, ends_at, overdraft)


def concurrent(key: str, amount: int, *, lease_us: int = MINUTE_US) -> Cell:
    """A counter of open exchanges."""
    limit = Limit(per="user", meter="concurrent", amount=amount)
    return Cell(_key(key), CellKind.CONCURRENT, lease_us, amount, limit)


def _key(name: str) -> bytes:
    return b"tidegate:1:{t}:w:" + name.encode()


async def reserve(
    store: Any,
    plan: Plan,
    *costs: int,
    least: Sequence[int] | None = None,
) -> Reserved:
    """Reserve, and wait for the answer."""
    answered: asyncio.Future[Reserved] = asyncio.get_running_loop().create_future()
    store.reserve(plan, costs, answered.set_result, least)
    return await answered


async def reserve_all(
    store: Any, plan: Plan, many: Sequence[Sequence[int]]
) -> list[Reserved]:
    """Send many reserves in one loop iteration; their answers in order."""
    loop = asyncio.get_running_loop()
    answers = [loop.create_future() for _ in many]
    for costs, answered in zip(many, answers, strict=True):
        store.reserve(plan, costs, answered.set_result)
    return [await answered for answered in answers]
