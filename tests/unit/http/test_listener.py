"""Time limits and settings of a listener."""

from __future__ import annotations

import pytest

from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"


async def test_idle_connection_is_closed(upstream):
    """An idle connection is closed after the keep-alive time."""
    async with InProcess(upstream, server='keepalive_timeout = "50ms"') as gateway:
        client = await gateway.client()
        client.send(request())
        await client.answer()
        assert await client.rest() == b""


async def test_new_limits_apply_to_later_requests(upstream):
    """After a reload the new limits apply to existing connections too."""
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(request())
        await client.answer()
        gateway.text = gateway.text.replace("[store]", "max_headers = 2\n[store]")
        gateway.reload()
        client.send(request(fields=CLOSE + b"A: 1\r\n"))
        assert (await client.rest()).startswith(b"HTTP/1.1 431 ")
