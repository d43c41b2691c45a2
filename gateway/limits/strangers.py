"""Strangers: clients whose credential only the upstream can check, and has not accepted.

Anyone can send an invalid key. Until the upstream has accepted the credential, a call
must have room in the limits that other clients share (of the tenant, a model, a named
key), beside all other strangers. But it is counted in a tally beside the counter, which
only strangers look at: what strangers hold refuses nobody whose credential is known. When
the upstream accepts it, what the call reserves moves from the tally to the counter
(``Store.hold``). When it refuses it, or never answers, the shared counters stay as they are.

Addresses from which an invalid credential has come are suspects: their strangers have
tallies of their own, so that they do not refuse newcomers from elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.model import CellKind
from gateway.limits.edges import EdgePlan
from gateway.limits.plans import THROTTLED, LimitPlan
from gateway.limits.ports import Cell, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

# At the end of the keys of tallies and of edges, of strangers and of suspects.
_SUFFIX: Final = (b":new", b":suspect")
# Tallies forget what a killed worker has left in them after this time, and so they do with
# a call that waits longer for its status.
TALLY_US: Final = 300_000_000
# The amount of a tally, which never refuses: the store counts exactly up to here.
_NO_BOUND: Final = 1 << 53
# Subjects that many clients share.
_SHARED: Final = frozenset({"tenant", "model", "key"})
# Subjects that a sender cannot make up.
_ADDRESSES: Final = frozenset({"client_ip", "network"})
# Sliding windows up to this length expire soon by themselves.
_SHORT_US: Final = 600_000_000


class StrangerPlan(Plan):
    """The cells of ``base``, of which it only looks at the shared ones, and their tallies."""

    __slots__ = ("places",)

    def __init__(self, base: LimitPlan, places: Sequence[int], suffix: bytes) -> None:
        """``places``: indices of the shared cells."""
        cells = list(base.cells)
        if isinstance(base, EdgePlan):
            # Edges of strangers are others than those of known clients.
            first = len(base.base.cells)
            for beyond, place in enumerate(base.places):
                if place in places:
                    cells[first + beyond] = _stranger_edge(
                        cells[first + beyond], suffix
                    )
        tallies = (_tally(base.cells[place], suffix) for place in places)
        super().__init__((*cells, *tallies), base.tag)
        self.edges = base.edges
        self.looks = {place: len(cells) + k for k, place in enumerate(places)}
        self.places = tuple(places)

    def costs(self, costs: Sequence[int]) -> tuple[int, ...]:
        """The costs by cell, of a call with these by cell of the base."""
        return (*costs, *(costs[place] for place in self.places))

    def own_costs(self, costs: Sequence[int]) -> tuple[int, ...]:
        """The same, of a call that only counts in its own cells."""
        looks = self.looks
        own = (0 if place in looks else cost for place, cost in enumerate(costs))
        return (*own, *(0,) * len(self.places))


def stranger_plan(base: LimitPlan, *, suspect: bool = False) -> StrangerPlan | None:
    """The plan by which a stranger reserves; None: no limit is shared with others."""
    if suspect not in base.for_strangers:
        limits = base.base.cells if isinstance(base, EdgePlan) else base.cells
        places = [place for place, cell in enumerate(limits) if _is_shared(cell)]
        made = StrangerPlan(base, places, _SUFFIX[suspect]) if places else None
        base.for_strangers = {**base.for_strangers, suspect: made}
    found: StrangerPlan | None = base.for_strangers[suspect]
    return found


def own_costs(plan: Plan, costs: Sequence[int]) -> tuple[int, ...]:
    """The costs by cell, without those of cells that others share."""
    return tuple(
        0 if _is_shared(cell) else cost
        for cell, cost in zip(plan.cells, costs, strict=True)
    )


def refused_costs(plan: Plan, actual: Sequence[int]) -> tuple[int, ...]:
    """What a stranger's call costs that the upstream refused, by cell.

    The request counts for its address, and in short windows. Other counters would live
    for up to a month, one for every key and model name that somebody makes up.
    """
    return tuple(
        cost if _stays(cell) else 0
        for cell, cost in zip(plan.cells, actual, strict=True)
    )


def _is_shared(cell: Cell) -> bool:
    per = cell.limit.per.removeprefix(THROTTLED)
    return _SHARED.issuperset(per.split("+"))


def _stays(cell: Cell) -> bool:
    short = cell.kind is CellKind.SLIDING and cell.window_us <= _SHORT_US
    return short or _ADDRESSES.issuperset(cell.limit.per.split("+"))


def _tally(cell: Cell, suffix: bytes) -> Cell:
    """The counter of what strangers hold beside this one."""
    key = cell.key + suffix
    if cell.kind is CellKind.CONCURRENT:
        return Cell(key, cell.kind, cell.window_us, _NO_BOUND, cell.limit)
    return Cell(key, CellKind.SLIDING, TALLY_US, _NO_BOUND, cell.limit)


def _stranger_edge(edge: Cell, suffix: bytes) -> Cell:
    """``KEY:edge`` -> ``KEY:new:edge``."""
    stem, _, name = edge.key.rpartition(b":")
    key = stem + suffix + b":" + name
    return Cell(key, edge.kind, edge.window_us, edge.amount, edge.limit)


__all__ = ["TALLY_US", "StrangerPlan", "own_costs", "refused_costs", "stranger_plan"]
