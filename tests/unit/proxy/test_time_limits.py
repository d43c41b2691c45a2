"""Time limits of the stages of an exchange."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.proxy.stage import Stage
from gateway.proxy.time_limits import (
    END_WAIT_S,
    FOREVER,
    answer_limit,
    stage_limit,
    start_drain,
)

ROUTE = SimpleNamespace(first_byte_s=10.0, idle_s=20.0)
CONN = SimpleNamespace(write_timeout_s=3.0)


@pytest.mark.parametrize(
    ("upload", "until"),
    [
        (None, 110.0),
        (SimpleNamespace(done=True, stalled_at=50.0), 110.0),
        (SimpleNamespace(done=False, stalled_at=50.0), 53.0),
        (SimpleNamespace(done=False, stalled_at=0.0), FOREVER),
    ],
)
def test_limit_of_an_answer(upload, until):
    """The first byte counts from the end of the body; a stalled upload by its own."""
    found, why = answer_limit(ROUTE, CONN, upload, 100.0)
    assert found == until
    assert bool(why) is (until != FOREVER)


@pytest.mark.parametrize(
    ("stage", "until"),
    [
        (Stage.READING, FOREVER),
        (Stage.CONNECTING, FOREVER),
        (Stage.SENT, 110.0),
        (Stage.ANSWERING, 120.0),
        (Stage.TUNNEL, 120.0),
    ],
)
def test_limit_of_a_stage(stage, until):
    """Until the head arrives the limit of the first byte, then the idle limit."""
    found, why = stage_limit(stage, ROUTE, CONN, None, 100.0)
    assert found == until
    assert bool(why) is (until != FOREVER)


@pytest.mark.parametrize(
    ("drains", "room", "ended", "until"),
    [
        (True, True, False, 130.0),
        (True, True, True, 100.0 + END_WAIT_S),
        (False, True, True, 100.0 + END_WAIT_S),
        (False, True, False, FOREVER),
        (True, False, False, FOREVER),
    ],
)
def test_start_of_a_drain(drains, room, ended, until):
    """A route that drains has room for some answers; what is whole always ends."""
    shared = SimpleNamespace(now=lambda: 100.0, drain_refused=0)
    route = SimpleNamespace(
        drain_on_leave=drains, drain_s=30.0, start_drain=lambda ended: room or ended
    )
    assert start_drain(route, shared, ended=ended) == until
    assert shared.drain_refused == (not room)
    assert start_drain(None, shared, ended=ended) == FOREVER
