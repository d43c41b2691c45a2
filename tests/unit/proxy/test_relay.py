"""Caps that the gateway writes in, at upstreams that refuse the name."""

from __future__ import annotations

import gzip
import json

import pytest

from gateway.proxy import route as route_module
from gateway.proxy.route import UNASKED_MODELS_MAX, UNASKED_S, RefusedForms
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
CAPS = "caps = { max_tokens = 100 }"
OLD, NEW = "max_tokens", "max_completion_tokens"
AZURE = b"/openai/deployments/prod/chat/completions?api-version=2024-10-21"
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
JSON = b"Content-Type: application/json\r\n"


def answer(body: object, status: bytes = b"200 OK", fields: bytes = JSON) -> bytes:
    """A whole answer."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (status, fields, len(text))
    return head + text


def refusal(name: str, **more: object) -> dict[str, object]:
    """Azure's error for a parameter that a deployment does not take."""
    error = {"message": "no", "param": name, "code": "unsupported_parameter"}
    return {"error": error | more}


REFUSED = answer(refusal(OLD), b"400 Bad Request")
DONE = answer({"choices": [], "usage": USAGE})


def chat(path: bytes = CHAT, **members: object) -> bytes:
    """A chat request."""
    body = {"messages": [], **members}
    return request(b"POST", path, CLOSE, json.dumps(body).encode())


def bodies(upstream) -> list[dict[str, object]]:
    """The bodies that the upstream got."""
    found = (one.partition(b"\r\n\r\n")[2] for one in upstream.requests)
    return [json.loads(one) for one in found]


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_refused_name_is_replaced_and_remembered(compressed, upstream):
    """A deployment of a reasoning model under another name; the client sees no 400."""
    refused = REFUSED
    if compressed:
        text = gzip.compress(json.dumps(refusal(OLD)).encode())
        fields = JSON + b"Content-Encoding: gzip\r\n"
        refused = answer(text, b"400 Bad Request", fields)
    upstream.scripts.append((refused,))
    upstream.default = (DONE,)
    async with InProcess(upstream, policy=CAPS) as gateway:
        for _ in range(2):
            reply = await gateway.talk(chat(AZURE))
            assert reply.startswith(b"HTTP/1.1 200 ")
        await until(lambda: len(gateway.records) == 2)
        assert {record.status for record in gateway.records} == {200}
        assert {record.total_tokens for record in gateway.records} == {2}
        await gateway.at_rest()
    plain: dict[str, object] = {"messages": []}
    assert bodies(upstream) == [
        {OLD: 100, **plain},
        {NEW: 100, **plain},
        {NEW: 100, **plain},
    ]


async def test_the_other_direction(upstream):
    """A server that does not know the new name, under the name of a reasoning model."""
    error = {"detail": [{"type": "extra_forbidden", "loc": ["body", NEW]}]}
    upstream.scripts.append((answer(error, b"422 Unprocessable Entity"),))
    upstream.default = (DONE,)
    async with InProcess(upstream, policy=CAPS) as gateway:
        reply = await gateway.talk(chat(model="gpt-5-proxy"))
        assert reply.startswith(b"HTTP/1.1 200 ")
    assert [next(iter(body)) for body in bodies(upstream)] == [NEW, OLD]


async def test_both_edits_of_a_stream_are_changed_in_turn(upstream):
    """The cap first, then the request for usage; the cap stays."""
    options = answer(refusal("stream_options"), b"400 Bad Request")
    stream = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'
    events = answer(stream, fields=b"Content-Type: text/event-stream\r\n")
    upstream.scripts += [(REFUSED,), (options,)]
    upstream.default = (events,)
    async with InProcess(upstream, policy=CAPS) as gateway:
        reply = await gateway.talk(chat(model="prod", stream=True))
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert b"[DONE]" in reply
        await gateway.talk(chat(model="prod", stream=True))
    asked = [{OLD, "stream_options"}, {NEW, "stream_options"}, {NEW}, {NEW}]
    found = [set(body) - {"model", "messages", "stream"} for body in bodies(upstream)]
    assert found == asked


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"max_tokens": 50}, refusal(OLD)),  # the client's own
        ({}, refusal("tools")),
        ({}, refusal(OLD, code="invalid_value")),
        ({"model": OLD}, {"error": {"message": f"no model '{OLD}'"}}),
        ({}, b"\x00"),
    ],
)
async def test_other_errors_pass_as_they_are(members, error, upstream):
    """Only a refusal of the name that the gateway wrote in is hidden."""
    upstream.default = (answer(error, b"400 Bad Request"),)
    async with InProcess(upstream, policy=CAPS) as gateway:
        reply = await gateway.talk(chat(**{"model": "m"} | members))
        assert reply.startswith(b"HTTP/1.1 400 ")
    assert len(upstream.requests) == 1


async def test_a_refusal_of_both_names_is_not_remembered(upstream):
    """The second error is the client's answer; a client cannot change the name for long."""
    upstream.default = (REFUSED,)
    upstream.scripts += [(REFUSED,), (answer(refusal(NEW), b"400 Bad Request"),)]
    async with InProcess(upstream, policy=CAPS) as gateway:
        reply = await gateway.talk(chat(model="m"))
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert b"max_completion_tokens" in reply
        assert not gateway.plane.shared.tables.routes[0].cap_names
    assert [OLD in body for body in bodies(upstream)] == [True, False]


async def test_a_broken_error_passes(upstream):
    """A coding that cannot be decoded."""
    fields = JSON + b"Content-Encoding: gzip\r\n"
    upstream.default = (answer(b"junk", b"400 Bad Request", fields),)
    async with InProcess(upstream, policy=CAPS) as gateway:
        assert (await gateway.talk(chat(model="m"))).endswith(b"junk")


def test_what_was_refused_is_forgotten(monkeypatch):
    """With time, and the oldest beyond a bound; each tenant has its own."""
    forms = RefusedForms()
    forms.put(("a", "m"), NEW)
    assert forms.get(("a", "m")) == NEW
    assert forms.get(("b", "m")) == ""
    later = route_module.monotonic() + UNASKED_S
    monkeypatch.setattr(route_module, "monotonic", lambda: later)
    assert forms.get(("a", "m")) == ""
    for number in range(UNASKED_MODELS_MAX):
        forms.put(("a", f"m{number}"), NEW)
    assert len(forms) == UNASKED_MODELS_MAX
    forms.put(("a", "m0"), OLD)
    assert forms.get(("a", "m1")) == NEW
