"""What the edges promise the rest: the Protocols that concrete classes fulfil.

Callbacks instead of futures on the hot path: a request costs microseconds here, and a
task or a future per request would be a large part of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from gateway.core.model import CellKind, Limit


class Cell(msgspec.Struct, frozen=True):
    """One counter that a request touches: a limit applied to one subject.

    ``key`` is the complete store key, already hashed and tagged by ``{tenant}``; two
    limits that differ only in their amount share a key. ``limit_name`` is for answers
    and records.
    """

    key: bytes
    kind: CellKind
    window_us: int  # SLIDING: length of the window; CALENDAR: 0; CONCURRENT: lease
    amount: int
    limit: Limit
    # CALENDAR: epoch seconds at which the period (and the key) ends; else 0.
    ends_at: float = 0.0


class Plan:
    """All cells of one (tenant, subjects, model): what reserve and settle work on.

    Built once per identity and cached, so that the packed form is ready. ``packed`` is
    owned by the store (its own wire form of the cells), and so are ``seen`` and
    ``seen_us``: the sums of the last answer and the store's clock then.
    """

    __slots__ = ("cells", "packed", "seen", "seen_us", "tag")

    def __init__(self, cells: tuple[Cell, ...], tag: bytes = b"") -> None:
        self.cells = cells
        self.tag = tag  # the tenant's hash tag: one store call per tag on a cluster
        self.packed: Any = None
        self.seen: Sequence[int] = ()
        self.seen_us = 0


class Reserved:
    """The answer to one reserve; also the handle by which it is settled.

    ``admitted`` False: nothing was counted, ``violated`` is the index of the first
    cell that has no room, ``retry_after`` the seconds until it has. ``sums`` are the
    cells' sums after this reserve (before it, when refused), same order as
    ``plan.cells``. ``frees_at`` (``loop.time()`` clock, 0 when unknown): until then no
    refund can make room for a request of the least possible cost (one request, one
    token) in the violated cell, because settled weight alone fills it.
    """

    __slots__ = (
        "admitted",
        "at_us",
        "costs",
        "frees_at",
        "lease",
        "local",
        "plan",
        "retry_after",
        "state",
        "sums",
        "violated",
    )

    def __init__(self, plan: Plan, costs: Sequence[int]) -> None:
        self.plan = plan
        self.costs = costs
        self.admitted = False
        self.violated = -1
        self.retry_after = 0.0
        self.frees_at = 0.0
        self.sums: Sequence[int] = ()
        self.at_us = 0  # store clock of the reserve: refunds go back to that bucket
        self.local = False  # decided without the store (breaker open)
        self.lease = b""  # lease member of CONCURRENT cells
        self.state = 0  # owned by the store


class Store(Protocol):
    """Counters shared by every worker and machine.

    ``reserve`` is all or none over ``plan.cells``: ``costs[i]`` is added to cell i if
    every cell stays within its amount. ``done`` is called exactly once, in a later turn
    of the loop or at once, with the answer; it never fails: when the store is away the
    answer comes from local windows (``when_down``).

    ``settle`` says what the exchange really cost, exactly once per admitted reserve,
    same order and length as ``costs``; for CONCURRENT cells the figure is ignored and
    the lease ends. Less than reserved goes back to the bucket of the reserve, more is
    charged to the current bucket, whatever the limit says.
    """

    def reserve(
        self, plan: Plan, costs: Sequence[int], done: Callable[[Reserved], None]
    ) -> Reserved: ...

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> None: ...

    def charge(self, plan: Plan, actual: Sequence[int]) -> None:
        """Count what passed without a reservation (observe mode), whatever the limits
        say. CONCURRENT cells are left alone.
        """
        ...

    def renew(self, reserved: Reserved) -> None:
        """Prolong the leases of a long exchange."""
        ...

    async def start(self) -> None: ...

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Sums now, nothing counted."""
        ...

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Forget these counters."""
        ...

    async def close(self) -> None:
        """Send everything still queued, at most for a few seconds."""
        ...

    @property
    def up(self) -> bool: ...

    def now_us(self) -> int:
        """Best estimate of the store's clock, epoch microseconds."""
        ...
