"""What is billed: the answer's model, tier and units decide the price of a request."""

from __future__ import annotations

import json

import pytest

from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CHAT = b"/v1/chat/completions"
AZURE = b"/openai/deployments/prod-chat-eastus/chat/completions?api-version=1"
MESSAGES = b"/v1/messages"
MILLION = 1_000_000
OWN = '[policy.default.prices."prod-*"]\ninput = 1.0\noutput = 1.0\n'


def openai(model, usage, **more):
    """An answer of chat completions."""
    choices = [{"index": 0, "message": {"role": "assistant", "content": "x"}}]
    return {"id": "1", "model": model, "choices": choices, "usage": usage, **more}


def tokens(prompt, completion=0, **more):
    """The usage of chat completions."""
    total = prompt + completion
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
    } | more


def claude(**usage):
    """An answer of Anthropic's."""
    content = [{"type": "text", "text": "x"}]
    return {
        "id": "1",
        "type": "message",
        "model": "claude-sonnet-4-5-20250929",
        "content": content,
        "stop_reason": "end_turn",
        "usage": usage,
    }


def ask(model):
    """A request of this model."""
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


CASES = {
    "an Azure deployment": (
        AZURE,
        {"messages": []},
        openai("gpt-4o-2024-08-06", tokens(MILLION)),
        2.5,
        "table",
    ),
    "a router's alias": (
        CHAT,
        ask("openrouter/auto"),
        openai("openai/gpt-5-pro", tokens(MILLION)),
        15.0,
        "table",
    ),
    "a fallback": (
        CHAT,
        ask("gpt-4o-mini") | {"models": ["gpt-5-pro"]},
        openai("gpt-5-pro", tokens(MILLION)),
        15.0,
        "table",
    ),
    "priority": (
        CHAT,
        ask("gpt-5-mini"),
        openai("gpt-5-mini", tokens(MILLION, MILLION), service_tier="priority"),
        4.05,
        "table",
    ),
    "flex": (
        CHAT,
        ask("gpt-5-mini"),
        openai("gpt-5-mini", tokens(MILLION, MILLION), service_tier="flex"),
        1.125,
        "table",
    ),
    "audio": (
        CHAT,
        ask("gpt-4o-audio-preview"),
        openai(
            "gpt-4o-audio-preview-2024-12-17",
            tokens(
                1000,
                1000,
                prompt_tokens_details={"audio_tokens": 1000},
                completion_tokens_details={"audio_tokens": 1000},
            ),
        ),
        0.12,
        "table",
    ),
    "a cache write for one hour": (
        MESSAGES,
        ask("claude-sonnet-4-5") | {"max_tokens": 5},
        claude(
            input_tokens=0,
            output_tokens=0,
            cache_creation_input_tokens=100_000,
            cache_creation={
                "ephemeral_5m_input_tokens": 0,
                "ephemeral_1h_input_tokens": 100_000,
            },
        ),
        0.6,
        "table",
    ),
    "web searches": (
        MESSAGES,
        ask("claude-sonnet-4-5") | {"max_tokens": 5},
        claude(
            input_tokens=100,
            output_tokens=100,
            server_tool_use={"web_search_requests": 100},
        ),
        1.0018,
        "table",
    ),
    "a long context": (
        b"/v1beta/models/gemini-2.5-pro:generateContent",
        {"contents": [{"parts": [{"text": "x"}]}]},
        {
            "modelVersion": "gemini-2.5-pro",
            "candidates": [{"content": {"parts": [{"text": "x"}]}}],
            "usageMetadata": {
                "promptTokenCount": 300_000,
                "candidatesTokenCount": 1000,
                "totalTokenCount": 301_000,
            },
        },
        0.765,
        "table",
    ),
    "a pattern that another model answers": (
        AZURE.replace(b"prod", b"prod-x"),
        {"messages": []},
        openai("gpt-4o-2024-08-06", tokens(MILLION)),
        2.5,
        "table",
    ),
    "a cost that is not trusted": (
        CHAT,
        ask("gpt-4o"),
        openai("gpt-4o", tokens(MILLION, cost=0.0123)),
        2.5,
        "table",
    ),
    "an image": (
        b"/v1/images/generations",
        {"model": "dall-e-3", "prompt": "x", "size": "1024x1792", "quality": "hd"},
        {"created": 1, "data": [{"url": "x"}]},
        0.12,
        "table",
    ),
    "speech": (
        b"/v1/audio/speech",
        {"model": "tts-1", "input": "x" * 4000, "voice": "a"},
        {},
        0.06,
        "table",
    ),
}


def answer(content):
    """The bytes of an answer."""
    body = json.dumps(content).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def exchange(gateway, path, body):
    """Send one request; return its record."""
    await gateway.talk(
        request(b"POST", path, b"Connection: close\r\n", json.dumps(body).encode())
    )
    return await gateway.record()


@pytest.mark.parametrize("case", CASES)
async def test_what_a_request_costs(case, upstream):
    """The record has the provider's price, and says where it is from."""
    path, body, content, usd, source = CASES[case]
    policy = "" if source != "policy" else OWN
    upstream.default = (answer(content),)
    async with InProcess(upstream, more=policy) as gateway:
        record = await exchange(gateway, path, body)
    assert record.usd == pytest.approx(usd, abs=1e-9)
    assert (record.price_source, record.metering) == (source, "")


async def test_a_stated_cost_is_taken_where_it_is_trusted(upstream):
    """With ``trust_cost`` a router's own figure is the price, of unknown models too."""
    upstream.default = (answer(openai("no-model-of-ours", tokens(9, cost=0.0123))),)
    async with InProcess(upstream, route="trust_cost = true") as gateway:
        record = await exchange(gateway, CHAT, ask("auto"))
    assert (record.usd, record.price_source) == (0.0123, "answer")
    assert not record.unpriced


async def test_a_unit_without_a_price_is_visible(upstream):
    """The rest is charged, and the record says that something was not."""
    usage = {"input_tokens": 100, "output_tokens": 0}
    usage["server_tool_use"] = {"web_search_requests": 2}
    upstream.default = (answer(claude(**usage) | {"model": "claude-3-haiku"}),)
    async with InProcess(upstream) as gateway:
        record = await exchange(
            gateway, MESSAGES, ask("claude-3-haiku") | {"max_tokens": 5}
        )
    assert record.usd == pytest.approx(100 * 0.25e-6)
    assert (record.metering, record.unpriced) == ("part_priced", True)


async def test_the_provider_of_the_upstream_decides(upstream):
    """One name costs what the configured provider asks."""
    content = openai("openai/gpt-oss-120b", tokens(MILLION, MILLION))
    upstream.default = (answer(content),)
    async with InProcess(upstream, route='provider = "groq"') as gateway:
        groq = await exchange(gateway, CHAT, ask("openai/gpt-oss-120b"))
    assert groq.usd == pytest.approx(0.75)
    upstream.default = (answer(content),)
    async with InProcess(upstream) as gateway:
        unknown = await exchange(gateway, CHAT, ask("openai/gpt-oss-120b"))
    assert unknown.usd > groq.usd
