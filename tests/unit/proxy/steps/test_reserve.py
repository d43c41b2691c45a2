"""The limits of a request and its costs, end to end with a store in memory."""

from __future__ import annotations

import pytest

from gateway.core.model import Policy
from gateway.proxy.steps.reserve import limit_lines, plan_limits
from tests.flows import flow_of
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"


def test_unread_request_has_no_limits():
    """Without facts or identity there is nothing to reserve."""
    for flow in (flow_of(), flow_of(Policy("p"))):
        assert plan_limits(flow, None) is None  # type: ignore[arg-type]
        assert limit_lines(flow, None) == b""  # type: ignore[arg-type]


async def test_too_large_for_the_limit_is_refused_without_the_store(upstream):
    """A prompt above the whole limit is refused before anything is reserved."""
    limits = 'limits = [{ per = "user", tokens = 10, window = "1h" }]'
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x " * 500)
    async with InProcess(upstream, policy=limits) as gateway:
        answer = await gateway.talk(request(b"POST", CHAT, CLOSE, body))
        assert b"request_too_large_for_limit" in answer
        assert not gateway.store._windows
        assert (await gateway.record()).store_us == 0.0


async def test_unmetered_request_counts_as_a_request_only(upstream):
    """A path without a dialect costs one request and no tokens."""
    limits = """limits = [
  { per = "user", requests = 9, window = "1h" },
  { per = "user", tokens = 9, window = "1h" },
]"""
    async with InProcess(upstream, policy=limits) as gateway:
        await gateway.talk(request(fields=CLOSE))
        now_us = gateway.store.now_us()
        sums = [window.total(now_us) for window in gateway.store._windows.values()]
    assert sums == [1, 0]
