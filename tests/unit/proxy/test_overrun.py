"""Streams without a cap that outgrow what they reserved, and answers that are cut."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from tests.doubles import Cut
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
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: close\r\n\r\n"
SSE = HEAD % b"text/event-stream"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"four"}}]}\n\n'
LIMIT = 'limits = [{ per = "user", tokens = 10_000, window = "1h" }]\n'


def usage(tokens: int) -> bytes:
    """The usage chunk, and the end of a stream."""
    stated = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":%d,'
    stated += b'"total_tokens":%d}}\n\ndata: [DONE]\n\n'
    return stated % (tokens, tokens + 2)


def stream(tokens: int, *, end: bool = True, pause_s: float = 0.002) -> tuple:
    """A stream of one token per event, in pieces of 250."""
    script: list[object] = [SSE]
    for _ in range(tokens // 250):
        script += [WORD * 250, pause_s]
    if end:
        script += [usage(tokens), Cut.CLOSE]
    return tuple(script)


def chat(members: bytes = b"", path: bytes = CHAT) -> bytes:
    """A streamed chat request with these additional members."""
    body = (
        b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hi"}]'
    )
    return request(b"POST", path, CLOSE, body + members + b"}")


def used(gateway: InProcess) -> int:
    """The sum of the only counter of tokens or money."""
    windows = gateway.store._windows.items()
    (window,) = [window for key, window in windows if not key.endswith(b":edge")]
    return window.total(gateway.store.now_us())


async def test_a_stream_reserves_more_while_it_flows(upstream):
    """What is reserved stays ahead of the stream, and is settled at what was used."""
    upstream.default = stream(8_000)
    async with InProcess(upstream, policy=LIMIT) as gateway:
        client = await gateway.client()
        client.send(chat())
        await client.until(WORD)
        seen = [used(gateway)]
        while b"[DONE]" not in await client.until(b"\n\n"):
            if used(gateway) != seen[-1]:
                seen.append(used(gateway))
        assert seen[0] == pytest.approx(4096, abs=100)
        assert max(seen) > 8_000
        await until(lambda: gateway.records)
        assert used(gateway) == 8_002
        assert gateway.records[0].outcome == "ok"


async def test_the_rest_of_an_answer_counts_at_once(upstream):
    """By default a stream beyond the limit finishes, and nobody else passes meanwhile."""
    upstream.default = stream(16_000)
    async with InProcess(upstream, policy=LIMIT) as gateway:
        client = await gateway.client()
        client.send(chat())
        await until(lambda: gateway.store._windows and used(gateway) > 12_000)
        upstream.default = (SSE, usage(1), Cut.CLOSE)
        assert (await gateway.talk(chat(b',"max_tokens":5')))[9:12] == b"429"
        assert b"data: [DONE]\n\n" in await client.rest()
        await until(lambda: len(gateway.records) == 2)
        assert used(gateway) == pytest.approx(16_002, abs=3_000)


@pytest.mark.parametrize("alone", [False, True])
async def test_cut_ends_the_stream_with_a_reason(alone, upstream):
    """``overrun = "cut"``: the client gets an error event, the limit holds."""
    policy = 'overrun = "cut"\n' + LIMIT
    async with InProcess(upstream, policy=policy) as gateway:
        if alone:
            upstream.default = (SSE, usage(8_000), Cut.CLOSE)
            await gateway.talk(chat(b',"max_tokens":8000'))
            gateway.plane.shared.expectation._subjects.clear()
        upstream.default = stream(30_000)
        answer = await gateway.talk(chat())
        assert b'"code":"rate_limit_exceeded"' in answer
        assert b"what was left of user.tokens.1h" in answer
        assert answer.endswith(b"\n\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await until(lambda: len(gateway.records) == 1 + alone)
        record = gateway.records[-1]
        assert (record.outcome, record.action) == ("refused", "limit")
        assert record.limit == "user.tokens.1h"
        # At most one read from the upstream beyond it.
        assert 9_000 <= used(gateway) <= 11_250


@pytest.mark.parametrize(
    ("path", "members", "kind", "piece", "end"),
    [
        (
            b"/v1/messages",
            b"",
            b"text/event-stream",
            b'event: content_block_delta\ndata: {"type":"content_block_delta",'
            b'"delta":{"type":"text_delta","text":"four"}}\n\n',
            b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error",',
        ),
        (
            b"/v1/responses",
            b"",
            b"text/event-stream",
            b'event: response.output_text.delta\ndata: {"type":'
            b'"response.output_text.delta","delta":"four"}\n\n',
            b'event: error\ndata: {"type":"error","code":"rate_limit_exceeded",',
        ),
        (
            b"/api/chat",
            b"",
            b"application/x-ndjson",
            b'{"message":{"content":"four four"},"done":false}\n',
            b'{"error":"This answer was ended because',
        ),
    ],
    ids=["anthropic", "responses", "ollama"],
)
async def test_a_stream_is_cut_in_its_own_protocol(
    path, members, kind, piece, end, upstream
):
    """Each protocol has its own event for an error inside a stream."""
    policy = 'overrun = "cut"\n' + LIMIT
    upstream.default = (HEAD % kind, *((piece * 250, 0.002) * 80))
    async with InProcess(upstream, policy=policy) as gateway:
        answer = await gateway.talk(chat(members, path))
        assert end in answer[-700:]
        assert answer.endswith(b"\r\n0\r\n\r\n")
        await until(lambda: gateway.records)


async def test_a_stream_that_cannot_state_a_reason_is_broken_off(upstream):
    """A compressed stream ends without its last chunk."""
    head = SSE.replace(b"Connection", b"Content-Encoding: br\r\nConnection")
    upstream.default = (head, *((bytes(range(10, 250)) * 20 + b"\n", 0.002) * 400))
    policy = 'overrun = "cut"\n' + LIMIT
    async with InProcess(upstream, policy=policy) as gateway:
        answer = await gateway.talk(chat())
        assert not answer.endswith(b"0\r\n\r\n")
        await until(lambda: gateway.records)
        assert gateway.records[0].outcome == "refused"


@pytest.mark.parametrize(
    ("members", "charged"), [(b"", 4096), (b',"max_tokens":9000', 9000)]
)
async def test_a_client_that_leaves_is_charged_what_it_reserved(
    members, charged, upstream
):
    """Leaving before the usage chunk does not hide reasoning tokens."""
    finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    upstream.default = (SSE, WORD * 3, finish, 5.0)
    async with InProcess(upstream, policy=LIMIT) as gateway:
        client = await gateway.client()
        client.send(chat(members))
        await client.until(b'"stop"}]}\n\n')
        client.close()
        await until(lambda: gateway.records)
        record = gateway.records[0]
        assert record.completion_tokens == charged
        assert (record.usage_source, record.metering) == ("estimated", "cut")
        await until(lambda: used(gateway) == record.total_tokens)


async def test_a_client_that_leaves_an_answer_without_stream_is_charged(upstream):
    """The provider bills what it generated, although nothing was sent yet."""
    upstream.default = (5.0,)
    upstream.scripts.append((b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",))
    async with InProcess(upstream, policy=LIMIT) as gateway:
        await gateway.talk(chat())  # the upstream accepts the client
        client = await gateway.client()
        client.send(chat().replace(b'"stream":true', b'"stream":null'))
        await until(lambda: len(upstream.requests) == 2)
        await asyncio.sleep(0.01)
        client.close()
        await until(lambda: len(gateway.records) == 2)
        assert gateway.records[1].completion_tokens == 4096


@pytest.mark.parametrize(
    ("model", "answered", "tokens"),
    [
        (b"o3", b"o3", 300),
        (b"my-deployment", b"gpt-5.1-2026-01-01", 300),
        (b"gpt-4o", b"gpt-4o", 1),
    ],
)
async def test_unstated_reasoning_costs_what_it_reserved(
    model, answered, tokens, upstream
):
    """Of a model that reasons unseen, the text is not all that was generated."""
    answer = b'{"model":"%b","choices":[{"message":{"content":"four"}}]}' % answered
    upstream.default = (HEAD % b"application/json" + answer, Cut.CLOSE)
    body = b'{"model":"%b","max_tokens":300,"messages":[]}' % model
    async with InProcess(upstream, policy=LIMIT) as gateway:
        await gateway.talk(request(b"POST", CHAT, CLOSE, body))
        record = await gateway.record()
        assert record.completion_tokens == tokens
        assert record.metering == ("" if tokens == 1 else "hidden")
        assert used(gateway) == record.total_tokens


@pytest.mark.parametrize(
    ("coding", "tokens", "metering"),
    [(b"gzip", 5000, ""), (b"br", 300, "unread"), (b"gzip, gzip", 300, "unread")],
)
async def test_an_answer_that_compresses_well_is_read(
    coding, tokens, metering, upstream
):
    """Its ratio does not hide its usage; one that cannot be decoded costs its
    reservation.
    """
    stated = b'"usage":{"prompt_tokens":1,"completion_tokens":5000,"total_tokens":5001}'
    answer = b'{"choices":[],"tool_output":"%b",%b}' % (b" " * 3_000_000, stated)
    head = HEAD[:-2] + b"Content-Encoding: %b\r\n\r\n"
    head %= (b"application/json", coding)
    upstream.default = (head + gzip.compress(answer, 9), Cut.CLOSE)
    body = b'{"model":"gpt-4o","max_tokens":300,"messages":[]}'
    async with InProcess(upstream, policy=LIMIT) as gateway:
        line = b"Accept-Encoding: gzip\r\n" + CLOSE
        await gateway.talk(request(b"POST", CHAT, line, body))
        record = await gateway.record()
        assert (record.completion_tokens, record.metering) == (tokens, metering)
        assert used(gateway) == record.total_tokens


async def test_without_limits_of_tokens_a_cut_answer_is_counted(upstream):
    """Nothing was reserved, so only the text that passed counts."""
    upstream.default = (SSE, WORD * 3, 5.0)
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(chat())
        await client.until(WORD)
        client.close()
        await until(lambda: gateway.records)
        assert gateway.records[0].completion_tokens < 10
