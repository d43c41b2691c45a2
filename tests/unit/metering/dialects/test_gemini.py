"""Gemini and Vertex requests, and the answers of ``:predict``."""

import pytest

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.meters import NullMeter

BASE = "/v1beta/models/gemini-2.5-pro:"


def read(body: bytes, method: str):
    match = find_endpoint("POST", BASE + method)
    return match.dialect.read_request(match, body, "", "application/json")


@pytest.mark.parametrize(
    "config",
    [
        b'"generationConfig":{"maxOutputTokens":7,"candidateCount":2}',
        b'"generation_config":{"max_output_tokens":"7","candidate_count":2}',
        b'"parameters":{"maxOutputTokens":7,"candidateCount":2}',
    ],
)
def test_generate(config):
    """Model and stream come from the path, caps from either spelling."""
    facts = read(b'{"contents":[{}],%b}' % config, "streamGenerateContent")
    assert (facts.model, facts.stream) == ("gemini-2.5-pro", True)
    assert (facts.max_tokens, facts.n, facts.prompt_bytes) == (7, 2, 4)


def test_no_cap():
    """A cap of zero, or none, means no cap."""
    facts = read(b'{"generationConfig":{"maxOutputTokens":0}}', "generateContent")
    assert (facts.max_tokens, facts.n, facts.stream) == (None, 1, False)


def predict(answer: bytes, status: int = 200):
    match = find_endpoint("POST", "/v1/projects/p/publishers/google/models/e:predict")
    facts = RequestFacts("predict")
    meter = match.dialect.open_meter(match, facts, status, {}.get, b"application/json")
    meter.feed(answer)
    return meter


def test_predict_embeddings():
    """The counts of all predictions are summed."""
    one = b'{"embeddings":{"values":[0.1],"statistics":{"token_count":%d}}}'
    answer = b'{"predictions":[%b,%b,{}]}' % (one % 4, one % 5)
    assert predict(answer).finish(complete=True) == Usage(9, 0, 9, source="upstream")


def test_predict_text():
    """PaLM's text models state both counts."""
    answer = (
        b'{"metadata":{"tokenMetadata":{"inputTokenCount":{"totalTokens":3},'
        b'"outputTokenCount":{"totalTokens":2}}}}'
    )
    assert predict(answer).finish(complete=True) == Usage(3, 2, 5, source="upstream")
    partial = b'{"metadata":{"tokenMetadata":{"outputTokenCount":{}}}}'
    assert predict(partial).finish(complete=True) == Usage(source="upstream")


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"metadata":{}}'])
def test_predict_without_counts(answer):
    """Predictions without counts must be counted."""
    assert predict(answer).finish(complete=True) is None


def test_predict_errors():
    """Errors cost nothing."""
    assert type(predict(b"{}", 400)) is NullMeter
