"""Whatever an answer states or a part of the gateway raises: an exchange ends, once."""

from __future__ import annotations

import pytest

from gateway.metering.dialects.meters import JsonMeter, StreamMeter
from gateway.metering.dialects.refused import names_stream_options
from gateway.metering.prices import PriceTable
from gateway.proxy import route as route_module
from gateway.proxy import settle, time_limits
from gateway.proxy.route import UNASKED_MODELS_MAX, UNASKED_S
from gateway.store.memory import MemoryStore
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
PROMPT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
STREAM = PROMPT[:-1] + b',"stream":true}'
LIMITS = """limits = [
  { per = "user", tokens = 100_000, window = "1h" },
  { per = "user", usd = 100, window = "day" },
  { per = "user", concurrent = 9 },
]"""
TEXT = b'"choices":[{"message":{"content":"hello there"}}]'


def answer_of(body: bytes, kind: bytes = b"application/json") -> bytes:
    """A whole answer with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        kind,
        len(body),
        body,
    )


def left(gateway: InProcess) -> list[int]:
    """Sums of tokens, money and open exchanges."""
    windows = gateway.store._windows.values()
    return [window.total(gateway.store.now_us()) for window in windows]


@pytest.mark.parametrize("count", [b"9223372036854775808", b"-5"])
async def test_absurd_usage_is_counted_instead(count, upstream):
    """A usage that cannot be true is counted from the text, and marked."""
    usage = b'"usage":{"prompt_tokens":%b,"completion_tokens":1}' % count
    upstream.default = (answer_of(b"{%b,%b}" % (TEXT, usage)),)
    async with InProcess(upstream, policy=LIMITS) as gateway:
        assert b"hello there" in await gateway.talk(
            request(b"POST", CHAT, CLOSE, PROMPT)
        )
        record = await gateway.record()
        tokens, nanos, open_now = left(gateway)
        assert 0 < record.total_tokens < 100
        assert (tokens, nanos, open_now) == (record.total_tokens, record.usd_nanos, 0)
        assert record.metering == "implausible"
        assert gateway.plane.shared.faults == 0


def broken(*_args: object, **_more: object) -> None:
    """Raise, as a fault of the gateway would."""
    msg = "injected"
    raise OverflowError(msg)


SSE = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("owner", "name", "body"),
    [
        (JsonMeter, "feed", PROMPT),
        (JsonMeter, "finish", PROMPT),
        (JsonMeter, "unstated", PROMPT),
        (JsonMeter, "implausible", PROMPT),
        (StreamMeter, "keep", STREAM),
        (StreamMeter, "finish", STREAM),
        (PriceTable, "quote", PROMPT),
        (MemoryStore, "settle", PROMPT),
        (settle, "actual_costs", PROMPT),
    ],
)
async def test_a_fault_ends_the_exchange(owner, name, body, upstream, monkeypatch):
    """The client has its answer, the reservation ends, one record says what happened."""
    stream = body is STREAM
    plain = b"{%b}" % TEXT
    kind = b"text/event-stream" if stream else b"application/json"
    upstream.default = (answer_of(SSE if stream else plain, kind),)
    async with InProcess(upstream, policy=LIMITS) as gateway:
        faults: list[str] = []
        gateway.plane.shared.on_fault = lambda step, _error: faults.append(step)
        with monkeypatch.context() as patch:
            patch.setattr(
                owner, name, property(broken) if name == "implausible" else broken
            )
            if name in {"quote", "actual_costs"}:
                # Only what happens after the answer.
                patch.undo()
                upstream.default = (0.3, *upstream.default)
                client = await gateway.client()
                client.send(request(b"POST", CHAT, CLOSE, body))
                await until(lambda: upstream.requests)
                patch.setattr(owner, name, broken)
                answer = await client.rest()
            else:
                answer = await gateway.talk(request(b"POST", CHAT, CLOSE, body))
            record = await gateway.record()
        assert (SSE if stream else plain) in answer
        assert (record.metering, record.outcome) == ("failed", "ok")
        assert len(faults) == 1
        await gateway.at_rest()
        if name != "settle":
            assert left(gateway)[2] == 0
            assert left(gateway)[0] >= 1


async def test_a_record_that_cannot_be_written_is_counted(upstream, monkeypatch):
    """The exchange ends although its record cannot be made."""
    upstream.default = (answer_of(b"{%b}" % TEXT),)
    async with InProcess(upstream) as gateway:
        monkeypatch.setattr(settle, "_record_of", broken)
        await gateway.talk(request(b"POST", CHAT, CLOSE, PROMPT))
        await gateway.at_rest()
        assert gateway.plane.shared.dropped_records == 1
        assert not gateway.records


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


DELTA = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,'
    b'"total_tokens":8}}\n\n'
)
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("later", [0.05, 30.0])
async def test_a_client_that_leaves_after_the_end_mark_is_ok(
    later, upstream, monkeypatch
):
    """The answer is whole; the upstream's connection is kept if its framing ends soon."""
    monkeypatch.setattr(time_limits, "END_WAIT_S", 0.2)
    upstream.default = (HEAD + chunk(DELTA + USAGE + DONE), later, b"0\r\n\r\n")
    async with InProcess(upstream, policy=LIMITS) as gateway:
        client = await gateway.client()
        client.send(request(b"POST", CHAT, b"", STREAM))
        await client.until(DONE)
        client.close()
        service = gateway.plane.service

        def ended() -> bool:
            service.tick()
            return bool(gateway.records)

        await until(ended)
        record = gateway.records[0]
        assert (record.outcome, record.total_tokens) == ("ok", 8)
        await gateway.at_rest()
        pool = gateway.plane.shared.tables.routes[0].pool
        kept = 1 if later < 1 else 0
        await until(lambda: len(pool.targets[0].connections) == kept)


async def test_a_client_that_leaves_before_the_end_mark_is_gone(upstream):
    """Without the end mark the client has left an answer that was not whole."""
    upstream.default = (HEAD + chunk(DELTA), 30.0, b"0\r\n\r\n")
    async with InProcess(upstream) as gateway:
        client = await gateway.client()
        client.send(request(b"POST", CHAT, b"", STREAM))
        await client.until(DELTA)
        client.close()
        assert (await gateway.record()).outcome == "client_closed"


ERROR = b'data: {"error":{"message":"overloaded","code":503}}\n\n'


@pytest.mark.parametrize(
    ("events", "least", "most"),
    [
        (ERROR, 0, 0),
        (ERROR + DONE, 0, 0),
        (b": waiting\n\n" + ERROR, 0, 0),
        (DELTA + ERROR, 2, 20),
        (DELTA + USAGE + ERROR, 8, 8),
    ],
)
async def test_an_error_inside_a_stream(events, least, most, upstream):
    """The outcome is the upstream's error; only what was generated or stated is charged."""
    upstream.default = (HEAD + chunk(events) + b"0\r\n\r\n",)
    async with InProcess(upstream, policy=LIMITS) as gateway:
        answer = await gateway.talk(request(b"POST", CHAT, CLOSE, STREAM))
        record = await gateway.record()
        assert ERROR in answer
        assert (record.status, record.outcome) == (200, "upstream_error")
        assert least <= record.total_tokens <= most
        assert record.metering == ""
        assert left(gateway)[0] == record.total_tokens


NO_OPTIONS = b'{"error":{"message":"property \'stream_options\' is unsupported"}}'
REFUSED = (
    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
LINK = b',"image":"https://evil.example/x.png"}'
PLAIN = HEAD + chunk(DELTA + DONE) + b"0\r\n\r\n"


@pytest.mark.parametrize("status", [b"400 Bad Request", b"422 Unprocessable Content"])
async def test_a_refused_request_for_usage_is_taken_back(status, upstream):
    """The request is sent again as the client wrote it, and once only from then on."""
    upstream.scripts.append((REFUSED % (status, len(NO_OPTIONS), NO_OPTIONS),))
    upstream.default = (PLAIN,)
    async with InProcess(upstream, policy=LIMITS) as gateway:
        for _ in range(2):
            answer = await gateway.talk(request(b"POST", CHAT, CLOSE, STREAM))
            assert answer.startswith(b"HTTP/1.1 200")
            assert DELTA in answer
        bodies = [one.partition(b"\r\n\r\n")[2] for one in upstream.requests]
        assert [b"stream_options" in body for body in bodies] == [True, False, False]
        assert bodies[1:] == [STREAM, STREAM]
        await until(lambda: len(gateway.records) == 2)
        assert {record.outcome for record in gateway.records} == {"ok"}
        assert {record.usage_source for record in gateway.records} == {"counted"}
        assert left(gateway)[2] == 0


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (b'{"error":"no such model"}', STREAM),
        (NO_OPTIONS, PROMPT),
        (b"x" * 200_000 + b"stream_options", STREAM),
        (b"", STREAM),
    ],
)
async def test_other_refusals_pass_as_they_are(body, prompt, upstream):
    """Only a refusal of what the gateway added is hidden from the client."""
    upstream.default = (REFUSED % (b"400 Bad Request", len(body), body),)
    async with InProcess(upstream) as gateway:
        answer = await gateway.talk(request(b"POST", CHAT, CLOSE, prompt))
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.endswith(body)
        assert len(upstream.requests) == 1
        assert (await gateway.record()).status == 400


@pytest.mark.parametrize(
    ("error", "client_body", "refused"),
    [
        (b'{"param":"stream_options"}', STREAM, True),
        (b"Unknown parameter: 'stream_options.include_usage'.", STREAM, True),
        (b'"loc":["body","stream_options"]', STREAM, True),
        (b"Cannot load https://evil.example/stream_options.png", STREAM, False),
        (b"Cannot load https://evil.example/?stream_options", STREAM, False),
        (b"no model 'stream_options'", b'{"model":"stream_options"}', False),
        (b"no model 'stream_options'", b'{"model":"stream\\u005foptions"}', False),
        (b"no such model", STREAM, False),
        (b"404, message='stream_options'", STREAM[:-1] + LINK, False),
        (b'{"error":{"message":"404 stream_options"}}', STREAM[:-1] + LINK, False),
        (b'{"error":{"param":"stream_options"}}', STREAM[:-1] + LINK, True),
        (
            b'{"error":{"param":"stream_options.include_usage"}}',
            STREAM[:-1] + LINK,
            True,
        ),
        (b'{"error":{"param":7},"x":"stream_options"}', STREAM[:-1] + LINK, False),
        (b'{"detail":[{"loc":["body","stream_options"]}]}', STREAM[:-1] + LINK, True),
        (b'{"detail":[1,{"msg":"stream_options"}]}', STREAM[:-1] + LINK, False),
        (b'{"detail":"stream_options"}', STREAM[:-1] + LINK, False),
    ],
)
def test_errors_that_refuse_to_be_asked_for_usage(error, client_body, refused):
    """Only an error that names the member, not one that quotes the client's words."""
    assert names_stream_options(error, client_body) is refused


async def test_what_one_tenant_caused_does_not_hold_for_others(upstream, monkeypatch):
    """A refusal is remembered for the tenant that met it, and for a while."""
    async with InProcess(upstream) as gateway:
        route = gateway.plane.shared.tables.routes[0]
        route.remember_unasked("a", "m")
        assert route.is_unasked("a", "m")
        assert not route.is_unasked("b", "m")
        passed = route_module.monotonic() + UNASKED_S
        monkeypatch.setattr(route_module, "monotonic", lambda: passed)
        assert not route.is_unasked("a", "m")
        for number in range(UNASKED_MODELS_MAX + 1):
            route.remember_unasked("a", f"m{number}")
        assert len(route.unasked_models) == UNASKED_MODELS_MAX


async def test_a_refusal_of_both_is_not_remembered(upstream):
    """A client cannot switch the usage off by an error that quotes its own words."""
    upstream.default = (REFUSED % (b"400 Bad Request", len(NO_OPTIONS), NO_OPTIONS),)
    async with InProcess(upstream) as gateway:
        for _ in range(2):
            answer = await gateway.talk(request(b"POST", CHAT, CLOSE, STREAM))
            assert answer.endswith(NO_OPTIONS)
        assert len(upstream.requests) == 4
        assert not gateway.plane.shared.tables.routes[0].unasked_models
        await until(lambda: len(gateway.records) == 2)
