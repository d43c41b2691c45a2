"""Images, videos and characters are reserved at their price before the answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.inprocess import (
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LIMIT_USD = 0.3
POLICY = f'limits = [{{ per = "tenant", usd = {LIMIT_USD}, window = "1d" }}]\n'
ANSWER = b'{"data":[{"url":"https://x"}]}'
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
CASES = {
    "images": (
        b"/v1/images/generations",
        {"model": "dall-e-3", "prompt": "x", "size": "1024x1792", "quality": "hd"},
        0.12,
    ),
    "characters": (
        b"/v1/audio/speech",
        {"model": "tts-1-hd", "input": "x" * 4000, "voice": "alloy"},
        0.12,
    ),
}


@pytest.mark.parametrize(("path", "body", "price"), CASES.values(), ids=CASES)
async def test_parallel_requests_stay_within_a_limit(path, body, price, upstream):
    """Requests at the same time do not spend more than the limit and its overdraft."""
    upstream.default = (0.2, HEAD % len(ANSWER) + ANSWER)
    text = json.dumps(body).encode()
    fields = b"Connection: close\r\nContent-Type: application/json\r\n"
    raw = request(b"POST", path, fields, text)
    route = 'provider = "openai"\n'
    async with InProcess(upstream, route=route, policy=POLICY) as gateway:
        await asyncio.gather(*(gateway.talk(raw) for _ in range(20)))
        passed = [record for record in gateway.records if record.status == 200]
        assert {record.usd for record in passed} == {price}
        spent = sum(record.usd for record in passed)
        assert LIMIT_USD / 2 < spent <= LIMIT_USD * 1.1 + price
