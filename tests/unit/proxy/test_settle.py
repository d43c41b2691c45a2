"""What an exchange costs, and its record."""

from __future__ import annotations

import pytest

from tests.doubles import Cut
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
PROMPT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
LIMITS = """limits = [
  { per = "user", requests = 100, window = "1h" },
  { per = "user", tokens = 100_000, window = "1h" },
  { per = "user", usd = 100, window = "day" },
  { per = "user", concurrent = 9 },
]"""
BODY = b'{"usage":{"prompt_tokens":1000,"completion_tokens":10,"total_tokens":1010}}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
BAD = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}"


def books(gateway: InProcess) -> list[int]:
    """Sums of requests, tokens, money and open exchanges."""
    windows = gateway.store._windows.values()
    return [window.total(gateway.store.now_us()) for window in windows]


@pytest.mark.parametrize(
    ("script", "requests", "tokens", "outcome"),
    [
        ((GOOD,), 1, 1010, "ok"),
        ((BAD,), 1, 0, "ok"),
        ((Cut.RESET,), 1, 0, "upstream_error"),
        ((b"junk",), 1, 0, "upstream_error"),
    ],
    ids=["good", "error", "reset", "junk"],
)
async def test_books(script, requests, tokens, outcome, upstream):
    """Stated usage is charged; an error gives back all but the request."""
    upstream.default = script
    async with InProcess(upstream, policy=LIMITS) as gateway:
        await gateway.talk(request(b"POST", CHAT, CLOSE, PROMPT))
        record = await gateway.record()
        assert (record.outcome, record.total_tokens) == (outcome, tokens)
        counted = books(gateway)
        assert counted[:2] == [requests, tokens]
        assert counted[2] == record.usd_nanos
        assert counted[3] == 0
        assert bool(record.usd_nanos) == bool(tokens)


async def test_observe_mode_counts_what_it_lets_pass(upstream):
    """Observe mode counts what it passes over a limit, and records the refusal."""
    upstream.default = (GOOD,)
    limits = 'limits = [{ per = "user", requests = 1, window = "1h" }]'
    async with InProcess(upstream, policy=limits) as gateway:
        gateway.text = gateway.text.replace('mode = "enforce"', 'mode = "observe"')
        gateway.reload()
        for _ in range(3):
            await gateway.talk(request(b"POST", CHAT, CLOSE, PROMPT))
        assert books(gateway) == [3]
        assert [record.would for record in gateway.records] == ["", "limit", "limit"]
        assert {record.status for record in gateway.records} == {200}


@pytest.mark.parametrize(
    ("path", "body", "status", "metering"),
    [
        (CHAT, PROMPT, b"200 OK", ""),
        (CHAT, PROMPT.replace(b"gpt-4o", b"unknown-9"), b"200 OK", "unpriced"),
        (b"/v1/images/generations", b'{"model":"x"}', b"200 OK", "unpriced"),
        (b"/v1/unknown", b"{}", b"200 OK", "unmetered"),
        (b"/v1/unknown", b"{}", b"404 No", ""),
        (b"/v1/messages/count_tokens", b"{}", b"200 OK", ""),
    ],
)
async def test_answers_without_figures_are_marked(
    path, body, status, metering, upstream
):
    """What was neither metered nor priced says so in its record."""
    answer = BODY if path == CHAT else b"{}"
    upstream.default = (
        b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (status, len(answer), answer),
    )
    async with InProcess(upstream) as gateway:
        await gateway.talk(request(b"POST", path, CLOSE, body))
        record = await gateway.record()
    assert record.metering == metering
    assert record.unpriced is (metering == "unpriced")


async def test_record_of_an_ordinary_exchange(upstream):
    """Times of a record add up; the path has no query, the route has its name."""
    upstream.default = (0.02, GOOD)
    async with InProcess(upstream) as gateway:
        await gateway.talk(request(b"POST", CHAT + b"?key=k", CLOSE, PROMPT))
        record = await gateway.record()
    assert (record.path, record.upstream) == (CHAT.decode(), "recorder")
    assert 19 <= record.ttfb_ms <= record.duration_ms  # timers may fire a little early
    assert 0 < record.overhead_ms < record.ttfb_ms
    assert (record.endpoint, record.model) == ("chat.completions", "gpt-4o")
    assert record.user.startswith("key_")
