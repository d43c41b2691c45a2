"""The base class of dialects: forms, clamping, the choice of a meter."""

import json

import pytest

from gateway.core.model import RequestFacts
from gateway.metering.dialects import DialectError, find_endpoint
from gateway.metering.dialects.dialect import cap_of, framing_of, sum_sizes
from gateway.metering.dialects.meters import (
    JsonMeter,
    NullMeter,
    SniffMeter,
    StreamMeter,
)
from gateway.metering.dialects.requests import EMPTY

AUDIO = find_endpoint("POST", "/v1/audio/transcriptions")
CHAT = find_endpoint("POST", "/v1/chat/completions")
UNKNOWN = find_endpoint("POST", "/x")


def test_forms():
    """Model, stream and n of a multipart form are read."""
    names = {b"model": b"whisper-1", b"stream": b"true", b"n": b"2", b"prompt": b"abc"}
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % pair
        for pair in names.items()
    )
    facts = AUDIO.dialect.read_request(
        AUDIO, body + b"--b--", "", "Multipart/form-data; boundary=b"
    )
    assert (facts.model, facts.stream, facts.n, facts.prompt_bytes) == (
        "whisper-1",
        True,
        2,
        3,
    )


def test_unknown_bodies_are_not_read():
    """The facts of an unknown endpoint come from its path alone."""
    facts = UNKNOWN.dialect.read_request(UNKNOWN, b"\xff", "", "")
    assert facts == RequestFacts("other")
    assert UNKNOWN.dialect.ask_usage(b"{}", facts) is None


def test_errors():
    """By default errors have OpenAI's format and no header fields."""
    assert b'"code":"blocked"' in UNKNOWN.dialect.error_body(403, "blocked", "no")
    assert UNKNOWN.dialect.error_headers(403, "blocked") == []


def test_clamping():
    """Caps and numbers of answers are lowered; without caps the body is unchanged."""
    facts = RequestFacts("chat.completions")
    body = b'{"max_tokens":9,"n":4}'
    assert CHAT.dialect.clamp(body, facts, 5, 2) == b'{"max_tokens":5,"n":2}'
    assert CHAT.dialect.clamp(b"junk", facts, None, None) == b"junk"


@pytest.mark.parametrize(
    ("status", "kind", "stream", "meter"),
    [
        (200, b"application/json", False, JsonMeter),
        (200, b"application/json; charset=utf-8", False, JsonMeter),
        (200, b"application/json", True, SniffMeter),
        (200, b"", False, SniffMeter),
        (200, b"text/event-stream", True, StreamMeter),
        (201, b"application/x-ndjson", False, StreamMeter),
        (200, b"audio/mpeg", False, JsonMeter),
        (404, b"application/json", False, NullMeter),
        (304, b"application/json", False, NullMeter),
    ],
)
def test_meters(status, kind, stream, meter):
    """Status and content type of the answer select the meter."""
    facts = RequestFacts("chat.completions", stream=stream)
    opened = CHAT.dialect.open_meter(CHAT, facts, status, {}.get, kind)
    assert type(opened) is meter


def test_free_requests_have_no_meter():
    """Requests that are not billable cost nothing."""
    facts = RequestFacts("moderations", billable=False)
    opened = CHAT.dialect.open_meter(CHAT, facts, 200, {}.get, b"application/json")
    assert type(opened) is NullMeter


@pytest.mark.parametrize(
    ("kind", "framing"),
    [
        (b"TEXT/Event-Stream ; x", "sse"),
        (b"application/stream+json", "ndjson"),
        (b"application/problem+json", "json"),
        (b"image/png", "opaque"),
        (b"text/plain", ""),
    ],
)
def test_framings(kind, framing):
    """Content types are recognised in any case and with parameters."""
    assert framing_of(kind) == framing


def test_caps_and_sizes():
    """The largest cap counts; a negative one means no cap."""
    assert cap_of(None, 5, 7) == 7
    assert cap_of(5, -1) == cap_of(0, None) == 0
    assert cap_of() is None
    assert sum_sizes(EMPTY, EMPTY) == (0, 0, False)


def test_no_completion_has_no_cap():
    """Nothing is written into requests of dialects and endpoints without completions."""
    match = find_endpoint("POST", "/x", "passthrough")
    facts = RequestFacts("other")
    assert match.dialect.cap_path(facts) is None
    assert match.dialect.clamp(b"{}", facts, 5, None) == b"{}"


@pytest.mark.parametrize(
    ("path", "body", "clamped"),
    [
        ("/v1/messages", b'{"model":"c","messages":[]}',
         b'{"max_tokens":9,"model":"c","messages":[]}'),
        ("/v1/messages", b'{"model":"c","messages":[],"max_tokens":50}',
         b'{"model":"c","messages":[],"max_tokens":9}'),
        ("/v1/complete", b'{"model":"c","prompt":"x"}',
         b'{"max_tokens_to_sample":9,"model":"c","prompt":"x"}'),
        ("/v1/chat/completions", b'{"model":"gpt-4o","messages":[]}',
         b'{"max_tokens":9,"model":"gpt-4o","messages":[]}'),
        ("/v1/chat/completions", b'{"model":"o3","messages":[],"max_tokens":null}',
         b'{"max_completion_tokens":9,"model":"o3","messages":[],"max_tokens":null}'),
        ("/v1/embeddings", b'{"model":"e","input":"x"}', b'{"model":"e","input":"x"}'),
        ("/v2/chat", b'{"model":"r","messages":[]}',
         b'{"max_tokens":9,"model":"r","messages":[]}'),
        ("/api/chat", b'{"model":"l","messages":[],"OPTIONS":{}}',
         b'{"model":"l","messages":[],"OPTIONS":{"num_predict":9}}'),
        ("/api/chat", b'{"model":"l","messages":[],"options":null}',
         b'{"model":"l","messages":[],"options":{"num_predict":9}}'),
        ("/v1beta/models/g:generateContent", b'{"contents":[]}',
         b'{"generationConfig":{"maxOutputTokens":9},"contents":[]}'),
        ("/model/m/converse", b'{"messages":[]}',
         b'{"inferenceConfig":{"maxTokens":9},"messages":[]}'),
        ("/model/meta.llama3/invoke", b'{"prompt":"x"}',
         b'{"max_gen_len":9,"prompt":"x"}'),
        ("/model/other/invoke", b'{"prompt":"x"}', b'{"max_tokens":9,"prompt":"x"}'),
        ("/model/amazon.titan-embed-v2/invoke", b'{"inputText":"x"}',
         b'{"inputText":"x"}'),
    ],
)  # fmt: skip
def test_caps_are_lowered_or_written_in(path, body, clamped):
    """Clamping lowers a stated cap, and writes one into a request that states none."""
    match = find_endpoint("POST", path)
    facts = match.dialect.read_request(match, body, "", "application/json")
    assert match.dialect.clamp(body, facts, 9, None) == clamped


def test_a_dialect_without_a_cap():
    """A dialect that names no cap gets none, and ``max_tokens`` None changes nothing."""
    match = find_endpoint("POST", "/v1/messages")
    body = b'{"model":"c","messages":[]}'
    facts = match.dialect.read_request(match, body, "", "application/json")
    assert match.dialect.clamp(body, facts, None, None) == body
    assert UNKNOWN.dialect.cap_path(facts) is None


@pytest.mark.parametrize(
    ("path", "body", "clamped"),
    [
        ("/v1/chat/completions", b'{"model":"m","messages":[],"n":5}',
         b'{"model":"m","messages":[],"n":2}'),
        ("/v1/completions", b'{"model":"m","prompt":["a","b"],"n":5}',
         b'{"model":"m","prompt":["a","b"],"n":1}'),
    ],
)  # fmt: skip
def test_choices_are_clamped(path, body, clamped):
    """Clamping lowers ``n`` so that all prompts together have that many choices."""
    match = find_endpoint("POST", path)
    facts = match.dialect.read_request(match, body, "", "application/json")
    assert match.dialect.clamp(body, facts, None, 2) == clamped


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", b'{"model":"@","messages":[]}', "application/json"),
        ("/v1/messages", b'{"model":"@","messages":[]}', "application/json"),
        ("/api/chat", b'{"model":"@","messages":[]}', "application/json"),
        ("/v2/chat", b'{"model":"@","messages":[]}', "application/json"),
        ("/v1/images/generations", b'{"model":"@"}', "application/json"),
        ("/generate", b'{"model":"@","inputs":"x"}', "application/json"),
        ("/v1beta/interactions", b'{"agent":"@","input":"x"}', "application/json"),
        ("/v1/messages/batches", b'{"requests":[{"params":{"model":"@"}}]}', ""),
        ("/v1beta/models/@:generateContent", b'{"contents":[]}', "application/json"),
        ("/model/@/converse", b'{"messages":[]}', "application/json"),
        ("/openai/deployments/@/embeddings", b'{"input":"x"}', "application/json"),
        (
            "/v1/audio/transcriptions",
            b"model=@",
            "application/x-www-form-urlencoded",
        ),
    ],
)
def test_names_of_models_are_bounded(path, body, kind):
    """A name that records and caches would keep has a largest length, wherever it is."""
    for size in (512, 513, 100_000):
        name = "m" * size
        match = find_endpoint("POST", path.replace("@", name))
        text = body.replace(b"@", name.encode())
        if size == 512:
            facts = match.dialect.read_request(match, text, "", kind)
            assert facts.model == name
            continue
        with pytest.raises(DialectError):
            match.dialect.read_request(match, text, "", kind)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/openai/deployments/a/chat/completions", b'{"model":"b"}', ""),
        ("/openai/deployments/a/embeddings", b'{"model":"b"}', ""),
        ("/openai/deployments/a/images/generations", b'{"model":"b"}', ""),
        ("/deployments/a/v1/messages", b'{"model":"b"}', ""),
        ("/deployments/a/v2/rerank", b'{"model":"b"}', ""),
        ("/deployments/a/generate_stream", b'{"model":"b"}', ""),
        ("/deployments/a/api/generate", b'{"model":"b"}', ""),
        (
            "/openai/deployments/a/audio/transcriptions",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nb\r\n--x--',
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_the_model_of_the_path_answers(path, body, kind):
    """A body's other name does not choose price and limits; lists hold for both."""
    match = find_endpoint("POST", path)
    facts = match.dialect.read_request(match, body, "", kind)
    assert (facts.model, facts.body_model) == ("a", "b")
    assert facts.checked_models == ("a", "b")
    assert facts.named_models == ("a",)
    same = body.replace(b'"b"', b'"a"').replace(b"\r\nb\r", b"\r\na\r")
    facts = match.dialect.read_request(match, same, "", kind)
    assert (facts.model, facts.body_model, facts.checked_models) == ("a", "", ("a",))


@pytest.mark.parametrize("model", ["a,b", "a->b", "m" * 600])
def test_a_body_beside_a_path_names_one_model(model):
    """As a body alone does."""
    match = find_endpoint("POST", "/openai/deployments/a/chat/completions")
    body = json.dumps({"model": model}).encode()
    with pytest.raises(DialectError):
        match.dialect.read_request(match, body, "", "")
