"""Relaying between a client and an upstream: order, framing, limits, back-pressure."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import json
import re
import time
import zlib

import pytest

from gateway.http.client_socket import Phase
from tests.doubles import ANSWER, ANSWER_HEAD, Cut
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    resident,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PROMPT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
ONE_REQUEST = 'limits = [{ per = "client_ip", requests = 1, window = "1h" }]'
OVERLOAD = b'{"error":{"message":"too many connections'
MIB = 1 << 20
# Longest turn of the loop that an input may cause: 50 ms is the aim, the rest is slack.
STALL_S = 0.2


def statuses(raw: bytes) -> list[int]:
    """The status of every answer in ``raw``."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", raw)]


def numbered(number: int) -> tuple[bytes, ...]:
    """A distinguishable answer."""
    return (ANSWER_HEAD.replace(b": 2", b": 3") + b"<%d>" % number,)


# -- pipelining -------------------------------------------------------------------------


async def test_answers_keep_the_order_of_requests(upstream):
    """Answers keep the order of the requests, slow or fast, refused or not."""
    route = 'prefix = "/api"'
    upstream.scripts.extend([(0.05, *numbered(1)), numbered(2), (0.02, *numbered(3))])
    async with InProcess(upstream, route=route) as gateway:
        raw = b"".join(
            request(target=target)
            for target in (b"/api/1", b"/no", b"/api/2", b"/no", b"/no", b"/api/3")
        )
        answer = await gateway.talk(raw + request(target=b"/no", fields=CLOSE))
        assert statuses(answer) == [200, 404, 200, 404, 404, 200, 404]
        assert re.findall(rb"<\d>", answer) == [b"<1>", b"<2>", b"<3>"]


async def test_malformed_second_request_does_not_spoil_the_first(upstream):
    """Valid requests before a malformed one are answered first."""
    upstream.default = (0.05, *ANSWER)
    async with InProcess(upstream) as gateway:
        answer = await gateway.talk(request() + b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n")
        assert statuses(answer) == [200, 400]
        assert len(upstream.requests) == 1


async def test_much_pipelined_passes(upstream):
    """Over 64 KiB of complete requests behind an open one wait, and are answered."""
    upstream.scripts.append((0.05, *ANSWER))
    many = request(fields=b"X-Fill: %b\r\n" % (b"x" * 1000)) * 150
    async with InProcess(upstream) as gateway:
        answer = await gateway.talk(request() + many + request(fields=CLOSE))
        assert statuses(answer) == [200] * 152


async def test_much_pipelined_without_an_end_is_refused(upstream):
    """Over 64 KiB without the end of a request get 400 after the open exchange."""
    upstream.scripts.append((0.1, *ANSWER))
    async with InProcess(upstream) as gateway:
        answer = await gateway.talk(request() + b"GET /" + b"x" * 70_000)
        assert statuses(answer) in ([200, 400], [200, 414])


async def test_unread_answers_stop_the_reading(upstream):
    """Answers are not buffered without bound for a client that never reads."""
    async with InProcess(upstream, route='prefix = "/api"') as gateway:
        client = await gateway.client()
        client.writer.transport.pause_reading()
        client.send(request() * 400_000)
        (conn,) = gateway.plane.listener.connections
        await until(lambda: conn.reading_paused)
        assert conn.transport.get_write_buffer_size() < MIB
        assert len(conn.buf) < MIB
        client.reset()
        await until(lambda: not gateway.plane.listener.connections)


async def test_pipelined_refusals_leave_turns_to_others(upstream):
    """Many small refused requests do not block the loop."""
    async with InProcess(upstream, route='prefix = "/api"') as gateway:
        client, ping = await gateway.client(), Pinger()
        await ping.start()
        client.send(request() * 3_000 + request(fields=CLOSE))
        assert len(statuses(await client.rest())) == 3_001
        assert await ping.worst() < STALL_S


@pytest.mark.parametrize("size", [10, 100_000])
async def test_refused_body_is_never_taken_for_a_request(size, upstream):
    """The body of a refused upload is discarded, or the connection closes."""
    body = request(target=b"/evil").ljust(size, b"x")
    async with InProcess(upstream, policy=ONE_REQUEST) as gateway:
        await gateway.talk(request(fields=CLOSE))
        raw = request(b"POST", body=body)
        answer = await gateway.talk(raw + request(fields=CLOSE))
        assert set(statuses(answer)) == {429}
        assert len(upstream.requests) == 1
        assert not any("evil" in record.path for record in gateway.records)


async def test_refused_body_in_two_packets_then_a_request(upstream):
    """The request after a discarded body is answered at once."""
    async with InProcess(upstream, route='prefix = "/api"') as gateway:
        client = await gateway.client()
        client.send(request(b"POST", b"/no", b"Content-Length: 4\r\n") + b"ab")
        assert statuses(await client.answer()) == [404]
        client.send(b"cd" + request(target=b"/api"))
        assert statuses(await client.answer()) == [200]


# -- Expect, limits ---------------------------------------------------------------------


async def test_no_continue_for_the_refused(upstream):
    """A request refused by its head gets the final answer instead of 100, then a close."""
    fields = b"Expect: 100-continue\r\nContent-Length: 5\r\n"
    async with InProcess(upstream, route='prefix = "/api"') as gateway:
        answer = await gateway.talk(request(b"POST", b"/no", fields))
        assert statuses(answer) == [404]
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    "fields", [b"Content-Length: 5000000\r\n", CHUNKED + b"Expect: 100-continue\r\n"]
)
async def test_large_body_is_413_before_it_is_read(fields, upstream):
    """A body over the limit is refused by its length, or once it exceeds the limit."""
    async with InProcess(upstream, server='max_body = "1KiB"') as gateway:
        client = await gateway.client()
        client.send(request(b"POST", CHAT, fields))
        if b"chunked" in fields:
            await client.until(b"100 Continue\r\n\r\n")
            client.send(b"fff\r\n" + b"x" * 2000)
        answer = await client.rest()
        assert statuses(answer) == [413]
        assert b"\r\nConnection: close\r\n" in answer
        assert not upstream.connections


async def test_413_arrives_although_the_body_is_on_its_way(upstream):
    """The connection lingers, so that the answer is not lost to a reset."""
    async with InProcess(upstream, server='max_body = "1KiB"') as gateway:
        answer = await gateway.talk(request(b"POST", CHAT, body=b"x" * 5_000_000))
        assert statuses(answer) == [413]


async def test_slow_head_is_408(upstream):
    """A late head gets 408; a connection without a byte is closed."""
    async with InProcess(upstream, server='head_timeout = "100ms"') as gateway:
        silent = await gateway.client()
        assert statuses(await gateway.talk(b"GET /x HTTP/1.1\r\n")) == [408]
        assert await silent.rest() == b""


@pytest.mark.parametrize("target", [CHAT, b"/x"])
async def test_slow_body_is_408(target, upstream):
    """A body slower than the minimum rate is refused, buffered or streamed."""
    async with InProcess(upstream, server='head_timeout = "100ms"') as gateway:
        raw = request(b"POST", target, b"Content-Length: 999\r\n") + b"{"
        assert statuses(await gateway.talk(raw)) == [408]
        await until(lambda: gateway.records)


async def test_client_that_takes_nothing_is_dropped(upstream):
    """A write that stalls for the whole limit ends the exchange."""
    upstream.default = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n" + bytes(30 * MIB),
        30.0,
    )
    async with InProcess(upstream, server='write_timeout = "200ms"') as gateway:
        client = await gateway.client()
        client.writer.transport.pause_reading()
        client.send(request())
        await until(lambda: gateway.plane.listener.connections)
        await until(lambda: not gateway.plane.listener.connections)
        assert gateway.plane.listener.counters["write_stalled"] == 1
        assert (await gateway.record()).outcome == "client_closed"


@pytest.mark.parametrize("cap", ["max_connections", "max_connections_per_ip"])
async def test_connections_are_capped(cap, upstream):
    """Connections over a cap get 503 with Retry-After; a freed place is used again."""
    async with InProcess(upstream, server=f"{cap} = 2") as gateway:
        first, second = await gateway.client(), await gateway.client()
        for client in (first, second):
            client.send(request())
            await client.answer()
        answer = await gateway.talk(b"")
        assert statuses(answer) == [503]
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert OVERLOAD in answer
        first.close()
        await until(lambda: len(gateway.plane.listener.connections) == 1)
        assert statuses(await gateway.talk(request(fields=CLOSE))) == [200]


async def test_proxied_connections_are_capped_by_their_client(upstream):
    """Behind a load balancer the address of the PROXY header counts, IPv6 by its /64."""
    server = (
        'proxy_protocol = true\ntrusted_proxies = ["127.0.0.1"]\n'
        "max_connections_per_ip = 2"
    )
    async with InProcess(upstream, server=server) as gateway:
        for last in b"123":
            client = await gateway.client()
            client.send(b"PROXY TCP6 2001:db8::%d ::1 9 9\r\n" % last + request())
            status = statuses(await client.answer())
        assert status == [503]
        other = b"PROXY TCP4 192.0.2.1 127.0.0.1 9 9\r\n" + request(fields=CLOSE)
        assert statuses(await gateway.talk(other)) == [200]
        assert b"X-Forwarded-For: 192.0.2.1\r\n" in upstream.requests[-1]


# -- back-pressure ---------------------------------------------------------------------------

BIG = 200 * MIB


def paused(gateway: InProcess) -> bool:
    """Whether reading from an upstream's connection is paused."""
    (target,) = gateway.plane.shared.tables.routes[0].pool.targets
    return any(conn.paused for conn in target.connections)


async def test_slow_client_holds_the_upstream_back(upstream):
    """200 MiB to a client that pauses arrive complete, with bounded memory."""
    upstream.default = (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG,)
    async with InProcess(upstream) as gateway:
        client = await gateway.client(65_536)
        client.send(request(fields=CLOSE))
        await client.until(b"\r\n\r\n")
        sender = upstream.connections[0]._transport
        before, left, got, piece = resident(), BIG, 0, bytes(MIB)
        while got < BIG:
            while left and sender.get_write_buffer_size() < MIB:
                sender.write(piece)
                left -= MIB
            if left and not paused(gateway):
                await asyncio.sleep(0)  # paused until nothing is transferred any more
            else:
                got += len(await client.reader.read(65_536))
        assert resident() - before < 60 * MIB
        assert await client.rest() == b""


async def test_slow_upstream_holds_the_client_back(upstream):
    """200 MiB to an upstream that pauses arrive complete, with bounded memory."""
    async with InProcess(upstream) as gateway:
        client = await gateway.client(65_536)
        client.send(request(b"POST", fields=CLOSE + b"Content-Length: %d\r\n" % BIG))
        await until(lambda: upstream.received)
        one, count, piece = upstream.connections[0], Counted(BIG), bytes(MIB)
        one._transport.set_protocol(count)
        before, left = resident(), BIG
        one._transport.pause_reading()
        (conn,) = gateway.plane.listener.connections
        while left:
            if conn.reading_paused:
                one._transport.resume_reading()
            if client.writer.transport.get_write_buffer_size() < MIB:
                client.send(piece)
                left -= MIB
            await asyncio.sleep(0)
        await until(lambda: not count.left)
        one._transport.set_protocol(one)
        assert resident() - before < 60 * MIB
        one._transport.write(b"".join(ANSWER))
        assert statuses(await client.rest()) == [200]


class Counted(asyncio.Protocol):
    """Number of bytes still to come."""

    def __init__(self, left: int) -> None:
        self.left = left

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)


# -- reading bodies ----------------------------------------------------------------------


class Pinger:
    """Measures the longest turn of the loop in CPU time of its thread, so that other
    processes do not count.
    """

    def __init__(self) -> None:
        self._worst = 0.0
        self._task: asyncio.Task[None]

    async def start(self) -> None:
        """Start measuring, after collecting the garbage of earlier tests."""
        gc.collect()
        self._task = asyncio.get_running_loop().create_task(self._run())
        await asyncio.sleep(0.01)
        self._worst = 0.0

    async def _run(self) -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.001)
            self._worst = max(self._worst, time.thread_time() - began)

    async def worst(self) -> float:
        """Stop measuring; returns seconds."""
        await asyncio.sleep(0.002)
        self._task.cancel()
        return self._worst


DEEP = b"[" * 100_000 + b"]" * 100_000
BOMBS = {
    "deep": DEEP,
    "deep member": b'{"model":"m","x":%b}' % DEEP,
    "deep model": b'{"model":%b}' % DEEP,
    "huge number": b'{"model":"m","max_tokens":%b}' % (b"9" * 1_000_000),
    "huge exponent": b'{"model":"m","max_tokens":1e999999999}',
    "lone surrogate": b'{"model":"\\ud800","messages":[]}',
    "NaN": b'{"model":"m","temperature":NaN,"messages":[]}',
    "twice": b'{"model":"a","model":"b","messages":[]}',
    "no UTF-8": b'{"model":"\xff","messages":[]}',
    "not JSON": b"junk",
    "empty": b"",
    "many members": b"{%b}" % b",".join(b'"k%d":0' % i for i in range(200_000)),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_hostile_json_is_never_500_and_never_slow(name, upstream):
    """A pathological body passes or gets 400 within one short turn of the loop."""
    async with InProcess(upstream) as gateway:
        client, ping = await gateway.client(), Pinger()
        await ping.start()
        client.send(request(b"POST", CHAT, CLOSE, BOMBS[name]))
        (status,) = statuses(await client.rest())
        assert status in (200, 400)
        assert await ping.worst() < STALL_S


async def test_junk_of_the_greatest_size_is_refused_in_time(upstream):
    """32 MiB of brackets and quotes do not block the loop."""
    junk = b'{"a":[' + b'"x",[1],' * (4 * MIB - 10) + b"1]}"
    async with InProcess(upstream) as gateway:
        client, ping = await gateway.client(), Pinger()
        client.send(request(b"POST", CHAT, CLOSE, junk))
        await ping.start()
        (status,) = statuses(await client.rest())
        assert status == 400
        assert await ping.worst() < 2 * STALL_S  # the test's own copies included


async def test_a_compressed_request_is_metered_and_forwarded_unchanged(upstream):
    """A compressed body is metered decompressed and forwarded unchanged."""
    body = gzip.compress(PROMPT)
    async with InProcess(upstream) as gateway:
        fields = CLOSE + b"Content-Encoding: gzip\r\n"
        await gateway.talk(request(b"POST", CHAT, fields, body))
        assert upstream.requests[0].endswith(b"\r\n\r\n" + body)
        assert (await gateway.record()).model == "m"


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        (b"gzip", gzip.compress(bytes(100 * MIB)), 413),
        (b"deflate", zlib.compress(b" " * (70 * MIB)), 413),
        (b"gzip", gzip.compress(PROMPT)[:-9], 400),
        (b"gzip", b"junk", 400),
        (b"br", b"junk", 400),
    ],
    ids=["gzip bomb", "deflate bomb", "cut", "junk", "unknown"],
)
async def test_compressed_requests_are_bounded(coding, body, status, upstream):
    """Decompression bombs get 413, undecodable bodies 400; neither is forwarded."""
    async with InProcess(upstream) as gateway:
        client, ping = await gateway.client(), Pinger()
        await ping.start()
        fields = CLOSE + b"Content-Encoding: %b\r\n" % coding
        client.send(request(b"POST", CHAT, fields, body))
        assert statuses(await client.rest()) == [status]
        assert await ping.worst() < STALL_S
        assert not upstream.connections


USAGE = b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}'


async def test_compressed_answer_is_metered_and_passes_unchanged(upstream):
    """The client gets the compressed bytes; the record has the decoded usage."""
    body = gzip.compress(USAGE)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    upstream.default = (head + b"Content-Length: %d\r\n\r\n" % len(body) + body,)
    async with InProcess(upstream) as gateway:
        fields = CLOSE + b"Accept-Encoding: br, gzip;q=0.5\r\n"
        answer = await gateway.talk(request(b"POST", CHAT, fields, PROMPT))
        assert answer.endswith(b"\r\n\r\n" + body)
        assert (await gateway.record()).total_tokens == 7
        assert b"\r\nAccept-Encoding: gzip\r\n" in upstream.requests[0]


@pytest.mark.parametrize("asked", [b"br", b"identity", b"gzip;q=0", b"*"])
async def test_metered_answers_are_asked_for_in_a_readable_coding(asked, upstream):
    """Codings other than gzip become identity on metered endpoints only."""
    async with InProcess(upstream) as gateway:
        fields = CLOSE + b"Accept-Encoding: %b\r\n" % asked
        await gateway.talk(request(b"POST", CHAT, fields, PROMPT))
        await gateway.talk(request(fields=fields))
        assert b"\r\nAccept-Encoding: identity\r\n" in upstream.requests[0]
        assert b"\r\nAccept-Encoding: %b\r\n" % asked in upstream.requests[1]


async def test_stream_with_our_usage_chunk_is_never_coded(upstream):
    """Where a usage chunk must be removed, an uncompressed answer is requested."""
    body = PROMPT.replace(b"{", b'{"stream":true,', 1)
    async with InProcess(upstream) as gateway:
        fields = CLOSE + b"Accept-Encoding: gzip\r\n"
        await gateway.talk(request(b"POST", CHAT, fields, body))
        assert b"include_usage" in upstream.requests[0]
        assert b"\r\nAccept-Encoding: identity\r\n" in upstream.requests[0]


async def test_coded_bomb_in_an_answer_passes(upstream):
    """A decompression bomb in an answer reaches the client; metering stops."""
    body = gzip.compress(bytes(200 * MIB), 9)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    upstream.default = (head + b"Content-Length: %d\r\n\r\n" % len(body) + body,)
    async with InProcess(upstream) as gateway:
        client, ping = await gateway.client(), Pinger()
        await ping.start()
        fields = CLOSE + b"Accept-Encoding: gzip\r\n"
        client.send(request(b"POST", CHAT, fields, PROMPT))
        assert (await client.rest()).endswith(body)
        assert await ping.worst() < STALL_S
        assert (await gateway.record()).usage_source == "estimated"


# -- heads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "disguise", [b"/v1/chat%2Fcompletions", b"/V1/chat/Completions"]
)
async def test_disguised_endpoint_is_metered(disguise, upstream):
    """A spelling that some servers read as a metered path is not passed unmetered."""
    async with InProcess(upstream) as gateway:
        await gateway.talk(request(b"POST", disguise, CLOSE, PROMPT))
        assert (await gateway.record()).endpoint == "chat.completions"
        assert upstream.requests[0].startswith(b"POST %b HTTP" % disguise)


async def test_content_length_follows_each_request(upstream):
    """Heads that differ only in their length share the cached head."""
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        for body in (b"abc", b"", b"x", b""):
            client.send(request(b"POST", body=body))
            await client.answer()
        assert [
            int(re.search(rb"Content-Length: (\d+)", raw)[1])
            for raw in upstream.requests
        ] == [3, 0, 1, 0]
        assert gateway.plane.listener.state.heads.hits == 3


async def test_routes_and_paths(upstream):
    """The prefix is removed, the base path prepended, the rest unchanged."""
    route = 'prefix = "/api"\nstrip_prefix = true'
    url = upstream.url + "/base"
    async with InProcess(upstream, route=route, url=url) as gateway:
        for target in (b"/api/a%2Fb//c?x=%20", b"/api", b"/api?q", b"/apix"):
            await gateway.talk(request(target=target, fields=CLOSE))
        await gateway.talk(request(b"OPTIONS", b"*", CLOSE))
        assert [raw.split(b" ")[1] for raw in upstream.requests] == [
            b"/base/a%2Fb//c?x=%20",
            b"/base/",
            b"/base/?q",
            b"*",
        ]


# -- tunnels ------------------------------------------------------------------------------

HANDSHAKE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: %b\r\n" % base64.b64encode(bytes(16))
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\n\r\n"
)


async def test_tunnel_carries_early_and_large_bytes(upstream):
    """Bytes that arrive with both heads, and later ones, are passed on in order."""
    upstream.default = (SWITCH + b"early-down",)
    big = bytes(range(256)) * 8192
    async with InProcess(upstream, route="websocket = true") as gateway:
        client = await gateway.client()
        client.send(request(fields=HANDSHAKE) + b"early-up")
        assert (await client.until(b"early-down")).startswith(b"HTTP/1.1 101 ")
        one = upstream.connections[0]
        client.send(big)
        await until(lambda: one.received.endswith(b"early-up" + big))
        one._transport.write(big + b"!end")
        assert await client.until(b"!end") == big + b"!end"
        client.close()
        await until(one.closed.is_set)
        assert (await gateway.record()).status == 101


async def test_tunnel_half_closes(upstream):
    """A half-close is passed on; the other direction goes on until it ends."""
    upstream.default = (SWITCH,)
    async with InProcess(upstream, route="websocket = true") as gateway:
        client = await gateway.client()
        client.send(request(fields=HANDSHAKE))
        await client.until(b"\r\n\r\n")
        one = upstream.connections[0]
        one.eof_received = lambda: True
        client.send(b"last words")
        client.end()
        await until(lambda: one.received.endswith(b"last words"))
        one._transport.write(b"answer")
        one._transport.close()
        assert await client.rest() == b"answer"
        assert (await gateway.record()).outcome == "ok"


async def test_upgrade_is_not_asked_for_where_the_route_forbids(upstream):
    """The request is forwarded without the hop-by-hop fields of the handshake."""
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(request(fields=HANDSHAKE))
        assert statuses(await client.answer()) == [200]
        assert b"Upgrade" not in upstream.requests[0]


# -- draining ------------------------------------------------------------------------------


async def test_drain_lets_answers_end(upstream):
    """While draining, open exchanges finish and idle connections close."""
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    upstream.default = (chunks, 0.2, b"0\r\n\r\n")
    async with InProcess(upstream) as gateway:
        idle, busy = await gateway.client(), await gateway.client()
        busy.send(request())
        await busy.until(b"{}")
        gateway.plane.begin_drain()
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await gateway.client()
        assert (await busy.rest()).endswith(b"0\r\n\r\n")


async def test_drain_waits_for_slow_readers(upstream):
    """A drain waits for answers that are still in the write buffer."""
    size = 6 * MIB
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    upstream.default = (head + bytes(size),)
    async with InProcess(upstream) as gateway:
        client = await gateway.client(65_536)
        client.send(request())
        await client.until(b"\r\n\r\n")
        (conn,) = gateway.plane.listener.connections
        await until(lambda: not conn.writable or not gateway.plane.service.busy)
        gateway.plane.begin_drain()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(gateway.plane.drain())
            await asyncio.sleep(0.1)
            assert len(await client.rest()) == size


async def test_nothing_stays_behind(upstream):
    """After 2,000 mixed exchanges no exchange, count or busy connection is left."""
    limits = 'limits = [{ per = "user", requests = 500, window = "1h" }]'
    async with InProcess(upstream, policy=limits) as gateway:
        for turn in range(20):
            await asyncio.gather(*(mixed(gateway, turn * 100 + i) for i in range(100)))
        service = gateway.plane.service
        await until(lambda: not service.open_exchanges)
        await until(lambda: not gateway.plane.listener.connections)
        (target,) = gateway.plane.shared.tables.routes[0].pool.targets
        assert not target.opening
        assert set(target.idle) == target.connections
        assert not any(conn.paused or conn.sink for conn in target.connections)
        assert len(gateway.records) == 2_000
        windows = gateway.store._windows.values()
        spent = sum(window.total(gateway.store.now_us()) for window in windows)
        ended = [r for r in gateway.records if r.outcome != "client_closed"]
        assert spent == sum(record.action != "limit" for record in ended) == 1_500


async def mixed(gateway: InProcess, number: int) -> None:
    """Run one exchange of a random kind with a random end."""
    kind = number % 5
    key = b"Authorization: Bearer k%d\r\n" % (number % 3)
    client = await gateway.client()
    if kind == 0:
        client.send(request(b"POST", CHAT, key + CLOSE, PROMPT))
    elif kind == 1:
        client.send(request(fields=key + CLOSE))
    elif kind == 2:
        client.send(request(b"POST", b"/up", key + CLOSE, b"x" * 100_000))
    elif kind == 3:
        gateway.upstream.scripts.append((b"HTTP/1.1 200 OK\r\nCont", Cut.RESET))
        client.send(request(fields=key + CLOSE))
    else:
        # Reset before it is accepted, it would have no address and no record.
        port = client.writer.get_extra_info("sockname")[1]
        client.send(request(b"POST", CHAT, key + b"Content-Length: 9\r\n") + b"{")
        await until(
            lambda: any(
                conn.phase > Phase.HEAD
                and conn.transport.get_extra_info("peername")[1] == port
                for conn in gateway.plane.listener.connections
            )
        )
        client.reset()
        return
    try:
        await client.rest()
    except ConnectionResetError:
        return
    finally:
        client.close()


def test_bombs_are_what_they_say():
    """The deepest body exceeds the depth limit of every parser."""
    with pytest.raises(RecursionError):
        json.loads(DEEP)
