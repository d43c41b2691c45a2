"""The official clients, unmodified, through ``tidegate serve`` on the embedded store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.gateway_process import (
    LONGEST_S,
    PATIENT,
    Gateway,
    MockLLM,
    key_hash,
    running_gateway,
    until,
)

KEY, OTHER = "sk-acme-1", "sk-acme-2"
TIGHT, BRIEF, DAILY = "sk-tight-1", "sk-brief-1", "sk-daily-1"
# Prompt tokens: 1 for the role, 3 + 3 for the format, one for each word.
MESSAGES = [{"role": "user", "content": "hello river boat"}]
PROMPT = 1 + 3 + 3 + 3
CLOSED_S = 30.0  # the target is 50 ms on an idle machine
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"type": "object"}},
    }
]
CONFIG = """
unknown_clients = "deny"
[[upstream]]
name = "mock"
url = "{url}"
[policy.default]
limits = [{{ per = "user", tokens = 1_000_000, window = "1d" }}]
[policy.tight]
limits = [{{ per = "user", requests = 2, window = "5m" }}]
[policy.daily]
limits = [{{ per = "user", requests = 1, window = "day" }}]
[policy.brief]
limits = [{{ per = "user", requests = 2, window = "2s" }}]
[[tenant]]
name = "acme"
api_keys = ["{acme}", "{other}"]
[[tenant]]
name = "tight"
policy = "tight"
api_keys = ["{tight}"]
[[tenant]]
name = "daily"
policy = "daily"
api_keys = ["{daily}"]
[[tenant]]
name = "brief"
policy = "brief"
api_keys = ["{brief}"]
"""
_numbers = itertools.count()


class Mark:
    """Headers that identify one request, and instructions for the mock."""

    def __init__(self, **mock: object) -> None:
        self.id = f"req-{next(_numbers)}-{time.monotonic_ns():x}"
        asked = {f"x-mock-{k.replace('_', '-')}": str(v) for k, v in mock.items()}
        self.headers = {"x-request-id": self.id, "x-mock-tag": self.id} | asked


@pytest.fixture(name="gateway", scope="module")
def _gateway(mock: MockLLM) -> Iterator[Gateway]:
    keys = {"acme": KEY, "other": OTHER, "tight": TIGHT, "brief": BRIEF, "daily": DAILY}
    hashes = {name: key_hash(key) for name, key in keys.items()}
    server, _, rest = CONFIG.format(url=mock.url, **hashes).partition("[[upstream]]")
    with running_gateway(
        f"[[upstream]]{rest}",
        store="embedded:./store",
        store_keys=PATIENT,
        server=server,
    ) as gateway:
        yield gateway


@pytest.fixture(name="client", scope="module")
def _client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with _openai(gateway) as client:
        yield client


@pytest.fixture(name="claude", scope="module")
def _claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=gateway.url, api_key=KEY, max_retries=0
    ) as client:
        yield client


def _openai(gateway: Gateway, key: str = KEY, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=retries)


def _books(record: dict, prompt: int, completion: int, source: str = "upstream"):
    """Check the token counts of a record exactly."""
    counts = (record["prompt_tokens"], record["completion_tokens"])
    assert counts == (prompt, completion)
    assert record["total_tokens"] == prompt + completion
    assert record["usage_source"] == source


# -- OpenAI ---------------------------------------------------------------------------


def test_chat_answer_is_counted(gateway, client):
    """A chat completion arrives whole; its record has the upstream's exact usage."""
    mark = Mark(tokens=7)
    answer = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, extra_headers=mark.headers
    )
    assert answer.choices[0].message.content == " tide" * 7
    record = gateway.record(request_id=mark.id)
    _books(record, PROMPT, 7)
    assert (record["tenant"], record["endpoint"]) == ("acme", "chat.completions")
    assert (record["model"], record["status"], record["outcome"]) == (
        "gpt-4o", 200, "ok",
    )  # fmt: skip
    assert record["user"].startswith("key_")
    assert record["usd"] > 0


def test_stream_usage_is_asked_for_and_hidden(gateway, client, mock):
    """A streaming client that did not ask sees no usage chunk; the upstream was asked,
    and the record is exact.
    """
    mark = Mark(tokens=9)
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=mark.headers
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == " tide" * 9
    assert all(chunk.usage is None for chunk in chunks)
    assert '"include_usage"' in mock.seen(mark.id)["body"]
    _books(gateway.record(request_id=mark.id), PROMPT, 9)


def test_stream_usage_asked_for_by_the_client_arrives(gateway, client):
    """A streaming client that asks for usage gets its chunk."""
    mark = Mark(tokens=5)
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=mark.headers,
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == PROMPT + 5
    _books(gateway.record(request_id=mark.id), PROMPT, 5)


async def test_async_client_answer_and_stream(gateway):
    """The asynchronous client gets whole answers and streams."""
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0
    ) as client:
        whole, streamed = Mark(tokens=3), Mark(tokens=4)
        answer = await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, extra_headers=whole.headers
        )
        assert answer.usage is not None
        stream = await client.chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            stream=True,
            extra_headers=streamed.headers,
        )
        chunks = [chunk async for chunk in stream]
    assert len(chunks) == 5
    _books(gateway.record(request_id=whole.id), PROMPT, 3)
    _books(gateway.record(request_id=streamed.id), PROMPT, 4)


def test_tool_calls_arrive(gateway, client):
    """Tool calls come through, whole and streamed."""
    mark = Mark(tokens=6)
    answer = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, tools=TOOLS, extra_headers=mark.headers
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].function.arguments == '{"city": "Paris"}'
    with client.chat.completions.stream(
        model="gpt-4o", messages=MESSAGES, tools=TOOLS
    ) as stream:
        final = stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls
    assert streamed
    assert streamed[0].function.name == "get_weather"
    _books(gateway.record(request_id=mark.id), PROMPT, 6)


def test_embeddings_are_counted(gateway, client):
    """Embeddings arrive as numbers and bill their prompt."""
    mark = Mark()
    answer = client.embeddings.create(
        model="text-embedding-3-small", input="one two", extra_headers=mark.headers
    )
    assert answer.data[0].embedding == [0.25, -0.5, 0.75, 1.0]
    record = gateway.record(request_id=mark.id)
    _books(record, 2, 0)
    assert record["endpoint"] == "embeddings"


def test_responses_answer_and_stream(gateway, client):
    """The Responses API works, whole and streamed, and is counted."""
    whole, streamed = Mark(tokens=4), Mark(tokens=5)
    answer = client.responses.create(
        model="gpt-4o", input="hello boat", extra_headers=whole.headers
    )
    assert answer.output_text == " tide" * 4
    events = list(
        client.responses.create(
            model="gpt-4o",
            input="hello boat",
            stream=True,
            extra_headers=streamed.headers,
        )
    )
    assert events[-1].type == "response.completed"
    _books(gateway.record(request_id=whole.id), 2, 4)
    _books(gateway.record(request_id=streamed.id), 2, 5)


def test_model_list_passes(gateway, client):
    """Endpoints that are not metered pass and are recorded without tokens."""
    mark = Mark(status=404)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing", extra_headers=mark.headers)
    record = gateway.record(request_id=mark.id)
    assert (record["status"], record["total_tokens"]) == (404, 0)
    assert record["usage_source"] == "none"


def test_upstream_error_reaches_the_client_and_bills_nothing(gateway, client):
    """An error of the upstream arrives unchanged and costs no token."""
    mark = Mark(status=500)
    with pytest.raises(openai.InternalServerError, match="as asked"):
        client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, extra_headers=mark.headers
        )
    record = gateway.record(request_id=mark.id)
    _books(record, 0, 0, "none")
    assert record["status"] == 500


# -- Anthropic ------------------------------------------------------------------------


def test_messages_answer_and_stream(gateway, claude):
    """Anthropic's client gets whole messages and streams, both counted."""
    whole, streamed = Mark(tokens=4), Mark(tokens=6)
    asked = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": MESSAGES}
    answer = claude.messages.create(**asked, extra_headers=whole.headers)
    assert answer.content[0].text == " tide" * 4
    with claude.messages.stream(**asked, extra_headers=streamed.headers) as stream:
        assert "".join(stream.text_stream) == " tide" * 6
        final = stream.get_final_message()
    assert final.usage.output_tokens == 6
    _books(gateway.record(request_id=whole.id), PROMPT, 4)
    record = gateway.record(request_id=streamed.id)
    _books(record, PROMPT, 6)
    assert (record["endpoint"], record["stream"]) == ("messages", True)


async def test_messages_async_with_tools(gateway):
    """Anthropic's asynchronous client gets tool use and streams."""
    mark = Mark(tokens=5)
    asked = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": MESSAGES}
    tool = {"name": "get_weather", "input_schema": {"type": "object"}}
    async with anthropic.AsyncAnthropic(
        base_url=gateway.url, api_key=KEY, max_retries=0
    ) as client:
        answer = await client.messages.create(
            **asked, tools=[tool], extra_headers=mark.headers
        )
        async with client.messages.stream(**asked) as stream:
            texts = [text async for text in stream.text_stream]
    assert answer.content[0].input == {"city": "Paris"}
    assert len(texts) == 12
    _books(gateway.record(request_id=mark.id), PROMPT, 5)


def test_token_counting_bills_nothing(gateway, claude):
    """A token-counting call passes and costs no token."""
    mark = Mark()
    answer = claude.messages.count_tokens(
        model="claude-opus-4-8", messages=MESSAGES, extra_headers=mark.headers
    )
    assert answer.input_tokens == PROMPT
    _books(gateway.record(request_id=mark.id), 0, 0, "none")


# -- refusals -------------------------------------------------------------------------


def test_limited_openai_client_gets_its_own_error(gateway):
    """OpenAI's client over the limit raises RateLimitError with a ``retry-after``."""
    with _openai(gateway, TIGHT) as client:
        _use_up(gateway, client)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    error = caught.value
    assert error.code == "rate_limit_exceeded"
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 306
    assert 0 < int(headers["retry-after-ms"]) <= 305_000
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"


def _use_up(gateway: Gateway, client: openai.OpenAI) -> None:
    """Use the two requests of the tight policy's window."""
    for _ in range(4):
        with contextlib.suppress(openai.RateLimitError):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def test_retrying_openai_client_succeeds_when_the_window_frees(gateway):
    """With its default retries the client waits for ``retry-after`` and gets its
    answer.
    """
    with _openai(gateway, BRIEF) as client:
        _use_up(gateway, client)
    with _openai(gateway, BRIEF, retries=2) as patient:
        answer = patient.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert answer.usage is not None


def test_limited_anthropic_client_gets_its_own_error(gateway):
    """Anthropic's client over the limit raises RateLimitError with its own error type
    and ``retry-after``.
    """
    with anthropic.Anthropic(
        base_url=gateway.url, api_key=TIGHT, max_retries=0
    ) as client:
        asked = {"model": "claude-opus-4-8", "max_tokens": 5, "messages": MESSAGES}
        for _ in range(3):
            with contextlib.suppress(anthropic.RateLimitError):
                client.messages.create(**asked)
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**asked)
    body = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "rate_limit_error"
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("key", [TIGHT, DAILY])
def test_clients_with_retries_get_a_long_refusal_at_once(gateway, key):
    """With their default retries, both clients raise RateLimitError at once where the
    wait is long: each call is one request, and ``retry-after`` is true.
    """
    with _openai(gateway, key) as client:
        _use_up(gateway, client)
    asked = {"model": "gpt-4o", "max_tokens": 5, "messages": MESSAGES}
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=key, timeout=5) as claude,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, timeout=5) as gpt,
    ):
        for ask, error in (
            (claude.messages.create, anthropic.RateLimitError),
            (gpt.chat.completions.create, openai.RateLimitError),
        ):
            mark = Mark()
            began = time.monotonic()
            with pytest.raises(error) as caught:
                ask(**asked, extra_headers=mark.headers)
            assert time.monotonic() - began < LONGEST_S
            headers = caught.value.response.headers
            assert headers["x-should-retry"] == "false"
            assert int(headers["retry-after"]) >= 1
            assert gateway.record(request_id=mark.id)["action"] == "limit"


def test_blocked_user_gets_permission_denied(gateway):
    """A blocked user's client raises PermissionDeniedError, and works when the block is
    removed.
    """
    mark = Mark()
    with _openai(gateway, OTHER) as client:
        ask = client.chat.completions.create
        ask(model="gpt-4o", messages=MESSAGES, extra_headers=mark.headers)
        user = gateway.record(request_id=mark.id)["user"]
        gateway.api("POST", "/api/v1/blocks", {"kind": "user", "id": user})
        with pytest.raises(openai.PermissionDeniedError):
            _repeat(lambda: ask(model="gpt-4o", messages=MESSAGES))
        gateway.api("DELETE", f"/api/v1/blocks/user/{user}")
        until(lambda: _passes(client))


def _repeat(act) -> None:
    """Repeat the call until the block is in force and raises."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        act()


def _passes(client: openai.OpenAI) -> bool:
    try:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    except openai.PermissionDeniedError:
        return False
    return True


def test_unknown_key_gets_authentication_error(gateway, mock):
    """A key of no tenant is refused with 401, and no request reaches the upstream."""
    nobody = "sk-nobody"
    with (
        _openai(gateway, nobody) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=nobody) as claude,
        pytest.raises(anthropic.AuthenticationError),
    ):
        claude.messages.create(model="c", max_tokens=5, messages=MESSAGES)
    assert "sk-nobody" not in mock.ledger()


# -- streams that end early -----------------------------------------------------------


def test_stream_left_by_the_client_closes_the_upstream(gateway, client, mock):
    """When a client leaves mid-stream, the upstream is closed at once and the answer
    costs what it reserved: the stated cap.
    """
    mark = Mark(tokens=40, hold=5)
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, max_tokens=50,
        extra_headers=mark.headers,
    )  # fmt: skip
    for _ in range(5):
        next(stream)
    left_at = time.monotonic()
    stream.close()
    seen = until(lambda: (s := mock.seen(mark.id))["closed_at"] and s, CLOSED_S)
    assert seen["closed_at"] - left_at < CLOSED_S
    record = gateway.record(request_id=mark.id)
    _books(record, PROMPT, 50, "estimated")
    assert record["outcome"] == "client_closed"


async def test_client_leaves_a_silent_upstream(gateway, mock):
    """When a client leaves before the first byte, the upstream is closed and the answer
    costs what it reserved, since the upstream may have generated it.
    """
    mark = Mark(delay_ms=300_000)
    async with (
        openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0
        ) as client,
        asyncio.TaskGroup() as tasks,
    ):
        asked = tasks.create_task(
            client.chat.completions.create(
                model="gpt-4o",
                messages=MESSAGES,
                max_tokens=50,
                extra_headers=mark.headers,
            )
        )
        await asyncio.to_thread(until, lambda: mock.seen(mark.id))
        left_at = time.monotonic()
        asked.cancel()
    seen = until(lambda: (s := mock.seen(mark.id))["closed_at"] and s, CLOSED_S)
    assert seen["closed_at"] - left_at < CLOSED_S
    _books(gateway.record(request_id=mark.id), PROMPT, 50, "estimated")


def test_stream_without_usage_is_counted(gateway, client):
    """Tokens of a stream whose upstream states no usage are counted from its text."""
    mark = Mark(tokens=8, usage="none")
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=mark.headers
    )
    assert len(list(stream)) == 9
    _books(gateway.record(request_id=mark.id), PROMPT, 8, "counted")


def test_upstream_reset_is_no_clean_end(gateway, client):
    """A stream that the upstream resets ends in an error at the client, and the relayed
    tokens are billed.
    """
    mark = Mark(tokens=30, reset=4)
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=mark.headers
    )
    with pytest.raises(openai.APIConnectionError):
        list(stream)
    record = gateway.record(request_id=mark.id)
    _books(record, PROMPT, 4, "counted")
    assert record["outcome"] == "upstream_error"
