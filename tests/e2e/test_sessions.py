"""WebSocket sessions: priced, limited and counted while they run."""

from __future__ import annotations

import json

import pytest

from gateway.metering.frames import BINARY, TEXT, server_frame
from tests.inprocess import (
    InProcess,
    LateStore,
    event_loop_policy,  # noqa: F401
    request,
    until,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\n\r\n"
)
LIVE = b"/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
REALTIME = b"/v1/realtime?model=gpt-realtime"
USAGE = {
    "total_tokens": 100,
    "input_tokens": 60,
    "output_tokens": 40,
    "input_token_details": {"cached_tokens": 30, "text_tokens": 60},
}
DONE = {"type": "response.done", "response": {"usage": USAGE}}
CREATED = {"type": "session.created", "session": {"model": "gpt-realtime-2025-08-28"}}


def message(event: object, opcode: int = TEXT) -> bytes:
    """An event as the upstream sends it."""
    return server_frame(opcode, json.dumps(event).encode())


def masked(event: object) -> bytes:
    """An event as the client sends it; a mask of zeros changes no byte."""
    payload = json.dumps(event).encode()
    return (
        bytes([0x81, 0x80 | 126])
        + len(payload).to_bytes(2, "big")
        + b"\0" * 4
        + payload
    )


def held(gateway: InProcess) -> list[int]:
    """The sums of every cell in the store."""
    return [w.total(gateway.store.now_us()) for w in gateway.store._windows.values()]


def limit(amount: str, policy: str = "") -> str:
    """A policy with one limit of the tenant, and ``policy``."""
    return f'limits = [{{ per = "tenant", {amount}, window = "1h" }}]\n{policy}'


async def opened(gateway: InProcess, target: bytes = REALTIME):
    """A client whose session is open."""
    client = await gateway.client()
    client.send(request(target=target, fields=UPGRADE))
    head = await client.until(b"\r\n\r\n")
    return client, head


@pytest.mark.parametrize(
    "target",
    [REALTIME, b"/openai/realtime?api-version=1&deployment=prod", b"/v1/realtime"],
)
async def test_a_session_is_priced(target, upstream):
    """The model comes from the query, or from what the upstream states; cached tokens
    have their own price.
    """
    upstream.default = (SWITCH + message(CREATED) + message(DONE), 300.0)
    async with InProcess(upstream, route="websocket = true") as gateway:
        client, _ = await opened(gateway, target)
        await client.until(b"response.done")
        client.close()
        record = await gateway.record()
        assert record.model.startswith("gpt-realtime")
        assert (record.total_tokens, record.cached_tokens) == (100, 30)
        prices = gateway.plane.shared.tables._prices["default"]
        price = prices.price("gpt-realtime")
        dollars = 30 * price.input + 30 * price.cached + 40 * price.output
        assert record.usd == pytest.approx(dollars / 1e6)


async def test_a_session_counts_while_it_runs(upstream):
    """Each answer is settled as it comes, and the session ends when a limit has no room;
    the next session is refused at the handshake.
    """
    upstream.default = (SWITCH, *[0.05, message(DONE)] * 9, 300.0)
    policy = limit("tokens = 350")
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway)
        seen = await client.rest()
        assert 3 <= seen.count(b"response.done") <= 4
        assert b"rate_limit_exceeded" in seen
        assert b"\x88" in seen  # a close frame
        record = await gateway.record()
        assert record.total_tokens == held(gateway)[0] <= 450
        assert (record.action, record.limit) == ("limit", "tenant.tokens.1h")
        _, head = await opened(gateway)
        assert head.startswith(b"HTTP/1.1 429 ")


async def test_a_reservation_is_given_back(upstream):
    """An idle session that ends has used nothing; while it is open it holds what its
    next answer may cost.
    """
    upstream.default = (SWITCH + message(CREATED), 300.0)
    policy = limit("tokens = 100_000")
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway)
        await client.until(b"gpt-realtime")
        assert held(gateway)[0] > 1000
        client.close()
        await gateway.record()
        assert held(gateway) == [0]


async def test_leaving_in_the_middle_of_an_answer_is_charged(upstream):
    """An answer that was under way costs its reservation."""
    begun = {"type": "response.created", "response": {}}
    upstream.default = (SWITCH + message(begun), 300.0)
    policy = limit("tokens = 100_000")
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway)
        await client.until(b"response.created")
        client.close()
        record = await gateway.record()
        assert record.usage_source == "estimated"
        assert held(gateway) == [record.total_tokens]
        assert record.total_tokens > 1000


@pytest.mark.parametrize("accepted", [True, False])
async def test_an_invalid_key_that_is_upgraded_is_not_charged(accepted, upstream):
    """Some upstreams check the key after the upgrade, and then end the session."""
    error = {"type": "error", "error": {"code": "invalid_api_key"}}
    first = CREATED if accepted else error
    upstream.default = (SWITCH, 0.1, message(first), 0.05, server_frame(8, b""))
    policy = (
        'limits = [{ per = "tenant", tokens = 100_000, window = "1h" },'
        '{ per = "tenant", requests = 9, window = "1h" }]'
    )
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway)
        client.send(masked({"type": "response.create"}))
        await client.until(b"session" if accepted else b"invalid_api_key")
        client.close()
        record = await gateway.record()
        assert bool(record.total_tokens) is accepted
        assert held(gateway) == ([record.total_tokens, 1] if accepted else [])


async def test_requests_are_counted_once(upstream):
    """A session is one request, however many answers it has; a limit of its model counts
    it too.
    """
    upstream.default = (SWITCH + message(CREATED) + message(DONE) * 3, 300.0)
    policy = (
        'limits = [{ per = "tenant", requests = 9, window = "1h" },'
        '{ per = "tenant+model", requests = 1, window = "1h" },'
        '{ per = "tenant", concurrent = 2 }]'
    )
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway, b"/v1/realtime?model=gpt-realtime-2025-08-28")
        await client.until(b"gpt-realtime")
        await until(lambda: gateway.plane.service.open_exchanges)
        assert held(gateway) == [1, 1, 1]
        client.close()
        await gateway.record()
        assert held(gateway) == [1, 1, 0]
        _, head = await opened(gateway, b"/v1/realtime?model=gpt-realtime-2025-08-28")
        assert head.startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/v1/realtime?model=unknown-9", b"403"),
        (b"/v1/realtime", b"403"),
        (REALTIME, b"101"),
        (b"/v1/responses", b"101"),
        (LIVE, b"101"),
    ],
)
async def test_models_without_a_price(target, status, upstream):
    """``unknown_price = "deny"`` holds at the handshake, where it states the model."""
    upstream.default = (SWITCH, 300.0)
    policy = 'unknown_price = "deny"'
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        _, head = await opened(gateway, target)
        assert head.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    ("target", "event"),
    [
        (b"/v1/responses", {"type": "response.create", "model": "unknown-9"}),
        (b"/v1/responses", {"type": "response.create"}),
        (LIVE, {"setup": {"model": "models/unknown-9"}}),
        (LIVE, {"clientContent": {}}),
    ],
)
async def test_models_named_later(target, event, upstream):
    """A session whose first message names no priced model ends before it is sent."""
    upstream.default = (SWITCH, 300.0)
    policy = 'unknown_price = "deny"'
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway, target)
        client.send(masked(event))
        assert b"\x88" in await client.rest()
        await gateway.record()
        assert b"{" not in upstream.received


async def test_the_model_of_a_later_answer_counts(upstream):
    """A client that names a cheap model first pays what its later answers cost."""
    upstream.default = (SWITCH, 300.0)
    policy = 'unknown_price = "deny"'
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway, b"/v1/responses")
        client.send(masked({"type": "response.create", "model": "gpt-5-nano"}))
        client.send(masked({"type": "response.create", "model": "gpt-5-pro"}))
        await until(lambda: b"gpt-5-pro" in upstream.received)
        usage = {"input_tokens": 0, "output_tokens": 10, "total_tokens": 10}
        response = {"model": "gpt-5-pro-2025-10-06", "usage": usage}
        done = {"type": "response.completed", "response": response}
        upstream.connections[0]._transport.write(message(done))
        await client.until(b"completed")
        client.send(masked({"type": "response.create", "model": "unknown-9"}))
        await client.rest()
        record = await gateway.record()
        prices = gateway.plane.shared.tables._prices["default"]
        assert record.usd == pytest.approx(prices.price("gpt-5-pro").output / 1e5)
        assert b"unknown-9" not in upstream.received


async def test_gemini_live(upstream):
    """Gemini's JSON comes in binary messages."""
    usage = {"promptTokenCount": 8, "responseTokenCount": 4, "totalTokenCount": 12}
    live = {"serverContent": {"turnComplete": True}, "usageMetadata": usage}
    upstream.default = (SWITCH + message(live, BINARY), 300.0)
    async with InProcess(upstream, route="websocket = true") as gateway:
        client, _ = await opened(gateway, LIVE)
        client.send(masked({"setup": {"model": "models/gemini-2.5-flash"}}))
        await until(lambda: b"setup" in upstream.received)
        client.close()
        record = await gateway.record()
        assert (record.endpoint, record.total_tokens) == ("bidi_generate_content", 12)
        assert record.model == "models/gemini-2.5-flash"


@pytest.mark.parametrize(
    "path",
    [b"/v1/realtim%65", b"/v1/Realtime", b"/v1/realtime;a", b"/v1/realtime/", b"/x"],
)
async def test_other_paths(path, upstream):
    """Another spelling is metered as well; a session that nothing is known of is refused
    where tokens are limited, and counts what it states elsewhere.
    """
    upstream.default = (SWITCH + message(DONE), 300.0)
    async with InProcess(upstream, route="websocket = true") as gateway:
        client, _ = await opened(gateway, path)
        await client.until(b"response.done")
        client.close()
        assert (await gateway.record()).total_tokens == 100
    policy = limit("tokens = 100_000")
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, head = await opened(gateway, path)
        assert head.startswith(b"HTTP/1.1 403 " if path == b"/x" else b"HTTP/1.1 101 ")
        if path != b"/x":
            await client.until(b"response.done")
        client.close()
        await gateway.record()


async def test_unreadable_messages_end_the_session(upstream):
    """Compressed messages cannot be metered: they end a session where tokens are
    limited.
    """
    upstream.default = (SWITCH, 0.05, b"\xc1\x02ab", 300.0)
    policy = limit("tokens = 100_000")
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway)
        await client.rest()
        record = await gateway.record()
        assert held(gateway) == [record.total_tokens]
        assert record.usage_source == "estimated"


async def test_observe_mode_passes_and_counts(upstream):
    """Observe mode lets a session over its limit go on, and counts it."""
    upstream.default = (SWITCH + message(DONE) * 5, 300.0)
    policy = limit("tokens = 150")
    more = '[policy.watch]\nmode = "observe"\n' + policy
    async with InProcess(
        upstream,
        route="websocket = true",
        more=more + '[[tenant]]\nname = "t"\npolicy = "watch"\n',
    ) as gateway:
        client, _ = await opened(gateway)
        await client.until(b"response.done")
        client.close()
        record = await gateway.record()
        assert record.total_tokens == 500
        assert held(gateway) == [500]
        assert record.would == "limit"


async def test_answers_while_the_store_is_asked(upstream):
    """Answers that complete before the store has answered are all charged."""
    upstream.default = (SWITCH + message(DONE) * 3, 300.0)
    store = LateStore()
    policy = limit("tokens = 100_000")
    async with InProcess(
        upstream, route="websocket = true", policy=policy, store=store
    ) as gateway:
        client = await gateway.client()
        client.send(request(target=REALTIME, fields=UPGRADE))
        await until(lambda: store.waiting)
        store.let_go()
        await client.until(b"response.done")
        await until(lambda: store.waiting)
        client.close()
        await gateway.record()
        store.let_go()
        assert held(gateway) == [300]


def large_frame(event: object) -> bytes:
    """An event over 64 KiB as the upstream sends it."""
    payload = json.dumps(event).encode()
    return b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload


@pytest.mark.parametrize("limited", [True, False])
async def test_a_large_last_event_settles_its_answer(limited, upstream):
    """It echoes a long request, and the usage stands before that."""
    usage = {"input_tokens": 300, "output_tokens": 50, "total_tokens": 350}
    response = {"usage": usage, "instructions": "x" * 1_200_000}
    if not limited:  # only the ends of so large a message are kept
        response = dict(reversed(response.items()))
    done = {"type": "response.completed", "response": response}
    upstream.default = (SWITCH, *[0.05, large_frame(done)] * 5, 300.0)
    policy = limit("tokens = 1000") if limited else ""
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway, b"/v1/responses")
        for _ in range(5):
            client.send(masked({"type": "response.create", "model": "o3"}))
        if limited:
            await client.rest()
        else:
            await until(lambda: gateway.plane.service.busy == 1)
            for _ in range(5):
                await client.until(b"350}}}")
            client.close()
        record = await gateway.record()
        answers = record.total_tokens / 350
        assert answers == (3 if limited else 5)


async def test_answers_run_one_at_a_time(upstream):
    """A packet of requests for answers passes one by one, each when it is reserved."""
    upstream.default = (SWITCH, 300.0)
    policy = limit("tokens = 100_000")
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway)
        create = masked({"type": "response.create"})
        append = masked({"type": "input_audio_buffer.append", "audio": ""})
        client.send(create + append + create + append)
        await until(lambda: upstream.received.count(b"append") == 1)
        for number in (1, 2):
            assert upstream.received.count(b"response.create") == number
            upstream.connections[0]._transport.write(message(DONE))
            await until(
                lambda n=number: upstream.received.count(b"append") == min(n + 1, 2)
            )
        assert upstream.received.index(b"append") < upstream.received.rindex(b"create")
        client.close()
        record = await gateway.record()
        assert record.total_tokens == held(gateway)[0] == 200


async def test_an_error_does_not_make_an_answer_free(upstream):
    """It refuses another message; a client that leaves pays what was reserved."""
    begun = message({"type": "response.created", "response": {"model": "o3"}})
    upstream.default = (SWITCH + begun + message({"type": "error"}), 300.0)
    policy = limit("tokens = 100_000")
    async with InProcess(upstream, route="websocket = true", policy=policy) as gateway:
        client, _ = await opened(gateway, b"/v1/responses")
        client.send(masked({"type": "response.create", "model": "o3"}))
        client.send(masked({"type": "nonsense"}))
        await client.until(b"error")
        await until(lambda: b"nonsense" in upstream.received)
        client.close()
        record = await gateway.record()
        assert record.total_tokens == held(gateway)[0] > 4000
