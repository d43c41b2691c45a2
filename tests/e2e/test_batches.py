"""Batches whose requests are in the body are read, limited, priced and charged."""

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
ACCEPTED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
    b'{"id":"b_1"}',
)
REFUSED = (b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n",)
CLAUDE = "claude-sonnet-4-5"
GEMINI = b"/v1beta/models/gemini-2.5-flash:batchGenerateContent"
EMBED = b"/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent"


def anthropic(count: int, model: str = CLAUDE, max_tokens: int = 1000) -> bytes:
    """A batch of Anthropic's."""
    params = {
        "model": model,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "x" * 400}],
    }
    return batch([params] * count)


def batch(params: list[object]) -> bytes:
    """A batch of Anthropic's, of these requests."""
    items = [{"custom_id": str(i), "params": one} for i, one in enumerate(params)]
    return json.dumps({"requests": items}).encode()


def gemini(count: int, name: str = "inputConfig", config: object = None) -> bytes:
    """An inline batch of Gemini's."""
    one = {"contents": [{"parts": [{"text": "x" * 400}]}]}
    if config is not None:
        one["generationConfig"] = config
    items = [{"request": one, "metadata": {"key": str(i)}} for i in range(count)]
    return json.dumps({"batch": {name: {"requests": {"requests": items}}}}).encode()


def held(gateway: InProcess) -> list[int]:
    """The sums of every cell in the store."""
    return [w.total(gateway.store.now_us()) for w in gateway.store._windows.values()]


async def send(gateway: InProcess, path: bytes, body: bytes) -> bytes:
    """The status line and body of the answer to a POST."""
    client = await gateway.client()
    client.send(
        request(b"POST", path, b"Content-Type: application/json\r\n", body=body)
    )
    answer = await client.answer()
    client.close()
    return answer


BATCHES = b"/v1/messages/batches"


async def test_a_batch_is_priced(upstream):
    """A batch costs half of what its prompts and caps cost."""
    upstream.default = ACCEPTED
    async with InProcess(upstream) as gateway:
        await send(gateway, BATCHES, anthropic(10))
        record = await gateway.record()
        assert (record.endpoint, record.model) == ("messages.batches", CLAUDE)
        assert record.completion_tokens == 10_000
        assert 900 < record.prompt_tokens < 1200
        assert record.usage_source == "estimated"
        price = gateway.plane.shared.tables._prices["default"].price(CLAUDE)
        full = record.prompt_tokens * price.input + 10_000 * price.output
        assert record.usd == pytest.approx(full / 2e6)


@pytest.mark.parametrize(
    ("path", "body", "completion"),
    [
        (GEMINI, gemini(3), 3 * 4096),
        (GEMINI, gemini(3, "input_config", {"maxOutputTokens": 10}), 30),
        (GEMINI, gemini(2, config={"maxOutputTokens": 10, "candidateCount": 4}), 80),
        (EMBED, gemini(3), 0),
    ],
)
async def test_gemini(path, body, completion, upstream):
    """Inline batches of Gemini, with the model of the path."""
    upstream.default = ACCEPTED
    async with InProcess(upstream) as gateway:
        await send(gateway, path, body)
        record = await gateway.record()
        assert record.endpoint in ("batch_generate_content", "batch_embed_content")
        assert record.model.startswith("gemini-")
        assert record.completion_tokens == completion
        assert record.prompt_tokens > 100
        assert record.usd > 0


@pytest.mark.parametrize(
    ("limit", "sums"),
    [("requests = 15", [10]), ("tokens = 15_000", None), ("usd = 0.08", None)],
)
async def test_limits(limit, sums, upstream):
    """A batch counts as its requests, at what they may cost; the second has no room, and
    one that is larger than the whole limit never has.
    """
    upstream.default = ACCEPTED
    policy = f'limits = [{{ per = "tenant", {limit}, window = "1h" }}]'
    async with InProcess(upstream, policy=policy) as gateway:
        assert b" 200 " in await send(gateway, BATCHES, anthropic(10))
        assert sums is None or held(gateway) == sums
        if limit.startswith("tokens"):
            assert held(gateway) == [gateway.records[0].total_tokens]
        assert b" 429 " in await send(gateway, BATCHES, anthropic(10))
        answer = await send(gateway, BATCHES, anthropic(100))
        assert b"Sending it again will not help" in answer
        assert len(upstream.requests) == 1


async def test_a_refused_batch_costs_nothing(upstream):
    """The reservation of a batch that the upstream refuses is given back."""
    upstream.default = REFUSED
    policy = 'limits = [{ per = "tenant", tokens = 15_000, window = "1h" }]'
    async with InProcess(upstream, policy=policy) as gateway:
        await send(gateway, BATCHES, anthropic(10))
        record = await gateway.record()
        assert record.total_tokens == 0
        # Nothing is held, or the counter of all keys was not touched before the answer.
        assert not any(held(gateway))


@pytest.mark.parametrize(
    ("policy", "body", "status"),
    [
        ('unknown_price = "deny"', anthropic(2, "unknown-9"), b" 403 "),
        ("caps = { max_tokens = 500 }", anthropic(2), b" 400 "),
        ("caps = { max_tokens = 500, clamp = true }", anthropic(2), b" 400 "),
        ("", batch([{"model": "a"}, {"model": "b"}]), b" 400 "),
        ("", batch([{"model": "a", "max_tokens": 1}] * 5001), b" 400 "),
        ("", b'{"requests":{}}', b" 400 "),
        ("", b'{"requests":[5]}', b" 400 "),
        ("", b"5", b" 400 "),
        ("caps = { max_tokens = 500 }", anthropic(2, max_tokens=10), b" 200 "),
    ],
)
async def test_each_request_is_checked(policy, body, status, upstream):
    """Caps and prices hold for each request; what cannot be read is refused."""
    upstream.default = ACCEPTED
    async with InProcess(upstream, policy=policy) as gateway:
        assert status in await send(gateway, BATCHES, body)
        await gateway.record()


@pytest.mark.parametrize(
    ("path", "body", "endpoint", "model"),
    [
        (
            b"/v1/fine_tuning/jobs",
            b'{"model":"gpt-4o-mini","training_file":"f"}',
            "fine_tuning.jobs",
            "gpt-4o-mini",
        ),
        (b"/v1/batches", b'{"input_file_id":"f"}', "batches", ""),
    ],
)
async def test_work_that_is_paid_later(path, body, endpoint, model, upstream):
    """Other work that is paid later has a name and a model, and is visibly unmetered;
    a policy that refuses unknown prices refuses it.
    """
    upstream.default = ACCEPTED
    async with InProcess(upstream) as gateway:
        await send(gateway, path, body)
        record = await gateway.record()
        assert (record.endpoint, record.model) == (endpoint, model)
        assert record.usd or record.metering in ("unmetered", "unpriced")
    if not model:
        async with InProcess(upstream, policy='unknown_price = "deny"') as gateway:
            assert b" 403 " in await send(gateway, path, body)
            await gateway.record()


@pytest.mark.parametrize(
    ("path", "body", "endpoint", "model", "usd"),
    [
        (
            b"/v1/videos",
            b'{"model":"sora-2","prompt":"x","seconds":"8"}',
            "videos",
            "sora-2",
            0.8,
        ),
        (
            b"/v1beta/models/veo-3.0-generate-001:predictLongRunning",
            b'{"instances":[{"prompt":"x"}],"parameters":{"durationSeconds":4}}',
            "predict_long_running",
            "veo-3.0-generate-001",
            1.6,
        ),
        (
            b"/v1beta/models/sora-2:predictLongRunning",
            b'{"instances":[{"prompt":"x"}],"parameters":{"durationSeconds":8}}',
            "predict_long_running",
            "sora-2",
            0.8,
        ),
    ],
)
async def test_videos_are_charged_when_they_are_accepted(
    path, body, endpoint, model, usd, upstream
):
    """A video costs the seconds that its request asks for."""
    upstream.default = ACCEPTED
    async with InProcess(upstream) as gateway:
        await send(gateway, path, body)
        record = await gateway.record()
        assert (record.endpoint, record.model) == (endpoint, model)
        assert (record.metering, record.usd) == ("", usd)


async def test_a_job_whose_unit_has_no_price_counts_as_assumed(upstream):
    """A model that is sold by tokens makes a video: one dollar, visibly."""
    upstream.default = ACCEPTED
    policy = 'limits = [{ per = "user", usd = 1.5, window = "day" }]'
    path = b"/v1beta/models/gemini-2.5-flash:predictLongRunning"
    async with InProcess(upstream, policy=policy) as gateway:
        assert b" 200 " in await send(gateway, path, b'{"instances":[]}')
        assert (await gateway.record()).metering == "part_priced"
        assert b" 429 " in await send(gateway, path, b'{"instances":[]}')


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (b"/v1/batches", b'{"input_file_id":"f"}', b" 403 "),
        (b"/v1/threads/t/runs", b'{"assistant_id":"a"}', b" 403 "),
        (b"/v1/threads/t/runs", b'{"assistant_id":"a","model":"gpt-4o"}', b" 200 "),
        (b"/v1/threads/t/runs", b'{"assistant_id":"a","model":"gpt-5-pro"}', b" 403 "),
    ],
)
async def test_models_that_only_the_provider_knows(path, body, status, upstream):
    """A list of models refuses work whose model is not in the request."""
    upstream.default = ACCEPTED
    policy = 'models = { deny = ["gpt-5-pro"] }'
    async with InProcess(upstream, policy=policy) as gateway:
        assert status in await send(gateway, path, body)
        await gateway.record()
