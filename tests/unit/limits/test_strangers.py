"""How clients reserve whose credential the upstream has not accepted."""

from __future__ import annotations

import pytest

from gateway.core.model import CellKind, Limit
from gateway.limits.edges import with_edges
from gateway.limits.plans import LimitPlan
from gateway.limits.ports import Cell
from gateway.limits.strangers import (
    TALLY_US,
    own_costs,
    refused_costs,
    stranger_plan,
)

MINUTE, HOUR = 60_000_000, 3_600_000_000
SLIDING, CALENDAR, CONCURRENT = CellKind.SLIDING, CellKind.CALENDAR, CellKind.CONCURRENT


def cell(per: str, meter: str, kind: CellKind = SLIDING, window: int = MINUTE) -> Cell:
    """A counter of 100."""
    key = f"{per}-{meter}".encode()
    return Cell(key, kind, window, 100, Limit(per, meter, 100, window), 0.0, 10)


OWN, SHARED = cell("user", "tokens"), cell("tenant", "tokens", CALENDAR, 0)
OPEN = cell("tenant+model", "concurrent", CONCURRENT)


def test_own_limits_alone_need_no_tally():
    """A stranger then reserves as everybody does."""
    plan = LimitPlan((OWN, cell("user+model", "usd"), cell("throttled_user", "usd")))
    assert stranger_plan(plan) is None
    assert stranger_plan(plan, suspect=True) is None


def test_shared_cells_are_looked_at_and_tallied():
    """The tallies are the last cells, and forget what a killed worker left."""
    base = LimitPlan((OWN, SHARED, OPEN))
    plan = stranger_plan(base)
    assert plan is stranger_plan(base)
    assert plan.cells[:3] == base.cells
    assert plan.looks == {1: 3, 2: 4}
    tokens, calls = plan.cells[3:]
    assert (tokens.key, tokens.kind) == (b"tenant-tokens:new", SLIDING)
    assert tokens.window_us == TALLY_US
    assert (calls.key, calls.kind) == (b"tenant+model-concurrent:new", CONCURRENT)
    assert plan.costs((7, 8, 1)) == (7, 8, 1, 8, 1)
    assert plan.own_costs((7, 8, 1)) == (7, 0, 0, 0, 0)


def test_suspects_have_tallies_of_their_own():
    """They refuse one another, and nobody else."""
    plan = stranger_plan(LimitPlan((SHARED,)), suspect=True)
    assert plan.cells[1].key == b"tenant-tokens:suspect"


@pytest.mark.parametrize(
    ("per", "shared"),
    [
        ("tenant", True),
        ("model", True),
        ("key", True),
        ("key+model", True),
        ("throttled_tenant", True),
        ("user", False),
        ("client_ip", False),
        ("network", False),
        ("network+model", False),
        ("client_ip+model", False),
        ("throttled_client_ip", False),
    ],
)
def test_what_is_shared(per, shared):
    """A limit that names the sender is its own."""
    assert (stranger_plan(LimitPlan((cell(per, "tokens"),))) is not None) is shared


def test_edges_of_strangers_are_others():
    """A stranger does not take the edge of known clients, only of its own cells."""
    plan = stranger_plan(with_edges(LimitPlan((OWN, SHARED)), [0, 1]))
    keys = [cell.key for cell in plan.cells]
    assert keys == [
        *(b"user-tokens", b"tenant-tokens"),
        *(b"user-tokens:edge", b"tenant-tokens:new:edge", b"tenant-tokens:new"),
    ]
    assert plan.edges == {0, 1}
    assert plan.looks == {1: 4}


def test_what_a_refused_call_leaves():
    """Its request, at its address and in windows that expire soon."""
    plan = LimitPlan(
        (
            cell("user", "requests"),
            cell("user", "requests", SLIDING, HOUR),
            cell("user", "requests", CALENDAR, 0),
            cell("client_ip", "requests", CALENDAR, 0),
            cell("network", "requests", SLIDING, HOUR),
            cell("client_ip+model", "requests", SLIDING, HOUR),
        )
    )
    assert refused_costs(plan, (1,) * 6) == (1, 0, 0, 1, 1, 0)


def test_what_a_sender_pays_alone():
    """The cells that others share are left out."""
    plan = LimitPlan((OWN, SHARED, OPEN))
    assert own_costs(plan, (7, 8, 1)) == (7, 0, 0)
