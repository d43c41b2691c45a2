"""The store port: cells, plans, answers, and the Protocol that every store implements.

Callbacks instead of futures on the hot path: a request costs microseconds here, of which
a task or a future per request would be a large part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gateway.core.model import CellKind, Limit

_NONE: Mapping[int, int] = {}


class Cell(msgspec.Struct, frozen=True):
    """One counter that a request touches: a limit applied to one subject.

    ``key`` is the complete store key (``plans.store_key``); limits that differ only in
    their amount share it.
    """

    key: bytes
    kind: CellKind
    window_us: int  # SLIDING: length of the window; CALENDAR: 0; CONCURRENT: lease
    amount: int
    limit: Limit
    # CALENDAR: epoch seconds at which the period (and the key) ends; else 0.
    ends_at: float = 0.0
    # Reservations that may cost less than they reserve may exceed ``amount`` by this.
    overdraft: int = 0


class Plan:
    """All cells of one (tenant, subjects, model), which are reserved and settled together.

    Built once per identity and cached. The store owns ``packed`` (its wire form of the
    cells), ``seen`` and ``seen_us`` (sums of the last answer, and the store's clock then).

    ``edges``: indices of the cells whose edge is held (``edges.EdgePlan``): the call may
    cost more there than fits. ``looks``: indices of the cells that must have room and that
    count nothing, each with that of its tally (``strangers.StrangerPlan``). Tallies are the
    last cells, in the same order.
    """

    __slots__ = ("cells", "edges", "looks", "packed", "seen", "seen_us", "tag")

    def __init__(self, cells: tuple[Cell, ...], tag: bytes = b"") -> None:
        self.cells = cells
        self.edges: frozenset[int] = frozenset()
        self.looks: Mapping[int, int] = _NONE
        self.tag = tag  # the tenant's hash tag: on a cluster, one store call per tag
        self.packed: Any = None
        self.seen: Sequence[int] = ()
        self.seen_us = 0


class Reserved:
    """The answer to one reserve, and the handle to settle it.

    ``admitted`` False: nothing was counted, ``violated`` is the index of the first
    cell without room, ``retry_after`` the seconds until it has room. ``sums`` are the
    sums of ``plan.cells`` after this reserve (before it, when refused). ``frees_at``
    (``loop.time()`` clock, 0 when unknown): until then no refund can make room for a
    cost of 1 in the violated cell, because settled weight alone fills it.

    ``costs``: the most that the call may cost, by cell. ``least``: what it is expected
    to cost; where it equals ``costs``, the cost is certain.
    """

    __slots__ = (
        "admitted",
        "at_us",
        "costs",
        "frees_at",
        "lease",
        "least",
        "local",
        "plan",
        "retry_after",
        "state",
        "sums",
        "violated",
    )

    def __init__(
        self,
        plan: Plan,
        costs: Sequence[int],
        least: Sequence[int] | None = None,
    ) -> None:
        self.plan = plan
        self.costs = costs
        self.least = costs if least is None else least
        self.admitted = False
        self.violated = -1
        self.retry_after = 0.0
        self.frees_at = 0.0
        self.sums: Sequence[int] = ()
        self.at_us = 0  # store clock of the reserve: refunds go back to that bucket
        self.local = False  # decided without the store (circuit breaker open)
        self.lease = b""  # lease member of CONCURRENT cells
        self.state = 0  # owned by the store


class WorkAnswer(msgspec.Struct):
    """What the store knows about work that is paid later.

    ``known`` False: the store did not answer. ``notes``: taken, or kept (empty: there was
    no room). ``dropped``: notes of other works that waited for too long, or were the
    oldest of too many; they are removed.
    """

    known: bool = True
    notes: list[bytes] = []
    dropped: list[bytes] = []


class Works(Protocol):
    """Notes of work that is paid later, shared as the counters are.

    ``tag``: the hash tag of the tenant. ``done`` is called once, at once or later.
    """

    def keep(
        self, tag: bytes, work: bytes, note: bytes, done: Callable[[WorkAnswer], None]
    ) -> None:
        """Keep a note under the work's id; a second one is kept beside the first."""
        ...

    def take(self, tag: bytes, work: bytes, done: Callable[[WorkAnswer], None]) -> None:
        """Remove the notes of one work and answer them: to one caller only."""
        ...

    def resume(self, plan: Plan, costs: Sequence[int], at_us: int) -> Reserved:
        """A handle to settle what was reserved at ``at_us``, perhaps by another worker."""
        ...


class Store(Protocol):
    """Counters shared by all workers and machines.

    ``reserve`` is atomic over ``plan.cells``: ``costs[i]`` is added to cell i if every
    cell has room (``windows.fits``), else nothing is. ``done`` is called exactly once with
    the answer, at once or in a later iteration of the event loop. It never fails: while
    the store is down, the answer comes from local windows (``store.when_down``).

    ``settle`` replaces the reserved costs by the actual ones, exactly once per admitted
    reserve, in the order of ``costs``; in CONCURRENT cells the figure is ignored and the
    lease ends. A surplus is refunded to the bucket of the reserve; a deficit is charged
    to the current bucket, even beyond the limit.
    """

    def reserve(
        self,
        plan: Plan,
        costs: Sequence[int],
        done: Callable[[Reserved], None],
        least: Sequence[int] | None = None,
    ) -> Reserved:
        """See ``Reserved``; without ``least`` the costs are certain."""
        ...

    def settle(self, reserved: Reserved, actual: Sequence[int]) -> None: ...

    def hold(self, plan: Plan, costs: Sequence[int]) -> Reserved:
        """Reserve even beyond the limits: what was admitted in another way."""
        ...

    def charge(self, plan: Plan, actual: Sequence[int]) -> None:
        """Count an exchange that passed without a reservation (observe mode), even
        beyond the limits. CONCURRENT cells are not changed.
        """
        ...

    def renew(self, reserved: Reserved) -> None:
        """Extend the leases of a long exchange."""
        ...

    def detach(self, reserved: Reserved) -> bool:
        """End the leases of an admitted reservation; the rest stays reserved until a
        ``works.resume`` of it is settled. False: the store does not have it (it is away), and
        nothing has changed.
        """
        ...

    works: Works

    async def start(self) -> None: ...

    async def peek(self, cells: Sequence[Cell]) -> list[int]:
        """Read the current sums."""
        ...

    async def reset(self, cells: Sequence[Cell]) -> None:
        """Delete these counters."""
        ...

    async def close(self) -> None:
        """Send everything still queued, for a few seconds at most."""
        ...

    @property
    def up(self) -> bool: ...

    last_error: str
    """Why it is unavailable."""
    replicas: int
    """Number of limiters among which limits are divided while it is unavailable."""
    on_degraded: Callable[[str], None] | None
    """Called with the reason when limits are no longer shared."""
    on_recovered: Callable[[int], None] | None
    """Called with the number of exchanges merged when they are shared again."""

    @property
    def degraded(self) -> bool:
        """Whether ``on_degraded`` was called and ``on_recovered`` was not yet."""
        ...

    def statistics(self) -> dict[str, int]:
        """Counters for the worker's statistics, by field."""
        ...

    def dropped_counts(self) -> dict[str, int]:
        """What was dropped because a table was full, by reason."""
        ...

    def now_us(self) -> int:
        """Best estimate of the store's clock, epoch microseconds."""
        ...
