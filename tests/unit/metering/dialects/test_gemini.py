"""Gemini and Vertex requests, and the answers of ``:predict``."""

import json

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


IMAGEN = "/v1beta/models/imagen-4.0-generate-001:predict"
VEO = "/v1beta/models/veo-3.1-generate-preview:predictLongRunning"
MAKERS = {
    "images": (IMAGEN, {"sampleCount": 2}, b"{}", 2, {"images": 2}),
    "images, by default": (IMAGEN, None, b"{}", 4, {"images": 4}),
    "images, as made": (IMAGEN, {}, b'{"predictions":[{},{},{}]}', 4, {"images": 3}),
    "images, too large": (
        IMAGEN,
        {"sampleCount": "2", "sampleImageSize": "2K"},
        b'{"predictions":[',
        2,
        {"images:2k": 2},
    ),
    "video": (
        VEO,
        {"durationSeconds": 6, "sampleCount": 2, "resolution": "1080p"},
        b'{"name":"operations/1"}',
        2,
        {"video_seconds:1080p": 12},
    ),
    "video of another model": (
        "/v1beta/models/sora-2:predictLongRunning",
        {"durationSeconds": 5},
        b"{}",
        1,
        {"video_seconds": 5},
    ),
    "video, by default": (VEO, {}, b"{}", 1, {"video_seconds": 8}),
    "music": (
        "/v1/projects/p/locations/l/publishers/google/models/lyria-002:predict",
        {"durationSeconds": 1},
        b'{"predictions":[{}]}',
        1,
        {"audio_seconds": 30},
    ),
}


@pytest.mark.parametrize(
    ("path", "parameters", "answer", "n", "units"), MAKERS.values(), ids=MAKERS
)
def test_models_that_make_pictures_and_videos(path, parameters, answer, n, units):
    """They are metered by what they make, or are asked to make."""
    match = find_endpoint("POST", path)
    body = {"instances": [{"prompt": "a cat"}]}
    if parameters is not None:
        body["parameters"] = parameters
    text = json.dumps(body).encode()
    facts = match.dialect.read_request(match, text, "", "application/json")
    assert facts.n == n
    meter = match.dialect.open_meter(match, facts, 200, {}.get, b"application/json")
    meter.feed(answer)
    usage = meter.finish(complete=True)
    assert usage is not None
    assert dict(usage.units) == units
    assert usage.source in ("counted", "upstream")
    assert usage.total == 0


def test_other_models_of_predict():
    """Embeddings are billed by tokens."""
    match = find_endpoint("POST", "/v1/projects/p/publishers/google/models/e:predict")
    body = b'{"instances":[{"content":"a"},{"content":"b"}],"parameters":{}}'
    facts = match.dialect.read_request(match, body, "", "application/json")
    assert (facts.n, facts.units) == (2, ())


@pytest.mark.parametrize(
    ("parameters", "cap", "written"),
    [
        ("{}", 2, 2),
        ('{"sampleCount":4}', 2, 2),
        ('{"sampleCount":1}', 2, 1),
        ("{}", 9, None),
    ],
)
def test_a_number_of_pictures_is_clamped(parameters, cap, written):
    """An absent number is written, because the default may exceed the cap."""
    match = find_endpoint("POST", IMAGEN)
    body = b'{"instances":[{"prompt":"x"}],"parameters":%b}' % parameters.encode()
    facts = match.dialect.read_request(match, body, "", "application/json")
    clamped = json.loads(match.dialect.clamp(body, facts, None, cap))
    assert clamped["parameters"].get("sampleCount") == written
    assert match.dialect.clamp(body, facts, 5, None) == body
