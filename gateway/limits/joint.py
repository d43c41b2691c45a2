"""Limits of a request that several models may answer: those of all of them.

Each limit that applies to one of the models must have room. When the answer has named its
model, the others' counters are given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.limits.plans import LimitPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.limits.ports import Cell
    from gateway.limits.ratelimit import LimitHeaderTemplate


def joint_plan(plans: Sequence[LimitPlan]) -> LimitPlan:
    """One plan with the cells of all of ``plans``, each once."""
    first = plans[0]
    found: dict[bytes, tuple[Cell, LimitHeaderTemplate]] = {}
    for plan in plans:
        for cell, header in zip(plan.cells, plan.headers, strict=True):
            found.setdefault(cell.key, (cell, header))
    if len(found) == len(first.cells):
        return first
    cells, headers = zip(*found.values(), strict=True)
    return LimitPlan(cells, first.tag, headers)


def foreign_keys(
    plans: Sequence[LimitPlan], answered: Sequence[LimitPlan]
) -> frozenset[bytes]:
    """Keys of the cells of ``plans`` that none of ``answered`` has."""
    keys = {cell.key for plan in plans for cell in plan.cells}
    return frozenset(
        keys.difference(cell.key for plan in answered for cell in plan.cells)
    )


def without_foreign(
    plan: LimitPlan, costs: tuple[int, ...], foreign: frozenset[bytes]
) -> tuple[int, ...]:
    """Costs by cell, 0 in the cells of models that have not answered."""
    return tuple(
        0 if cell.key in foreign else cost
        for cell, cost in zip(plan.cells, costs, strict=True)
    )
