"""The recording upstream behaves as other tests require."""

from __future__ import annotations

import asyncio

import pytest

from tests.doubles import Cut, RecordingUpstream, request_end

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "end"),
    [
        (GET[:-1], None),
        (GET + b"more", len(GET)),
        (b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{", None),
        (b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}x", 40),
        (CHUNKED + b"2\r\n{}\r\n", None),
        (CHUNKED + b"0\r\n\r\nGET", len(CHUNKED) + 5),
        (CHUNKED + b"7\r\n10\r\n\r\n.\r\n0\r\n\r\n", len(CHUNKED) + 17),
    ],
)
def test_request_end(raw, end):
    """A request ends by its length or by its last chunk."""
    assert request_end(raw) == end


async def test_upstream_records_and_plays():
    """Requests are recorded byte for byte, and scripts are played in order."""
    async with RecordingUpstream() as upstream:
        upstream.scripts.append((b"one", 0.001, b"two", Cut.CLOSE))
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(GET)
        assert await reader.read() == b"onetwo"
        writer.close()
        assert upstream.requests == [GET]
        assert upstream.received == GET
        await upstream.connections[0].closed.wait()
        upstream.clear()
        assert (upstream.requests, upstream.connections) == ([], [])


async def test_upstream_answers_by_default():
    """Without a script every request gets the default answer, a HEAD its head alone."""
    async with RecordingUpstream() as upstream:
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(GET + GET.replace(b"GET", b"HEAD") + GET)
        raw = await reader.readuntil(b"{}")
        raw += await reader.readuntil(b"{}")
        writer.close()
        assert raw.count(b"HTTP/1.1 200 OK") == 3
        assert raw.count(b"{}") == 2
