"""The edge of a limit: calls that may cost more than is left, one at a time.

A call without a cap (or with one beyond the limit) may cost any amount. Where its most
does not fit, it takes the edge of the counter: a lease of which there is one. It then
reserves only what it is expected to cost, so that others go on beside it. So what is
settled exceeds a limit and its overdraft by the answer of one such call at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.model import CellKind, Limit
from gateway.limits.plans import LEASE_US, LimitPlan
from gateway.limits.ports import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.limits.ports import Reserved

_SUFFIX: Final = b":edge"


class EdgePlan(LimitPlan):
    """``base`` and the edges of the cells at ``places``, which are its last cells."""

    __slots__ = ("base", "places")

    def __init__(self, base: LimitPlan, places: tuple[int, ...]) -> None:
        leases = tuple(edge_cell(base.cells[place]) for place in places)
        super().__init__((*base.cells, *leases), base.tag, base.headers)
        self.base = base
        self.places = places
        self.edges = frozenset(places)
        if base.unthrottled is not None:  # the throttle's cell has no edge
            self.unthrottled = with_edges(base.unthrottled, places)

    def costs(
        self, most: tuple[int, ...], least: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The costs to reserve and the least, of a call with these by cell of ``base``."""
        ones = (1,) * len(self.places)
        costs = (
            low if place in self.edges else high
            for place, (high, low) in enumerate(zip(most, least, strict=True))
        )
        return (*costs, *ones), (*least, *ones)


def edge_cell(cell: Cell) -> Cell:
    """The lease of which one call can hold the edge of this counter."""
    limit = Limit(cell.limit.per, "concurrent", 1)
    return Cell(cell.key + _SUFFIX, CellKind.CONCURRENT, LEASE_US, 1, limit)


def with_edges(plan: LimitPlan, places: Iterable[int]) -> EdgePlan:
    """``plan`` with the edges of these cells, besides those that it has already."""
    base, held = (plan.base, plan.edges) if isinstance(plan, EdgePlan) else (plan, ())
    key = tuple(sorted({*held, *places}))
    if base.edge_plans is None:
        base.edge_plans = {}
    found = base.edge_plans.get(key)
    if found is None:
        found = base.edge_plans[key] = EdgePlan(base, key)
    return found


def without_edges(plan: LimitPlan) -> LimitPlan:
    """The plan of the limits alone."""
    return plan.base if isinstance(plan, EdgePlan) else plan


def too_large(
    plan: LimitPlan, most: tuple[int, ...], least: tuple[int, ...]
) -> list[int]:
    """The cells that could not hold the most that a call may cost even when empty."""
    return [
        place
        for place, (high, low) in enumerate(zip(most, least, strict=True))
        if high > plan.ceilings[place] and high > low
    ]


def missing_edge(reserved: Reserved) -> int:
    """The cell whose edge would admit the call that was refused; -1: none."""
    place, plan = reserved.violated, reserved.plan
    if place < 0 or place in plan.edges or reserved.frees_at:
        return -1
    return place if reserved.costs[place] > reserved.least[place] else -1


def what_is_left(
    plan: LimitPlan, reserved: Reserved
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """All that is left for a call that was refused, of those limits that it does not use
    up itself: the costs, and the least.
    """
    left = tuple(
        max(min(cost, ceiling - used), min(cost, 1))
        for cost, ceiling, used in zip(
            reserved.costs, plan.ceilings, reserved.sums, strict=True
        )
    )
    return left, tuple(map(min, left, reserved.least))


def name_limit(reserved: Reserved) -> None:
    """If an edge was taken, name the limit that it belongs to as the one without room."""
    plan = reserved.plan
    if isinstance(plan, EdgePlan):
        beyond = reserved.violated - len(plan.base.cells)
        if beyond >= 0:
            reserved.violated = plan.places[beyond]
