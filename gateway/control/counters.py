"""Read and reset the limit counters of one subject, for operators."""

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
    """Counters of one subject, read and reset through the workers: they hold the store's
    connections, and a reset also clears their local windows and over-limit caches.
    """

    def __init__(
        self,
        prefix: bytes,
        workers: WorkerRegistry,
        canonical: Callable[[str], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._canonical = canonical
        self._prefix = prefix
        self._workers = workers
        self._clock = clock

    def cells(
        self, resolved: Resolved, kind: str, id_: str, tenants: Iterable[str] | None
    ) -> list[tuple[str, Cell]]:
        """Pairs of tenant and counter of the subject; ``tenants`` None: of all tenants."""
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
                    canonical=self._canonical,
                )
                found += ((name, cell) for cell in subject_cells)
        return found

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Current sums of ``cells``. Raises CallError."""
        return read_sums(await self._workers.call_one("peek", {"cells": list(cells)}))

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Reset ``cells`` in the store and in every worker. Raises CallError."""
        await self._workers.call_all("reset", {"cells": list(cells)})


def _policies(resolved: Resolved) -> list[tuple[str, Policy]]:
    policies = [(tenant.name, tenant.policy) for tenant in resolved.tenants]
    if resolved.anonymous is not None:
        policies.append(("anonymous", resolved.anonymous))
    return policies


def public_limit(tenant: str, cell: Cell, used: int, now: float) -> dict[str, Any]:
    """A limit and its use in the form of the admin API. ``free_at``: latest time at which
    all of it is free again without further requests; null if it is free or not known.
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
    # A sub-bucket counts until it has left the window as a whole.
    return now + cell.window_us / 1e6 * (1 + 1 / SUB_BUCKETS)
