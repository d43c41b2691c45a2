"""Caps of a policy on one request: refusal, or a rewritten body."""

from __future__ import annotations

import gzip
import re

import msgspec
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
    names = ("gpt-4o", "gpt-3", "o3", "GPT-4", "x")
    caps = [caps_for(policy, name) for name in names]
    assert caps == [first, second, second, first, own]


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


FILLED = [
    (CHAT, b'"model":"m"', b'{"max_tokens":100,"model":"m"}'),
    (CHAT, b'"model":"o3"', b'{"max_completion_tokens":100,"model":"o3"}'),
    (CHAT, b'"model":"openai/gpt-5-mini"',
     b'{"max_completion_tokens":100,"model":"openai/gpt-5-mini"}'),
    (CHAT, b'"model":"m","max_tokens":null', b'{"model":"m","max_tokens":100}'),
    (b"/v1/completions", b'"model":"m"', b'{"max_tokens":100,"model":"m"}'),
    (b"/v1/responses", b'"model":"m"', b'{"max_output_tokens":100,"model":"m"}'),
    (b"/v1/messages", b'"model":"m"', b'{"max_tokens":100,"model":"m"}'),
    (b"/v1/complete", b'"model":"m"', b'{"max_tokens_to_sample":100,"model":"m"}'),
    (b"/api/chat", b'"model":"m"', b'{"options":{"num_predict":100},"model":"m"}'),
    (b"/api/generate", b'"model":"m","Options":{"seed":1}',
     b'{"model":"m","Options":{"num_predict":100,"seed":1}}'),
    (b"/v2/chat", b'"model":"m"', b'{"max_tokens":100,"model":"m"}'),
    (b"/v1beta/models/g:generateContent", b'"contents":[]',
     b'{"generationConfig":{"maxOutputTokens":100},"contents":[]}'),
    (b"/v1beta/models/g:generateContent", b'"generationConfig":{}',
     b'{"generationConfig":{"maxOutputTokens":100}}'),
    (b"/model/m/converse", b'"messages":[]',
     b'{"inferenceConfig":{"maxTokens":100},"messages":[]}'),
    (b"/model/meta.llama3/invoke", b'"prompt":""', b'{"max_gen_len":100,"prompt":""}'),
    (b"/model/amazon.nova/invoke", b"", b'{"inferenceConfig":{"max_new_tokens":100}}'),
    (b"/model/amazon.titan-embed/invoke", b'"inputText":""', b'{"inputText":""}'),
    (b"/model/anthropic.x/invoke", b'"messages":[]', b'{"max_tokens":100,"messages":[]}'),
    (b"/v1/embeddings", b'"model":"m"', b'{"model":"m"}'),
    (b"/v2/rerank", b'"model":"m"', b'{"model":"m"}'),
    (b"/v1beta/models/g:embedContent", b"", b"{}"),
    (b"/v1/images/generations", b'"model":"m"', b'{"model":"m"}'),
]  # fmt: skip


@pytest.mark.parametrize("clamp", ["", ", clamp = true"])
@pytest.mark.parametrize(("path", "members", "sent"), FILLED)
async def test_absent_cap_is_written_in(path, members, sent, clamp, upstream):
    """A request that states no cap gets the policy's, where its answer has text."""
    caps = f"caps = {{ max_tokens = 100{clamp} }}"
    async with InProcess(upstream, policy=caps) as gateway:
        await gateway.talk(request(b"POST", path, CLOSE, b"{%b}" % members))
    assert upstream.requests[0].partition(b"\r\n\r\n")[2] == sent


async def test_absent_cap_of_a_compressed_body_is_400(upstream):
    """Where the body cannot be rewritten, a request must state its cap."""
    fields = CLOSE + b"Content-Encoding: gzip\r\n"
    async with InProcess(upstream, policy="caps = { max_tokens = 100 }") as gateway:
        for members, status in ((b"", b"400"), (b',"max_tokens":9', b"200")):
            body = gzip.compress(b'{"model":"m"%b}' % members)
            answer = await gateway.talk(request(b"POST", CHAT, fields, body))
            assert answer[9:12] == status


EVADING = [
    b',"max_tokens":-1', b',"max_tokens":0', b',"max_tokens":-1,"max_completion_tokens":9',
    b',"max_tokens":5,"max_completion_tokens":99999', b',"max_tokens":"-1"',
    b',"max_tokens":"\\u0039\\u0039\\u0039"', b',"max_tokens":9e9', b',"max_tokens":" 101 "',
    b',"max_tokens":101.0', b',"n_predict":-1', b',"max_new_tokens":101', b',"best_of":3',
    b',"max_output_tokens":101', b',"n":"3"', b',"n":3.0',
]  # fmt: skip


@pytest.mark.parametrize("members", EVADING)
async def test_caps_hold_however_they_are_spelled(members, upstream):
    """No spelling of a larger cap passes; ``clamp`` lowers it."""
    caps = "caps = { max_tokens = 100, n = 2 }"
    async with InProcess(upstream, policy=caps) as gateway:
        assert (await gateway.talk(chat(members)))[9:12] == b"400"
        gateway.text = gateway.text.replace("n = 2 }", "n = 2, clamp = true }")
        gateway.reload()
        assert (await gateway.talk(chat(members)))[9:12] == b"200"
    sent = msgspec.json.decode(upstream.requests[0].partition(b"\r\n\r\n")[2])
    for name, value in sent.items():
        if name in ("n", "best_of"):
            assert value == 2
        elif name not in ("model", "messages"):
            assert 0 < value <= 100


async def test_list_of_prompts_counts_as_so_many_answers(upstream):
    """Prompts x ``n`` must not exceed the cap of ``n``; ``clamp`` lowers ``n`` only."""
    caps = "caps = { n = 4 }"

    def prompts(count, n):
        body = b'{"model":"m","n":%d,"prompt":[%b]}' % (n, b",".join([b'"a"'] * count))
        return request(b"POST", b"/v1/completions", CLOSE, body)

    async with InProcess(upstream, policy=caps) as gateway:
        asked = ((2, 2), (2, 3), (5, 1))
        answers = [(await gateway.talk(prompts(*a)))[9:12] for a in asked]
        assert answers == [b"200", b"400", b"400"]
        gateway.text = gateway.text.replace("n = 4 }", "n = 4, clamp = true }")
        gateway.reload()
        answers = [(await gateway.talk(prompts(*a)))[9:12] for a in asked]
        assert answers == [b"200", b"200", b"400"]
    assert b'"n":2' in upstream.requests[2]


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


async def test_a_required_model_is_missing(upstream):
    """400 in enforce mode; observe mode lets it pass and notes it."""
    async with InProcess(upstream) as gateway:
        body = b'{"messages":[]}'
        answer = await gateway.talk(request(b"POST", CHAT, CLOSE, body))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"'model' is required" in answer
        gateway.text = gateway.text.replace('mode = "enforce"', 'mode = "observe"')
        gateway.reload()
        assert (await gateway.talk(request(b"POST", CHAT, CLOSE, body)))[9:12] == b"200"
    assert len(upstream.requests) == 1


SAME_MODEL = ["gpt-5-mini", "GPT-5-MINI", "openai/gpt-5-mini", " gpt-5-mini ",
              "gpt-5-mini-2025-08-07", "models/gpt-5-mini"]  # fmt: skip


@pytest.mark.parametrize("model", SAME_MODEL)
async def test_caps_of_a_model_hold_in_every_spelling(model, upstream):
    """The spelling of the model does not choose its caps; the record keeps it."""
    rule = '[[policy.default.model]]\nmatch = "gpt-5*"\ncaps = { max_tokens = 100 }'
    body = msgspec.json.encode({"model": model, "max_tokens": 5000})
    async with InProcess(upstream, more=rule) as gateway:
        answer = await gateway.talk(request(b"POST", CHAT, CLOSE, body))
        assert answer[9:12] == b"400"
        assert gateway.records[0].model == model


async def test_limits_of_a_model_hold_in_every_spelling(upstream):
    """All spellings of a model are counted together, by pattern and by ``model``."""
    for limit in (
        '[[policy.default.model]]\nmatch = "GPT-5-mini*"\n'
        'limits = [{ per = "tenant", requests = 2, window = "1h" }]',
        "",
    ):
        own = 'limits = [{ per = "user+model", requests = 2, window = "1h" }]'
        async with InProcess(
            upstream, more=limit, policy="" if limit else own
        ) as gateway:
            seen = []
            for model in SAME_MODEL:
                body = msgspec.json.encode({"model": model, "messages": []})
                answer = await gateway.talk(request(b"POST", CHAT, CLOSE, body))
                seen.append(answer[9:12])
            assert seen == [b"200"] * 2 + [b"429"] * 4
