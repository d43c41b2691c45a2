"""How a stream stands, by its last records, in every dialect."""

from __future__ import annotations

import json

import pytest

from gateway.core.model import RequestFacts
from gateway.metering.dialects import ENDED, FAILED, OPEN_STREAM, find_endpoint
from gateway.metering.dialects.base import NDJSON, SSE
from gateway.metering.dialects.endings import (
    TAIL_BYTES,
    end_of_body,
    end_of_stream,
    tail_of,
)
from tests.awsevents import encode_message

DELTA = {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}
STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
STREAMS = {
    "nothing": (SSE, [], OPEN_STREAM),
    "delta": (SSE, [DELTA], OPEN_STREAM),
    "tgi": (SSE, [{"token": {"text": "x"}, "generated_text": None}], OPEN_STREAM),
    "tgi's end": (SSE, [{"token": {}, "generated_text": "x"}], ENDED),
    "llama.cpp": (SSE, [{"content": "x", "stop": False}], OPEN_STREAM),
    "llama.cpp's end": (SSE, [{"content": "", "stop": True}], ENDED),
    "interactions": (SSE, [{"event_type": "step.delta"}], OPEN_STREAM),
    "interactions' end": (SSE, [{"event_type": "interaction.completed"}], ENDED),
    "finish without usage": (SSE, [DELTA, STOP], OPEN_STREAM),
    "finish with usage": (SSE, [DELTA, STOP | {"usage": {"total_tokens": 2}}], ENDED),
    "usage chunk": (SSE, [DELTA, STOP, USAGE], ENDED),
    "usage in every chunk": (SSE, [DELTA | {"usage": {"x": 1}}], OPEN_STREAM),
    "one of two choices": (
        SSE,
        [STOP | {"usage": {"x": 1}}, DELTA],
        OPEN_STREAM,
    ),
    "done": (SSE, [STOP, "[DONE]"], ENDED),
    "done without a blank": (SSE, ["[DONE]"], ENDED),
    "anthropic delta": (
        SSE,
        [{"type": "message_delta", "usage": {"output_tokens": 3}}],
        OPEN_STREAM,
    ),
    "anthropic": (SSE, [{"type": "message_stop"}], ENDED),
    "responses": (SSE, [{"type": "response.completed", "response": {}}], ENDED),
    "responses begun": (
        SSE,
        [{"type": "response.created", "response": {"error": None}}],
        OPEN_STREAM,
    ),
    "responses cut off": (SSE, [{"type": "response.incomplete"}], ENDED),
    "responses failed": (SSE, [{"type": "response.failed"}], FAILED),
    "gemini": (
        SSE,
        [{"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"x": 1}}],
        ENDED,
    ),
    "gemini running": (
        SSE,
        [{"candidates": [{"content": {}}], "usageMetadata": {"x": 1}}],
        OPEN_STREAM,
    ),
    "ollama": (NDJSON, [{"done": False}, {"done": True}], ENDED),
    "ollama running": (NDJSON, [{"done": False}], OPEN_STREAM),
    "cohere v1": (NDJSON, [{"event_type": "stream-end"}], ENDED),
    "cohere old": (NDJSON, [{"is_finished": True}], ENDED),
    "cohere v2": (SSE, [{"type": "message-end", "delta": {}}], ENDED),
    "cohere v2 error": (
        SSE,
        [{"type": "message-end", "delta": {"finish_reason": "ERROR"}}],
        FAILED,
    ),
    "openai error": (SSE, [{"error": {"message": "overloaded", "code": 503}}], FAILED),
    "error, then done": (SSE, [DELTA, {"error": "x"}, "[DONE]"], FAILED),
    "anthropic error": (SSE, [{"type": "error", "error": {"type": "x"}}], FAILED),
    "old vllm": (SSE, [{"object": "error", "message": "x"}], FAILED),
    "openrouter": (
        SSE,
        [{"choices": [{"delta": {}, "finish_reason": "error"}]}],
        FAILED,
    ),
    "error of a choice": (SSE, [{"choices": [{"error": {"code": 502}}]}], FAILED),
    "ollama error": (NDJSON, [{"error": "out of memory"}], FAILED),
    "no error": (SSE, [{"error": None, "delta": "text"}, {"error": {}}], OPEN_STREAM),
    "not json": (SSE, ["x", "{"], OPEN_STREAM),
    "bedrock converse": (NDJSON, [{"usage": {"x": 1}, "metrics": {"y": 1}}], ENDED),
    "bedrock invoke": (NDJSON, [{"amazon-bedrock-invocationMetrics": {"x": 1}}], ENDED),
    "only usage": (SSE, [{"usage": {"x": 1}}], OPEN_STREAM),
}


@pytest.mark.parametrize(("framing", "events", "state"), STREAMS.values(), ids=STREAMS)
def test_streams(framing, events, state):
    """The last events tell whether a stream is open, ended or failed."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in events]
    frame = "data: %s\n\n" if framing == SSE else "%s\n"
    tail = "".join(frame % text for text in texts).encode()
    assert end_of_stream(framing, tail) == state
    assert end_of_stream(framing, tail.replace(b"\n", b"\r\n")) == state


def test_an_event_named_error_is_one():
    """The name alone is enough, whatever the data; a comment after it changes nothing."""
    assert end_of_stream(SSE, b"event: error\ndata: down\n\n: ping\n\n") == FAILED
    assert end_of_stream(SSE, b"event: errors\ndata: down\n\n") == OPEN_STREAM
    assert end_of_stream(SSE, b"event: message_stop\ndata: {}\n\n: ping\n\n") in {
        OPEN_STREAM,
        ENDED,
    }


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"choices":[]}', ENDED),
        (b'{"error":{"message":"x"}}', FAILED),
        (b'{"error":null,"usage":{}}', ENDED),
        (b' [{"candidates":[]},{"error":{"code":503}}]', FAILED),
        (b"{", OPEN_STREAM),
        (b"[{}", OPEN_STREAM),
    ],
)
def test_bodies(body, state):
    """A body of an error fails although its status is 200."""
    assert end_of_body(body) == state


def test_tail_is_bounded():
    """Whole records from the newest on, until the bound."""
    assert tail_of([b"b", b"a"], b"c") == b"abc"
    long = b"x" * (TAIL_BYTES + 1)
    assert tail_of([b"b", long, b"a"], b"") == long + b"b"


def test_meters_say_how_the_answer_stands():
    """Every kind of meter: of errors, bodies, streams, unknown types and frames."""
    match = find_endpoint("POST", "/v1/chat/completions")
    facts = RequestFacts(match.endpoint, stream=True)

    def meter(kind: bytes, status: int = 200) -> object:
        return match.dialect.open_meter(match, facts, status, {}.get, kind)

    assert meter(b"application/json", 500).end() == OPEN_STREAM
    assert meter(b"").end() == OPEN_STREAM
    sniffed = meter(b"")
    sniffed.feed(b'{"error":"x"}')
    assert sniffed.end() == FAILED
    stream = meter(b"text/event-stream")
    stream.feed(b"data: {}\n\ndata: [DO")
    assert stream.end() == OPEN_STREAM
    stream.feed(b"NE]\n\n")
    assert stream.end() == ENDED
    large = match.dialect.open_meter(
        match, RequestFacts(match.endpoint), 200, {}.get, b"application/json"
    )
    large.feed(b"[" + b"1," * 600_000)
    assert large.end() == OPEN_STREAM


def test_bedrock_exceptions_are_errors():
    """An exception in an AWS event stream ends the answer as failed."""
    match = find_endpoint("POST", "/model/x/converse-stream")
    facts = RequestFacts(match.endpoint, stream=True)
    kind = b"application/vnd.amazon.eventstream"
    meter = match.dialect.open_meter(match, facts, 200, {}.get, kind)
    meter.feed(encode_message("contentBlockDelta", b'{"delta":{"text":"a"}}'))
    assert meter.end() == OPEN_STREAM
    meter.feed(encode_message("throttlingException", b'{"message":"slow down"}'))
    assert meter.end() == FAILED


def test_a_long_tail():
    """Of many events only the last are read."""
    text = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n' * 40
    assert end_of_stream(SSE, text) == OPEN_STREAM
    assert end_of_stream(SSE, text + b"data: [DONE]\n\n") == ENDED
    assert end_of_stream(SSE, b'data: {"error":{}}\n\n' + text) == OPEN_STREAM
