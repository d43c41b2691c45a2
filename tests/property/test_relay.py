"""The result does not depend on how bytes are cut on either side."""

from __future__ import annotations

import asyncio
import itertools

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles import Cut, RecordingUpstream
from tests.inprocess import CHAT, InProcess, request

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# With usage, so that no tokens have to be counted.
USAGE = b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(USAGE) + USAGE
CLOSE = b"Connection: close\r\n"
SOME = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
cuts = st.lists(st.integers(0, 2_000), max_size=6)
pieces = st.lists(st.binary(min_size=1, max_size=300), max_size=5)
junk = st.binary(max_size=400) | st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ]
)


def split(raw: bytes, places: list[int]) -> list[bytes]:
    """``raw`` cut at these places."""
    ends = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[a:b] for a, b in itertools.pairwise(ends)]


def chunked(parts: list[bytes]) -> bytes:
    """``parts`` in the chunked coding."""
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def decoded(raw: bytes) -> bytes:
    """The decoded body of a complete chunked one."""
    body = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        if not int(size, 16):
            assert raw == b"\r\n"
            return body
        body, raw = body + raw[: int(size, 16)], raw[int(size, 16) + 2 :]


def exchange(raw: list[bytes], script: list[bytes | Cut]) -> tuple[bytes, bytes]:
    """What the client gets, and what the upstream got."""

    async def run() -> tuple[bytes, bytes]:
        upstream = RecordingUpstream([*script, 0.0])
        async with upstream, InProcess(upstream) as gateway:
            client = await gateway.client()
            for piece in raw:
                client.send(piece)
                await asyncio.sleep(0)
            try:
                return await client.rest(), upstream.received
            except ConnectionResetError:
                return b"", upstream.received

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


@SOME
@given(body=pieces, target=st.sampled_from([b"/x", CHAT]), at=cuts)
def test_request_bodies_pass_however_they_are_cut(body, target, at):
    """Chunked in any way and cut anywhere, the upstream gets the same body."""
    if target == CHAT:
        body = [b'{"model":"m","x":"', *(piece.hex().encode() for piece in body), b'"}']
    fields = CLOSE + b"Transfer-Encoding: chunked\r\n"
    raw = request(b"POST", target, fields) + chunked(body)
    answer, received = exchange(split(raw, at), [ANSWER])
    assert answer.endswith(USAGE)
    head, _, sent = received.partition(b"\r\n\r\n")
    sent = decoded(sent) if b"Transfer-Encoding" in head else sent
    assert sent == b"".join(body)


@SOME
@given(body=pieces, at=cuts, framed=st.sampled_from(["length", "chunked"]))
def test_answer_bodies_pass_however_they_are_cut(body, at, framed):
    """The client gets the same complete body, however the answer is cut."""
    plain = b"".join(body)
    if framed == "length":
        raw = b"Content-Length: %d\r\n\r\n" % len(plain) + plain
    else:
        raw = b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body)
    raw = b"HTTP/1.1 200 OK\r\n" + raw
    answer, _ = exchange([request(fields=CLOSE)], split(raw, at))
    _, _, got = answer.partition(b"\r\n\r\n")
    assert (got if framed == "length" else decoded(got)) == plain


@SOME
@given(raw=junk, at=cuts, head=st.sampled_from([b"GET", b"HEAD", b"OPTIONS"]))
def test_junk_of_an_upstream_never_raises(raw, at, head):
    """Random bytes from an upstream cause an answer or a close, no exception."""
    answer, _ = exchange([request(head, fields=CLOSE)], [*split(raw, at), Cut.CLOSE])
    assert not answer or answer.startswith(b"HTTP/1.1 ")


@SOME
@given(
    raw=st.binary(max_size=300),
    start=st.sampled_from([b"", request(), request(b"POST", CHAT, body=b"{}")]),
    at=cuts,
)
def test_junk_of_a_client_never_raises(raw, start, at):
    """Random bytes alone or after valid requests are refused, never forwarded."""
    answer, received = exchange(
        [*split(start + raw, at), b"\r\n\r\n"],
        [ANSWER],
    )
    assert answer.startswith(b"HTTP/1.1 ")
    assert received.count(b"HTTP/1.1\r\n") <= bool(start)
