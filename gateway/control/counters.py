"""A subject's counters, looked at and reset by operators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.admin.clients import moment
from gateway.config.resolve import Resolved
from gateway.control.workers import WorkerRegistry, read_sums
from gateway.core.model import SUB_BUCKETS, Policy
from gateway.limits.meters import METER_TABLE
from gateway.limits.plans import cells_of_subject
from gateway.limits.ports import Cell


class SubjectCounters:
    """Asks the workers: they have the store's connections, and what they keep of a
    subject themselves (local windows, who was over a limit) is forgotten with it.
    """

    def __init__(
        self,
        prefix: bytes,
        roster: WorkerRegistry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._prefix = prefix
        self._roster = roster
        self._clock = clock

    def cells(
        self, resolved: Resolved, kind: str, id_: str, tenants: Iterable[str] | None
    ) -> list[tuple[str, Cell]]:
        """The subject's counters with their tenants; ``tenants`` None: all."""
        wanted = None if tenants is None else set(tenants)
        found: list[tuple[str, Cell]] = []
        for name, policy in _policies(resolved):
            if wanted is None or name in wanted:
                subject_cells = cells_of_subject(
                    policy,
                    name,
                    kind,
                    id_,
                    self._clock(),
                    prefix=self._prefix,
                    timezone=resolved.timezone,
                )
                found += ((name, cell) for cell in subject_cells)
        return found

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Sums now. Raises CallError."""
        return read_sums(await self._roster.call_one("peek", {"cells": list(cells)}))

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Forget them, in the store and in every worker. Raises CallError."""
        await self._roster.call_all("reset", {"cells": list(cells)})


def _policies(resolved: Resolved) -> list[tuple[str, Policy]]:
    policies = [(tenant.name, tenant.policy) for tenant in resolved.tenants]
    if resolved.anonymous is not None:
        policies.append(("anonymous", resolved.anonymous))
    return policies


def public_limit(tenant: str, cell: Cell, used: int, now: float) -> dict[str, Any]:
    """A limit with what is used of it, as the admin API shows it. ``free_at``: when all
    of it is free again at the latest, if nothing else comes; null: it is, or nobody knows.
    """
    spec = METER_TABLE[cell.limit.meter]
    amount, spent = spec.in_units(cell.amount), spec.in_units(used)
    at = _free_at(cell, used, now)
    return {
        "tenant": tenant,
        "limit": cell.limit.name,
        "models": list(cell.limit.models),
        "amount": amount,
        "used": spent,
        "remaining": max(0, amount - spent),
        "free_at": None if at is None else moment(at),
    }


def _free_at(cell: Cell, used: int, now: float) -> float | None:
    if not used or METER_TABLE[cell.limit.meter].leased:
        return None
    if cell.ends_at:
        return cell.ends_at
    # A part of a window counts until all of it is over.
    return now + cell.window_us / 1e6 * (1 + 1 / SUB_BUCKETS)
