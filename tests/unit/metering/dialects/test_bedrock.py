"""Bedrock: caps of all vendors, counts in headers and binary streams."""

import json
from binascii import b2a_base64

import pytest

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.meters import JsonMeter, NullMeter
from gateway.metering.dialects.texts import answer_texts
from gateway.metering.usage import estimate_usage
from tests.awsevents import encode_message

STREAM = b"application/vnd.amazon.eventstream"
JSON = b"application/json"


def path(action: str) -> str:
    return f"/model/us.anthropic.claude-v1%3A0/{action}"


@pytest.mark.parametrize(
    "cap",
    [
        b'"inferenceConfig":{"maxTokens":9}',
        b'"inferenceConfig":{"max_new_tokens":9}',
        b'"textGenerationConfig":{"maxTokenCount":9}',
        b'"max_tokens":9',
        b'"max_gen_len":9',
        b'"maxTokens":9',
    ],
)
def test_requests(cap):
    """The model comes from the path, the cap from the member of its vendor."""
    match = find_endpoint("POST", path("invoke"))
    body = b'{"prompt":"abcd",%b,"metadata":{"user_id":"u"}}' % cap
    facts = match.dialect.read_request(match, body, "", "application/json")
    assert (facts.model, facts.max_tokens) == ("us.anthropic.claude-v1:0", 9)
    assert (facts.prompt_bytes, facts.user, facts.stream) == (6, "u", False)


def test_users_must_be_text():
    """A user id that is not text is ignored."""
    match = find_endpoint("POST", path("converse-stream"))
    body = b'{"requestMetadata":{"user_id":5}}'
    facts = match.dialect.read_request(match, body, "", "application/json")
    assert (facts.user, facts.stream) == (None, True)


def open_meter(action, headers, kind, status=200):
    match = find_endpoint("POST", path(action))
    facts = RequestFacts(match.endpoint, match.model)
    return match.dialect.open_meter(match, facts, status, headers.get, kind)


HEADERS = {
    b"x-amzn-bedrock-input-token-count": b"10",
    b"x-amzn-bedrock-output-token-count": b"4",
}


@pytest.mark.parametrize(
    ("more", "body", "figures"),
    [
        ({}, b"not json", (10, 4, 14, 0, 0)),
        ({}, b'{"usage":{"input_tokens":10,"output_tokens":4}}', (10, 4, 14, 0, 0)),
        (
            {b"x-amzn-bedrock-cache-read-input-token-count": b"6"},
            b"{}",
            (16, 4, 20, 6, 0),
        ),
        (
            {},
            b'{"usage":{"input_tokens":10,"output_tokens":4,'
            b'"cache_creation_input_tokens":7}}',
            (17, 4, 21, 0, 7),
        ),
        ({b"x-amzn-bedrock-output-token-count": b"x"}, b"{}", (10, 0, 10, 0, 0)),
    ],
)
def test_header_counts(more, body, figures):
    """Counts in headers take precedence; the body adds the cached tokens."""
    meter = open_meter("invoke", {**HEADERS, **more}, JSON)
    meter.feed(body)
    usage = meter.finish(complete=True)
    assert usage.source == "upstream"
    assert figures == (
        usage.prompt,
        usage.completion,
        usage.total,
        usage.cached,
        usage.cache_write,
    )


def test_without_header_counts():
    """Without header counts the body is read; errors cost nothing."""
    assert type(open_meter("invoke", {}, JSON)) is JsonMeter
    assert type(open_meter("invoke", HEADERS, JSON, 400)) is NullMeter
    assert type(open_meter("invoke", {}, STREAM, 400)) is NullMeter


def part(value: object) -> bytes:
    inner = b2a_base64(json.dumps(value).encode(), newline=False).decode()
    return encode_message("chunk", json.dumps({"bytes": inner}).encode())


def test_invoke_stream():
    """The last chunk's metrics are the usage; the text of the others is kept."""
    meter = open_meter("invoke-with-response-stream", {}, STREAM)
    body = part({"type": "content_block_delta", "delta": {"text": "hi"}}) + part(
        {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3}}
    )
    body = body.replace(b'{"bytes": "', b'{"bytes": "')
    for at in range(len(body)):
        meter.feed(body[at : at + 1])
    assert meter.finish(complete=True) == Usage(3, 0, 3, source="upstream")


def test_converse_stream():
    """The metadata event states the usage; without it the text is counted."""
    delta = encode_message("contentBlockDelta", b'{"delta":{"text":"hi"}}')
    last = encode_message("metadata", b'{"usage":{"inputTokens":2,"outputTokens":1}}')
    meter = open_meter("converse-stream", {}, STREAM)
    meter.feed(delta + last)
    assert meter.finish(complete=True).total == 3
    cut = open_meter("converse-stream", {}, STREAM)
    cut.feed(delta + encode_message("x", b'{"bytes"') + encode_message("y", b""))
    assert cut.finish(complete=False) is None
    task = cut.unstated()
    assert "".join(answer_texts(task.framing, task.answer)) == "hi"


def test_errors_name_their_exception():
    """The type of an error is in a header field."""
    dialect = find_endpoint("POST", path("invoke")).dialect
    fields = dialect.error_headers(429, "rate_limit_exceeded")
    assert fields == [(b"x-amzn-errortype", b"ThrottlingException")]


def test_empty_chunks():
    """A chunk without bytes is skipped."""
    meter = open_meter("invoke-with-response-stream", {}, STREAM)
    meter.feed(encode_message("chunk", b'{"bytes":null}'))
    assert meter.text_bytes() == 0


def test_broken_framing():
    """After the framing is lost, only bytes are counted."""
    meter = open_meter("converse-stream", {}, STREAM)
    meter.feed(b"x" * 40)
    meter.feed(b"more")
    assert meter.finish(complete=True) is None
    assert meter.unstated().lost_bytes == 44


CANVAS = {"numberOfImages": 2, "width": 1024, "height": 512, "quality": "premium"}
IMAGES = {
    "canvas": (
        "amazon.nova-canvas-v1:0",
        {"imageGenerationConfig": CANVAS},
        {"images:1024x512:premium": 2},
    ),
    "titan": ("amazon.titan-image-generator-v2:0", {}, {"images": 1}),
    "stability": ("stability.sd3-5-large-v1:0", {"prompt": "x"}, {"images": 1}),
    "text": ("amazon.nova-lite-v1:0", {"messages": []}, {}),
}


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("model", "body", "units"), IMAGES.values(), ids=IMAGES)
def test_images(model, body, units, counted):
    """Image models are metered by the images that a request asks for."""
    match = find_endpoint("POST", f"/model/{model}/invoke")
    text = json.dumps(body).encode()
    facts = match.dialect.read_request(match, text, "", "application/json")
    fields = {b"x-amzn-bedrock-input-token-count": b"7"} if counted else {}
    meter = match.dialect.open_meter(match, facts, 200, fields.get, JSON)
    meter.feed(b'{"images":["x"]}')
    usage = meter.finish(complete=True) or estimate_usage(meter.unstated())
    assert dict(usage.units) == units
