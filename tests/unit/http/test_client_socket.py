"""Lingering, and the rate of a body, on the socket of a client."""

from __future__ import annotations

import pytest

from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


async def test_paused_time_does_not_count_against_the_body_rate(upstream):
    """The minimum rate of a body applies to the time in which the socket was read."""
    upstream.default = (30.0,)
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(request(b"POST", b"/x", b"Content-Length: 9000\r\n") + b"x")
        await until(lambda: upstream.received.endswith(b"x"))
        (conn,) = gateway.plane.listener.connections
        began = conn.body_started_at
        conn.pause_reading()
        conn.paused_at -= 60.0
        conn.resume_reading()
        assert conn.body_started_at >= began + 60.0
        client.reset()


async def test_lingering_ends(upstream):
    """A refused client that goes on sending is disconnected after the linger time."""
    async with InProcess(upstream, server='max_body = "1KiB"') as gateway:
        client = await gateway.client()
        client.send(request(b"POST", CHAT, b"Content-Length: 99999999\r\n"))
        await client.until(b"\r\n\r\n")
        (conn,) = gateway.plane.listener.connections
        conn.on_deadline(conn.deadline)
        await until(lambda: not gateway.plane.listener.connections)
        client.close()
