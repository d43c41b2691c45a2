"""Bodies that are streamed to the upstream unread."""

from __future__ import annotations

import pytest

from gateway.proxy.upload import MAX_HELD_BYTES
from tests.inprocess import (
    InProcess,
    LateStore,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
LIMITS = 'limits = [{ per = "client_ip", requests = 9, window = "1h" }]'


async def test_length_and_bytes_pass(upstream):
    """A stated length and all bytes pass, whatever the pieces are."""
    body = bytes(range(256)) * 999
    async with InProcess(upstream) as gateway:
        await gateway.talk(request(b"POST", fields=CLOSE, body=body))
    head, _, sent = upstream.requests[0].partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert sent == body


async def test_waits_for_the_store_within_bounds(upstream):
    """Until admission a bounded part is buffered; then all of it follows in order."""
    store, body = LateStore(), bytes(range(256)) * 40_000
    async with InProcess(upstream, policy=LIMITS, store=store) as gateway:
        client = await gateway.client()
        client.send(request(b"POST", fields=CLOSE, body=body))
        await until(lambda: gateway.plane.listener.state.paused)
        (exchange,) = gateway.plane.service.open_exchanges
        assert exchange.upload.held_bytes < MAX_HELD_BYTES + (1 << 18)
        assert not upstream.connections
        store.let_go()
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
    assert upstream.requests[0].endswith(b"\r\n\r\n" + body)


async def test_refused_while_it_comes(upstream):
    """A refusal in the middle of the body is a 429 that closes the connection."""
    store, limits = LateStore(), LIMITS.replace("9", "1", 1)
    async with InProcess(upstream, policy=limits, store=store) as gateway:
        clients = [await gateway.client() for _ in range(2)]
        for client in clients:
            client.send(request(b"POST", fields=b"Content-Length: 9\r\n") + b"x")
        await until(lambda: len(store.waiting) == 2)
        store.let_go()
        answer = await clients[1].rest()
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"Connection: close\r\n" in answer
        clients[0].reset()


async def test_client_is_read_again_once_its_body_is_whole(upstream):
    """After the whole body the client is read again, so that its close is noticed."""
    upstream.default = (30.0,)
    store = LateStore()
    async with InProcess(upstream, policy=LIMITS, store=store) as gateway:
        client = await gateway.client()
        client.send(request(b"POST", body=bytes(2 * MAX_HELD_BYTES)))
        await until(lambda: store.waiting)
        await until(lambda: gateway.plane.service.open_exchanges)
        store.let_go()
        await until(lambda: upstream.requests)
        assert not gateway.plane.listener.state.paused
        client.close()
        assert (await gateway.record()).outcome == "client_closed"
