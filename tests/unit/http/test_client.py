"""The client's connection: pieces of bodies."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from gateway.http.client import MAX_BODY_PARTS, ClientConnection
from gateway.http.client_socket import Phase
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"


async def test_tiny_pieces_of_a_body_are_joined(upstream):
    """A buffered body in very many pieces needs about its size in memory."""
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        count = 3 * MAX_BODY_PARTS
        client.send(request(b"POST", CHAT, b"Content-Length: %d\r\n" % count))
        await until(lambda: gateway.plane.service.open_exchanges)
        (conn,) = gateway.plane.listener.connections
        for _ in range(count - 1):
            conn.data_received(b" ")
        assert len(conn.body_parts) <= MAX_BODY_PARTS + 1
        assert sum(map(len, conn.body_parts)) == count - 1
        client.reset()


async def test_chunks_of_one_read_are_one_piece(upstream):
    """Tiny chunks of one read are forwarded as one chunk."""
    tiny = b"1\r\nx\r\n" * 3_000 + b"0\r\n\r\n"
    async with InProcess(upstream) as gateway:
        fields = CLOSE + b"Transfer-Encoding: chunked\r\n"
        await gateway.talk(request(b"POST", b"/x", fields) + tiny)
    (sent,) = upstream.requests
    assert sent.count(b"x") >= 3_000
    assert len(sent) < 3_600


@pytest.mark.parametrize(
    ("family", "served"), [(socket.AF_INET, False), (socket.AF_UNIX, True)]
)
async def test_a_connection_without_an_address_is_not_served(family, served, upstream):
    """A TCP client that has reset already has no address, and is not taken for a peer on a
    Unix socket.
    """
    closed = []
    values = {"socket": SimpleNamespace(family=family)}
    transport = SimpleNamespace(
        get_extra_info=values.get, abort=lambda: closed.append(True)
    )
    async with InProcess(upstream) as gateway:
        conn = ClientConnection(gateway.plane.listener.state)
        conn.connection_made(transport)
        assert (conn.phase != Phase.CLOSED) is served
        assert bool(closed) is not served
        if not served:
            conn.data_received(request(b"GET", b"/x", CLOSE))
            assert not gateway.plane.service.open_exchanges
        conn.connection_lost(None)
        assert not gateway.plane.listener.connections
