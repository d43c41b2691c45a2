"""Limits of requests that several models may answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import CellKind, Limit
from gateway.limits.joint import foreign_keys, joint_plan, without_foreign
from gateway.limits.plans import LimitPlan
from gateway.limits.ports import Cell
from gateway.limits.ratelimit import LimitHeaderTemplate

MINUTE = 60_000_000


def plan_of(*keys: bytes) -> LimitPlan:
    """A plan with a counter of tokens for each key."""
    limit = Limit("user", "tokens", 100, MINUTE)
    cells = tuple(Cell(key, CellKind.SLIDING, MINUTE, 100, limit) for key in keys)
    headers = tuple(LimitHeaderTemplate(limit) for _ in keys)
    return LimitPlan(cells, b"{t}", headers)


ALL, ONE, TWO = plan_of(b"all"), plan_of(b"all", b"1"), plan_of(b"all", b"2", b"3")


def test_the_joint_plan_has_every_counter_once():
    """With its header template, in the order of the models."""
    plan = joint_plan((ONE, TWO))
    assert [cell.key for cell in plan.cells] == [b"all", b"1", b"2", b"3"]
    assert len(plan.headers) == 4
    assert plan.tag == b"{t}"
    assert plan.pick((1, 7, 2, 5, 0)) == (7, 7, 7, 7)


def test_models_with_the_same_limits_share_their_plan():
    """Nothing is built."""
    assert joint_plan((TWO, ALL, TWO)) is TWO
    assert joint_plan((LimitPlan(),)).cells == ()


def test_only_the_counters_of_the_model_that_answered_keep_their_cost():
    """Those of the others are given back; common ones count."""
    plan = joint_plan((ONE, TWO, ALL))
    costs = (5, 6, 7, 8)
    settled = [
        without_foreign(
            plan, costs, foreign_keys((ONE, TWO, ALL), ((ONE, TWO, ALL)[place],))
        )
        for place in range(3)
    ]
    assert settled == [(5, 6, 0, 0), (5, 0, 7, 8), (5, 0, 0, 0)]


@given(st.lists(st.sets(st.sampled_from("abcdef")), min_size=1, max_size=5))
def test_each_model_settles_its_own_counters(names):
    """Whatever the limits are, the model at a place counts in all of its own, and in no
    others.
    """
    plans = [plan_of(*(name.encode() for name in sorted(one))) for one in names]
    plan = joint_plan(plans)
    for place, one in enumerate(names):
        costs = without_foreign(
            plan, (1,) * len(plan.cells), foreign_keys(plans, (plans[place],))
        )
        charged = {
            cell.key.decode()
            for cell, cost in zip(plan.cells, costs, strict=True)
            if cost
        }
        assert charged == one
