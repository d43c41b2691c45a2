"""Caps of a policy on one request: refusal, or a rewritten body."""

from __future__ import annotations

import re

import pytest

from gateway.core.model import Caps, ModelCaps, Policy
from gateway.proxy.caps import caps_for
from tests.inprocess import (
    CHAT,
    InProcess,
    event_loop_policy,  # noqa: F401
    request,
    upstream,  # noqa: F401
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CLOSE = b"Connection: close\r\n"
ANSWER = b'{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'


@pytest.fixture(name="upstream")
def _upstream(upstream):
    """An upstream whose answers state their usage."""
    upstream.default = (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER,
    )
    return upstream


def chat(members: bytes) -> bytes:
    """A chat request with these additional members."""
    return request(b"POST", CHAT, CLOSE, b'{"model":"m","messages":[]%b}' % members)


def test_first_pattern_that_takes_the_model_decides():
    """The first rule that matches the model decides, else the policy's own caps."""
    first, second, own = Caps(n=1), Caps(n=2), Caps(n=3)
    rules = (ModelCaps(("gpt-4*",), first), ModelCaps(("gpt-*", "o?"), second))
    policy = Policy("p", caps=own, model_caps=rules)
    names = ("gpt-4o", "gpt-3", "o3", "GPT-4")
    assert [caps_for(policy, name) for name in names] == [first, second, second, own]


@pytest.mark.parametrize(
    ("members", "param"),
    [(b',"max_tokens":101', b"max_tokens"), (b',"n":3', b"n"), (b',"n":3,"max_tokens":999', b"n")],
)  # fmt: skip
async def test_over_the_cap_is_400(members, param, upstream):
    """A request over a cap gets 400 with the cap, the parameter and the value."""
    async with InProcess(
        upstream, policy="caps = { max_tokens = 100, n = 2 }"
    ) as gateway:
        answer = await gateway.talk(chat(members))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"param":"%b"' % param in answer
        assert (await gateway.talk(chat(b',"max_tokens":100,"n":2')))[9:12] == b"200"
        assert len(upstream.requests) == 1


async def test_clamp_rewrites(upstream):
    """``clamp`` lowers the values to the caps and corrects the length."""
    caps = "caps = { max_tokens = 100, n = 2, clamp = true }"
    async with InProcess(upstream, policy=caps) as gateway:
        await gateway.talk(chat(b',"max_tokens":12345,"n":9'))
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    assert re.findall(rb'"(?:max_tokens|n)": *(\d+)', body) == [b"100", b"2"]
    assert b"Content-Length: %d" % len(body) in head


async def test_observe_mode_lets_pass(upstream):
    """Observe mode rewrites nothing; the record shows what it would have done."""
    policy = 'caps = { max_tokens = 100, clamp = true }\nmode = "observe"'
    async with InProcess(upstream, policy="") as gateway:
        gateway.text = gateway.text.replace('mode = "enforce"', policy)
        gateway.reload()
        await gateway.talk(chat(b',"max_tokens":12345'))
    assert b'"max_tokens":12345' in upstream.requests[0]
    assert gateway.records[0].would


async def test_model_without_a_price(upstream):
    """A model without a price is refused where the policy denies such models."""
    async with InProcess(upstream, policy='unknown_price = "deny"') as gateway:
        answer = await gateway.talk(chat(b""))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"model_without_price" in answer


async def test_policys_own_body_size(upstream):
    """The smaller of the policy's and the server's body limit applies."""
    async with InProcess(upstream, policy='caps = { max_body = "1KiB" }') as gateway:
        answer = await gateway.talk(chat(b',"x":"%b"' % (b"x" * 2_000)))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"1024 bytes" in answer


async def test_longest_stream(upstream):
    """An answer that takes longer than ``max_stream`` is aborted."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    upstream.default = (head, 30.0)
    async with InProcess(upstream, policy='caps = { max_stream = "100ms" }') as gateway:
        assert not (await gateway.talk(chat(b""))).endswith(b"0\r\n\r\n")
        assert (await gateway.record()).outcome == "timeout"
