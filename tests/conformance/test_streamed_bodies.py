"""Streamed bodies: a fault in the middle never looks like the end."""

from __future__ import annotations

import re
import socket

import pytest

from tests.corpus.malformed import CHUNK_BODIES, HOST
from tests.doubles import gateway_with_recorder  # noqa: F401

WAIT_S = 20.0
CHUNKED = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
SIZED = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n"


@pytest.fixture(name="gateway")
def _gateway(gateway_with_recorder):
    """The gateway, without connections to the upstream."""
    recorder = gateway_with_recorder.recorder
    for index in range(recorder.ask(lambda upstream: len(upstream.connections))):
        recorder.ask(lambda upstream, at=index: upstream.connections[at].cut())
        recorder.wait_closed(index)
    recorder.ask(lambda upstream: upstream.clear())
    return gateway_with_recorder


def talk(gateway, raw: bytes, *, leave: bool = False) -> bytes:
    """All bytes answered until the gateway closes; ``leave``: send FIN first."""
    with socket.create_connection(gateway.address, WAIT_S) as client:
        client.sendall(raw)
        if leave:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def received(gateway) -> bytes:
    """What the upstream got; its connections with data must be closed."""
    recorder = gateway.recorder
    if recorder.ask(lambda upstream: upstream.received):
        recorder.wait_closed(-1)
    assert not recorder.ask(lambda upstream: list(upstream.requests))
    return recorder.ask(lambda upstream: upstream.received)


@pytest.mark.parametrize("name", [n for n in CHUNK_BODIES if n != "ext-never-ends"])
def test_bad_chunk_breaks_the_request(name, gateway):
    """A bad chunk after a good one gets 400; upstream the body has no end."""
    raw = CHUNKED + b"5\r\nhello\r\n" + CHUNK_BODIES[name][0]
    assert re.match(rb"HTTP/1\.1 400 ", talk(gateway, raw))
    assert b"\r\n0\r\n" not in received(gateway)


@pytest.mark.parametrize(
    "raw", [SIZED + b"hello", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"9\r\nhello"]
)
def test_leaving_in_the_body_breaks_the_request(raw, gateway):
    """When the client leaves early, upstream the body has no end."""
    assert b" 200 " not in talk(gateway, raw, leave=True)
    assert b"\r\n0\r\n" not in received(gateway)


def test_dripped_empty_lines_are_counted(gateway):
    """Two empty lines before a request are refused, also when they arrive slowly."""
    with socket.create_connection(gateway.address, WAIT_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"\r\n")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(WAIT_S)
        client.sendall(b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 400 ")
