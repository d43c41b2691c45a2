"""What all dialects share: forms, clamping, the choice of a meter."""

import pytest

from gateway.core.model import RequestFacts
from gateway.metering.dialects import find_endpoint
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
    """Model, stream and n of an upload."""
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
    """An unknown endpoint's facts are its match's."""
    facts = UNKNOWN.dialect.read_request(UNKNOWN, b"\xff", "", "")
    assert facts == RequestFacts("other")
    assert UNKNOWN.dialect.ask_usage(b"{}", facts) is None


def test_errors():
    """Unless a dialect has its own, errors are OpenAI's and need no fields."""
    assert b'"code":"blocked"' in UNKNOWN.dialect.error_body(403, "blocked", "no")
    assert UNKNOWN.dialect.error_headers(403, "blocked") == []


def test_clamping():
    """Caps and numbers of answers are lowered; without caps nothing happens."""
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
    """The answer's status and content type choose the meter."""
    facts = RequestFacts("chat.completions", stream=stream)
    opened = CHAT.dialect.open_meter(CHAT, facts, status, {}.get, kind)
    assert type(opened) is meter


def test_free_requests_have_no_meter():
    """What is not billable costs nothing."""
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
    """Content types, whatever their case and parameters."""
    assert framing_of(kind) == framing


def test_caps_and_sizes():
    """The largest cap stands; a negative one means none."""
    assert cap_of(None, 5, 7) == 7
    assert cap_of(5, -1) is None
    assert cap_of() is None
    assert sum_sizes(EMPTY, EMPTY) == (0, 0)
