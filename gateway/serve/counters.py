"""A subject's counters, looked at and reset by operators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.config.resolve import Resolved
from gateway.core.model import NANOS_PER_USD, Policy
from gateway.core.plans import cells_of_subject
from gateway.core.ports import Cell, Store
from gateway.serve.roster import CallError, Roster, read_sums
from gateway.store import StoreUnavailable, open_store


class CountersAway(Exception):  # noqa: N818 - the store's state, not a fault
    """The counters cannot be reached now."""


class CounterDesk:
    """Through a connection of its own; with ``memory:`` through the worker."""

    def __init__(
        self,
        store_url: str,
        prefix: bytes,
        roster: Roster,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = store_url
        self._prefix = prefix
        self._roster = roster
        self._clock = clock
        self._in_worker = store_url.startswith("memory:")
        self._store: Store | None = None

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
        """Sums now. Raises CountersAway."""
        return await self._do("peek", cells)

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Forget them. Raises CountersAway."""
        await self._do("reset", cells)

    async def _do(self, method: str, cells: Sequence[Cell]) -> list[int]:
        try:
            if self._in_worker:
                answers = await self._roster.call(method, {"cells": list(cells)})
                return read_sums(answers[0])
            store = await self._open()
            if method == "peek":
                return await store.peek(cells)
            await store.reset(cells)
        except (CallError, StoreUnavailable, OSError) as error:
            raise CountersAway(str(error)) from error
        return []

    async def _open(self) -> Store:
        if self._store is None:
            self._store = open_store(self._url, prefix=self._prefix, timeout_s=1.0)
            await self._store.start()
        return self._store

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._store is not None:
            await self._store.close()


def _policies(resolved: Resolved) -> list[tuple[str, Policy]]:
    policies = [(tenant.name, tenant.policy) for tenant in resolved.tenants]
    if resolved.anonymous is not None:
        policies.append(("anonymous", resolved.anonymous))
    return policies


def public_limit(tenant: str, cell: Cell, used: int) -> dict[str, Any]:
    """A limit with what is used of it, as the admin API shows it."""
    amount: float = cell.amount
    spent: float = used
    if cell.limit.meter == "usd":
        amount, spent = amount / NANOS_PER_USD, spent / NANOS_PER_USD
    return {
        "tenant": tenant,
        "limit": cell.limit.name,
        "models": list(cell.limit.models),
        "amount": amount,
        "used": spent,
        "remaining": max(0, amount - spent),
    }
