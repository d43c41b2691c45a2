"""Limits hold for prompts that are not in the body, and for texts that look like files."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
MESSAGES, RESPONSES = b"/v1/messages", b"/v1/responses"
GOOGLE = b"/v1beta/models/gemini-2.5-pro:generateContent"
# Of a call's answer, and of the smallest limits here.
CONTEXT, LIMIT = 200_000, 500_000
WORDS = "tell-me-about_the/tides+and=" * 15_000


def answer(path: bytes) -> bytes:
    """A JSON answer that states a long context."""
    names = ("input_tokens", "output_tokens")
    usage = {"usage": dict(zip(names, (CONTEXT, 16), strict=True))}
    if path == CHAT:
        usage = {"usage": {"prompt_tokens": CONTEXT, "completion_tokens": 16}}
    if path == GOOGLE:
        counts = {"promptTokenCount": CONTEXT, "candidatesTokenCount": 16}
        usage = {"usageMetadata": {**counts, "totalTokenCount": CONTEXT + 16}}
    body = json.dumps(usage).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def used(gateway: InProcess) -> int:
    """The sum of the only counter of tokens or money."""
    windows = gateway.store._windows.items()
    (window,) = [window for key, window in windows if not key.endswith(b":edge")]
    return window.total(gateway.store.now_us())


def part(part: dict) -> dict:
    return {"messages": [{"role": "user", "content": [part]}]}


CASES = [
    (RESPONSES, {"previous_response_id": "resp_1", "input": "x"}),
    (RESPONSES, {"conversation": "conv_1", "input": "x"}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    (RESPONSES, {"input": "x", "tools": [{"type": "web_search"}]}),
    (CHAT, part({"type": "file", "file": {"file_id": "file_1"}})),
    (CHAT, {"web_search_options": {}, "plugins": [{"id": "web"}]}),
    (MESSAGES, part({"type": "document", "source": {"type": "file", "file_id": "f"}})),
    (MESSAGES, part({"type": "document", "source": {"url": "https://x.example"}})),
    (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (MESSAGES, {"mcp_servers": [{"type": "url", "url": "https://x.example"}]}),
    (GOOGLE, {"contents": [{"parts": [{"text": "x"}]}], "cachedContent": "c"}),
    (GOOGLE, {"contents": [{"parts": [{"fileData": {"fileUri": "https://x"}}]}]}),
    (
        GOOGLE,
        {"contents": [{"parts": [{"text": "x"}]}], "tools": [{"googleSearch": {}}]},
    ),
]


@pytest.mark.parametrize(("path", "members"), CASES)
@pytest.mark.parametrize(
    ("limit", "bound", "one"),
    [
        ("tokens = 500_000", 550_000, CONTEXT + 16),
        ("prompt_tokens = 500_000", 550_000, CONTEXT),
        ("usd = 1", 1_100_000_000, 300_000_000),
    ],
)
async def test_parallel_calls_pass_a_limit_by_one_call(
    path, members, limit, bound, one, upstream
):
    """25 parallel calls with a cap and a long context that is not in their body."""
    cap = {RESPONSES: "max_output_tokens", CHAT: "max_completion_tokens"}
    model = "claude-haiku-4-5" if path == MESSAGES else "gpt-5"
    body = {"model": model, cap.get(path, "max_tokens"): 16, **members}
    policy = (
        f'limits = [{{ per = "user", {limit}, window = "1h" }}]\n'
        "assumed_context_tokens = 262_144"
    )
    upstream.default = (0.05, answer(path))
    async with InProcess(upstream, policy=policy) as gateway:
        call = request(b"POST", path, CLOSE, json.dumps(body).encode())
        for _ in range(3):
            answers = await asyncio.gather(*(gateway.talk(call) for _ in range(25)))
            assert {one[9:12] for one in answers} <= {b"200", b"429"}
        assert 0 < used(gateway) <= bound + one


async def test_calls_one_after_another_use_the_whole_limit(upstream):
    """Each is admitted while there is room for what it is expected to cost."""
    policy = 'limits = [{ per = "user", tokens = 500_000, window = "1h" }]'
    upstream.default = (answer(RESPONSES),)
    async with InProcess(upstream, policy=policy) as gateway:
        body = b'{"model":"gpt-5","input":"x","previous_response_id":"r"}'
        call = request(b"POST", RESPONSES, CLOSE, body)
        statuses = [(await gateway.talk(call))[9:12] for _ in range(5)]
        assert statuses == [b"200"] * 3 + [b"429"] * 2


async def test_a_context_that_is_known_to_be_short_runs_in_parallel(upstream):
    """``assumed_context_tokens`` says how many run at a time."""
    policy = (
        'limits = [{ per = "user", tokens = 500_000, window = "1h" }]\n'
        "assumed_context_tokens = 100_000"
    )
    upstream.default = (0.05, answer(RESPONSES))
    async with InProcess(upstream, policy=policy) as gateway:
        body = b'{"model":"gpt-5","input":"x","previous_response_id":"r"'
        call = request(b"POST", RESPONSES, CLOSE, body + b',"max_output_tokens":9}')
        answers = await asyncio.gather(*(gateway.talk(call) for _ in range(9)))
        # Five within the limit and its overdraft, one at the edge.
        assert [one[9:12] for one in answers].count(b"200") == 6


@pytest.mark.parametrize(
    ("path", "members"),
    [
        (CHAT, {"messages": [{"role": "user", "content": WORDS}]}),
        (CHAT, {"messages": [{"role": "user", "content": "data:" + WORDS}]}),
        (CHAT, part({"type": "text", "text": "data:image/png;base64," + WORDS})),
        (CHAT, part({"type": "text", "text": "x", "data": "", "x": WORDS})),
        (RESPONSES, {"input": "data:" + WORDS}),
        (MESSAGES, {"system": "data:" + WORDS, "messages": []}),
        (MESSAGES, part({"type": "tool_use", "input": {"data": WORDS}})),
        (b"/v1/embeddings", {"input": ["a", WORDS]}),
        (b"/v1/rerank", {"query": "x", "documents": [{"data": WORDS}, {"url": WORDS}]}),
        (GOOGLE, {"contents": [{"parts": [{"text": "data:" + WORDS}]}]}),
    ],
)
async def test_texts_count_whatever_they_begin_with(path, members, upstream):
    """A prompt of 100,000 tokens does not fit into a limit of 20,000."""
    policy = 'limits = [{ per = "user", tokens = 20_000, window = "1h" }]'
    async with InProcess(upstream, policy=policy) as gateway:
        body = json.dumps({"model": "m", "max_tokens": 16, **members}).encode()
        got = await gateway.talk(request(b"POST", path, CLOSE, body))
        assert got[9:12] == b"429"
        assert b"request_too_large" in got or b"too large" in got


async def test_an_answer_without_a_usage_is_charged_a_context(upstream):
    """Nothing states how long the prompt was."""
    policy = 'limits = [{ per = "user", tokens = 500_000, window = "1h" }]'
    text = b'{"output":[{"type":"message","content":[{"text":"tide"}]}]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    upstream.default = (head % len(text) + text,)
    async with InProcess(upstream, policy=policy) as gateway:
        body = b'{"model":"gpt-4o","input":"x","previous_response_id":"r"}'
        await gateway.talk(request(b"POST", RESPONSES, CLOSE, body))
        record = await gateway.record()
        assert 32_768 < used(gateway) == record.total_tokens < 40_000
