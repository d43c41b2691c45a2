"""Batches whose requests are in the body."""

import json

import pytest

from gateway.core.model import Usage
from gateway.metering.dialects import DialectError, find_endpoint
from gateway.metering.dialects.batches import MAX_REQUESTS
from gateway.metering.dialects.outside import OUTSIDE_TOKENS

JSON = "application/json"
ANTHROPIC = find_endpoint("POST", "/v1/messages/batches")
GEMINI = find_endpoint("POST", "/v1beta/models/g:batchGenerateContent")
EMBED = find_endpoint("POST", "/v1beta/models/g:asyncBatchEmbedContent")


def read(match, body):
    """Facts of a batch."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return match.dialect.read_request(match, text, "", JSON)


def anthropic(*params):
    """A batch of Anthropic's."""
    return {"requests": [{"custom_id": "0", "params": one} for one in params]}


def gemini(*requests, source="inputConfig"):
    """An inline batch of Gemini's."""
    items = [{"request": one} for one in requests]
    return {"batch": {source: {"requests": {"requests": items}}}}


def metered(match, facts, status=200):
    """The usage of the answer to a batch."""
    meter = match.dialect.open_meter(match, facts, status, lambda _: None, b"")
    meter.feed(b"{}")
    assert meter.unstated() is None
    return meter.finish(True)


def test_anthropic():
    """Prompts and caps are summed; each request is kept for caps and prices."""
    one = {"model": "m", "max_tokens": 7, "messages": [{"content": "x" * 40}]}
    facts = read(ANTHROPIC, anthropic(one, {**one, "max_tokens": None}))
    assert (facts.model, facts.batch, len(facts.parts)) == ("m", True, 2)
    assert facts.max_tokens == 7 + 4096
    assert facts.prompt_bytes == sum(part.prompt_bytes for part in facts.parts) >= 80
    usage = metered(ANTHROPIC, facts)
    prompt = -(-facts.prompt_bytes // 4)
    assert usage == Usage(
        prompt, 4103, prompt + 4103, source="estimated", batch=True, answers=2
    )
    assert metered(ANTHROPIC, facts, 400) == Usage()


@pytest.mark.parametrize("source", ["inputConfig", "input_config"])
def test_gemini(source):
    """The model is that of the path; answers and caps multiply."""
    one = {
        "contents": [{"parts": [{"text": "x" * 40}]}],
        "generationConfig": {"maxOutputTokens": 5, "candidateCount": 3},
    }
    facts = read(GEMINI, gemini(one, one, source=source))
    assert (facts.model, facts.max_tokens, len(facts.parts)) == ("g", 30, 2)
    assert metered(GEMINI, facts).completion == 30


def test_embeddings_have_no_completion():
    """A batch of embeddings is prompt only."""
    facts = read(EMBED, gemini({"content": {"parts": [{"text": "x" * 40}]}}))
    assert facts.max_tokens is None
    usage = metered(EMBED, facts)
    assert usage.total == usage.prompt > 0


@pytest.mark.parametrize("source", [{"fileName": "f"}, {}])
def test_requests_in_a_file(source):
    """A batch whose requests are in a file states nothing."""
    facts = read(GEMINI, {"batch": {"inputConfig": source}})
    assert (facts.parts, facts.model) == ((), "g")
    assert metered(GEMINI, facts) == Usage()
    assert read(GEMINI, {}).parts == ()


@pytest.mark.parametrize(
    ("match", "body"),
    [
        (ANTHROPIC, b"{"),
        (ANTHROPIC, {}),
        (ANTHROPIC, {"requests": {}}),
        (ANTHROPIC, {"requests": [5]}),
        (ANTHROPIC, {"requests": [{}]}),
        (ANTHROPIC, anthropic(5)),
        (ANTHROPIC, anthropic({"model": "a"}, {"model": "b"})),
        (ANTHROPIC, anthropic(*[{"model": "a"}] * (MAX_REQUESTS + 1))),
        (GEMINI, {"batch": 5}),
        (GEMINI, {"batch": {"inputConfig": {}, "input_config": {}}}),
        (GEMINI, {"batch": {"inputConfig": {"requests": {"requests": 5}}}}),
        (GEMINI, {"batch": {"inputConfig": {"requests": {}}}}),
    ],
)
def test_unreadable(match, body):
    """A batch that cannot be read as the provider reads it is refused."""
    with pytest.raises(DialectError):
        read(match, body)


def test_spellings_of_a_model_are_one_model():
    """Case and white space do not make another model."""
    facts = read(ANTHROPIC, anthropic({"model": "a"}, {"model": " A "}))
    assert facts.model == "a"


def test_a_request_without_a_bound():
    """A cap of 0 or less means no cap: the request counts with the assumed one."""
    one = {"model": "m", "messages": [{"content": "x"}]}
    endless = {**one, "max_tokens": -1}
    facts = read(ANTHROPIC, anthropic({**one, "max_tokens": 7}, endless))
    assert facts.max_tokens == 7 + 4096
    assert facts.parts[1].endless


def test_prompts_that_are_not_whole():
    """A request of a batch that refers to a file has a context that is assumed."""
    search = {"type": "web_search_20250305", "max_uses": 3}
    facts = read(ANTHROPIC, anthropic({"model": "m", "tools": [search]}))
    assert (facts.outside, facts.searches) == (True, 3)
    assert facts.prompt_tokens_known == OUTSIDE_TOKENS
