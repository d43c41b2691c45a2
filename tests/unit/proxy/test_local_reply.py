"""Answers of the gateway's own: shape, framing, the state of the connection."""

from __future__ import annotations

import json

import pytest

from gateway.core.refusal import Refusal
from gateway.http.head import parse_request_head
from gateway.limits.admission import refuse_block
from gateway.proxy.local_reply import (
    compose_refusal,
    unauthorized,
    upstream_failed,
    wire_error_body,
)
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", "invalid_request"),
        (502, "server_error", "invalid_request"),
        (503, "server_error", "overloaded"),
    ],
)
def test_error_of_the_wire(status, kind, code):
    """Without a known dialect an error has OpenAI's shape."""
    error = json.loads(wire_error_body(status, "why"))["error"]
    assert error == {"message": "why", "type": kind, "param": None, "code": code}


@pytest.mark.parametrize(
    ("status", "code"),
    [(502, "upstream_unreachable"), (503, "overloaded"), (504, "upstream_timeout")],
)
def test_in_place_of_an_upstream(status, code):
    """502, 503 and 504 have their codes; only 503 states when to retry."""
    refusal = upstream_failed(status, "why")
    assert (refusal.code, bool(refusal.header_lines)) == (code, status == 503)


@pytest.mark.parametrize(
    ("refusal", "final"),
    [
        (refuse_block(), True),
        (unauthorized("why"), True),
        (Refusal(429, "rate_limit_exceeded", "why", retry_after=3600.0), True),
        (Refusal(429, "rate_limit_exceeded", "why", retry_after=2.0), False),
        (upstream_failed(503, "why"), False),
    ],
)
def test_final_refusals_tell_clients_not_to_retry(refusal, final):
    """SDKs retry a refusal by themselves unless it forbids that."""
    head = parse_request_head(request())
    answer = compose_refusal(refusal, head, None, b"id", b"now", keep=True)
    assert (b"\r\nx-should-retry: false\r\n" in answer) == final


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_refusal_is_framed_like_any_answer(method, upstream):
    """A refusal has a length and a date, keeps the connection, and no body on HEAD."""
    async with InProcess(upstream, route='prefix = "/api"') as gateway:
        answer = await gateway.talk(request(method) + request(method, fields=CLOSE))
        first, second = answer.split(b"HTTP/1.1 404 Not Found\r\n")[1:]
        assert b"Content-Length: " in first
        assert b"\r\nDate: " in b"\r\n" + first
        assert first.endswith(b"\r\n\r\n" if method == b"HEAD" else b"}")
        assert b"Connection: close\r\n" not in first
        assert b"Connection: close\r\n" in second


async def test_health_answers_on_this_port(upstream):
    """The health path answers 200, while draining 503; it is not recorded."""
    async with InProcess(upstream, server='health_path = "/-/health"') as gateway:
        client = await gateway.client()
        client.send(request(target=b"/-/health"))
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        gateway.plane.shared.draining = True
        client.send(request(target=b"/-/health"))
        answer = await client.answer()
        gateway.plane.shared.draining = False
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Connection: close\r\n" in answer
        assert not upstream.requests
        assert not gateway.records


async def test_body_of_a_request_for_the_gateway_is_passed_over(upstream):
    """The body of a request for the gateway is not read as the next request."""
    async with InProcess(upstream, server='health_path = "/-/health"') as gateway:
        raw = request(b"POST", b"/-/health", body=request(target=b"/evil"))
        answer = await gateway.talk(raw + request(fields=CLOSE))
        assert answer.count(b"HTTP/1.1 200 ") == 2
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("target", "mark"),
    [
        (CHAT, b'"code":"rate_limit_exceeded"'),
        (b"/v1/messages", b'"type":"rate_limit_error"'),
        (b"/v1beta/models/g:generateContent", b'"status":"RESOURCE_EXHAUSTED"'),
    ],
)
async def test_limit_speaks_the_clients_dialect(target, mark, upstream):
    """A limit is refused in the shape of the client's dialect, with the wait."""
    limits = 'limits = [{ per = "client_ip", requests = 1, window = "1h" }]'
    body = b'{"model":"m","messages":[],"max_tokens":1,"contents":[]}'
    async with InProcess(upstream, policy=limits) as gateway:
        await gateway.talk(request(fields=CLOSE))
        answer = await gateway.talk(request(b"POST", target, CLOSE, body))
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert mark in answer.replace(b": ", b":")
        assert b"\r\nretry-after: " in answer.lower()
