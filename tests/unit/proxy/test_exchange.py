"""Whatever an answer states or a part of the gateway raises: an exchange ends, once."""

from __future__ import annotations

import pytest

from gateway.metering.dialects.meters import JsonMeter, StreamMeter
from gateway.metering.prices import PriceTable
from gateway.proxy import settle
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
        (PriceTable, "cost_nanos", PROMPT),
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
            if name in {"cost_nanos", "actual_costs"}:
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
