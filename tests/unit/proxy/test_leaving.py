"""What becomes of an answer whose client has left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.proxy.leaving import Leaving
from gateway.proxy.strangers import MAX_STATUS_WAITS
from gateway.proxy.time_limits import FOREVER

TIMER = SimpleNamespace(cancel=lambda: None)


def shared_of(waits: int = 0) -> SimpleNamespace:
    """A worker with so many waits."""
    return SimpleNamespace(
        now=lambda: 100.0,
        draining=False,
        drain_refused=0,
        status_waits=waits,
        status_waits_refused=0,
        loop=SimpleNamespace(call_later=lambda _s, _what: TIMER),
    )


def flow_of(*, stranger: object, buffered: int = 1, stream: bool = False):
    """A flow of a stranger."""
    route = SimpleNamespace(drain_on_leave=False)
    return SimpleNamespace(
        stranger=stranger,
        facts=SimpleNamespace(stream=stream),
        context=SimpleNamespace(buffer_limit=buffered, route=route),
    )


SHARES, OWN = SimpleNamespace(reserved=object()), SimpleNamespace(reserved=None)


@pytest.mark.parametrize(
    ("flow", "waits", "waiting"),
    [
        (flow_of(stranger=None), 0, False),
        (flow_of(stranger=SHARES, buffered=0), 0, True),
        (flow_of(stranger=OWN), 0, True),
        (flow_of(stranger=OWN, buffered=0), 0, False),
        (flow_of(stranger=SHARES), MAX_STATUS_WAITS, False),
    ],
)
def test_what_waits_for_its_status(flow, waits, waiting):
    """A stranger's call that may be charged, or that others share a limit with."""
    shared, leaving = shared_of(waits), Leaving()
    assert leaving.wait(flow, shared, lambda: None) is waiting
    assert leaving.waiting is waiting
    assert shared.status_waits == waits + waiting
    leaving.end()
    assert shared.status_waits == waits


def test_the_end_of_the_worker_is_not_waited_for():
    """Then calls are settled at once."""
    shared = shared_of()
    shared.draining = True
    assert not Leaving().wait(flow_of(stranger=SHARES), shared, lambda: None)


@pytest.mark.parametrize(
    ("stranger", "status", "stream", "until"),
    [
        (SHARES, 401, False, FOREVER),
        (None, 304, False, FOREVER),
        (None, 200, True, FOREVER),
        (None, 200, False, 110.0),
    ],
)
def test_what_is_read_after_the_status(stranger, status, stream, until):
    """The rest of an answer that is complete already."""
    shared, leaving = shared_of(), Leaving()
    assert leaving.wait(flow_of(stranger=SHARES), shared, lambda: None)
    flow = flow_of(stranger=stranger, stream=stream)
    assert leaving.go_on(flow, shared, status) is (until != FOREVER)
    assert leaving.until == until
    assert not leaving.waiting
    leaving.end()
    assert shared.status_waits == 0
