"""Edges of limits: who may cost more than is left."""

from __future__ import annotations

import pytest

from gateway.core.model import CellKind, Limit
from gateway.limits.edges import (
    edge_cell,
    missing_edge,
    name_limit,
    too_large,
    what_is_left,
    with_edges,
    without_edges,
)
from gateway.limits.plans import LimitPlan
from gateway.limits.ports import Cell, Reserved

MINUTE = 60_000_000


def cell(meter: str, amount: int, overdraft: int = 0) -> Cell:
    """A counter of one minute."""
    limit = Limit("user", meter, amount, MINUTE)
    key = meter.encode()
    return Cell(key, CellKind.SLIDING, MINUTE, amount, limit, 0.0, overdraft)


PLAN = LimitPlan((cell("requests", 9), cell("tokens", 100, 10), cell("usd", 50, 5)))


def test_only_an_uncertain_cost_can_be_too_large():
    """A certain cost beyond the limit is refused elsewhere."""
    assert too_large(PLAN, (1, 111, 55), (1, 5, 5)) == [1]
    assert too_large(PLAN, (1, 110, 56), (1, 110, 5)) == [2]
    assert too_large(PLAN, (10, 111, 56), (10, 111, 56)) == []


def test_a_plan_with_edges_reserves_the_least_there():
    """And one lease of each edge; plans are made once."""
    plan = with_edges(PLAN, [1])
    assert plan.cells == (*PLAN.cells, edge_cell(PLAN.cells[1]))
    assert plan.edges == {1}
    assert plan.costs((1, 500, 40), (1, 5, 4)) == ((1, 5, 40, 1), (1, 5, 4, 1))
    assert plan.pick((1, 7, 3, 4, 9)) == (1, 7, 9, 1)
    both = with_edges(plan, [2])
    assert both is with_edges(PLAN, [2, 1])
    assert both.places == (1, 2)
    assert without_edges(both) is without_edges(PLAN) is PLAN


def test_an_edge_is_one_lease():
    """Of the same counter, in the same slot of a cluster."""
    edge = edge_cell(PLAN.cells[1])
    assert edge.key == b"tokens:edge"
    assert (edge.kind, edge.amount) == (CellKind.CONCURRENT, 1)


def test_the_plan_after_a_throttle_has_the_same_edges():
    """The cell of the throttle is the last of the limits."""
    throttled = LimitPlan((*PLAN.cells, cell("requests", 1)))
    throttled.unthrottled = PLAN
    assert with_edges(throttled, [1]).unthrottled is with_edges(PLAN, [1])


@pytest.mark.parametrize(
    ("violated", "frees_at", "missing"),
    [(-1, 0.0, -1), (0, 0.0, -1), (1, 0.0, -1), (2, 0.0, 2), (2, 9.0, -1)],
)
def test_an_edge_that_would_admit_the_call(violated, frees_at, missing):
    """Not one that is held, nor where the cost is certain or settled weight fills it."""
    plan = with_edges(PLAN, [1])
    reserved = Reserved(plan, (1, 5, 40, 1), (1, 5, 4, 1))
    reserved.violated, reserved.frees_at = violated, frees_at
    assert missing_edge(reserved) == missing


@pytest.mark.parametrize(("violated", "named"), [(-1, -1), (1, 1), (3, 2)])
def test_a_taken_edge_is_named_as_its_limit(violated, named):
    """Clients read the limit's name."""
    reserved = Reserved(with_edges(PLAN, [2]), (1, 5, 4, 1))
    reserved.violated = violated
    name_limit(reserved)
    assert reserved.violated == named
    plain = Reserved(PLAN, (1, 5, 4))
    plain.violated = 1
    name_limit(plain)
    assert plain.violated == 1


def test_what_is_left_for_a_session():
    """At least 1 where the answer costs anything, so that a full limit refuses."""
    reserved = Reserved(PLAN, (1, 80, 40), (1, 20, 10))
    reserved.sums = (8, 60, 60)
    assert what_is_left(PLAN, reserved) == ((1, 50, 1), (1, 20, 1))
