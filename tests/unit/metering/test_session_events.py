"""What events of WebSocket sessions say."""

import pytest

from gateway.core.model import Usage
from gateway.metering.session_events import (
    SessionEvent,
    client_event,
    response_usage,
    server_event,
)


@pytest.mark.parametrize(
    ("event", "total"),
    [
        (b"{}", None),
        (b'"usage', None),
        (b'{"usage":null}', None),
        (b'{"usage":', None),
        (b'{"response":{"usage":{"total_tokens":"7"}}}', 7),
    ],
)
def test_events(event, total):
    """Events without usage, or without JSON, give none."""
    usage = response_usage(event)
    assert (usage.total if usage else None) == total


def test_cached_tokens_of_a_session():
    """``input_token_details`` states what was cached, as part of the input."""
    event = (
        b'{"response":{"usage":{"total_tokens":15,"input_tokens":10,'
        b'"output_tokens":5,"input_token_details":{"cached_tokens":7}}}}'
    )
    usage = response_usage(event)
    assert usage == Usage(10, 5, 15, 7, source="upstream")


@pytest.mark.parametrize(
    ("text", "model", "opens"),
    [
        ('{"setup":{"model":"m"}}', "m", False),
        ('{"type":"response.create","model":"m"}', "m", True),
        ('{"type":"response.create","response":{"model":"m"}}', "m", True),
        ('{"type":"session.update","session":{"model":"m"}}', "m", False),
        ('{"type":"session.update","session":{"model":5}}', "", False),
        ('{"type":"x","model":"m"}', "", False),
        ('{"clientContent":{}}', "", True),
        ('{"client_content":{}}', "", True),
        ('{"setup":{"model":"m","t":NaN}}', "m", False),
        ('{"setup":[]}', "", False),
        ('{"setup":{"model":"\\ud800"}}', "?", False),
    ],
)
def test_client_events(text, model, opens):
    """What a client's event names and begins."""
    assert client_event(text.encode()) == SessionEvent(model, opens=opens)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"[" * 5000, b"{" + b" " * 70_000, b"\xff", b'{"a":NaN']
)
def test_no_events(text):
    """What is no JSON object says nothing."""
    assert client_event(text) is None
    assert server_event(text) is None


@pytest.mark.parametrize(
    ("text", "model", "opens", "closes"),
    [
        ('{"type":"session.created","session":{"model":"m"}}', "m", False, False),
        (
            '{"session":{"input_audio_transcription":{"model":"m"}}}',
            "m",
            False,
            False,
        ),
        (
            '{"session":{"audio":{"input":{"transcription":{"model":"m"}}}}}',
            "m",
            False,
            False,
        ),
        ('{"session":{"audio":{"input":5}}}', "", False, False),
        ('{"type":"response.created","response":{"model":"m"}}', "m", True, False),
        ('{"type":"response.failed","response":{"usage":null}}', "", False, True),
        ('{"type":"error"}', "", False, True),
        ('{"serverContent":{}}', "", True, False),
        ('{"type":5}', "", False, False),
    ],
)
def test_server_events(text, model, opens, closes):
    """What an upstream's event states, begins and ends."""
    expected = SessionEvent(model, None, opens, closes)
    assert server_event(text.encode()) == expected


def test_transcripts_are_billed_by_their_seconds():
    """The usage of a transcript is a duration, or tokens."""
    kind = b'"type":"conversation.item.input_audio_transcription.completed"'
    seconds = b'{%b,"usage":{"type":"duration","seconds":3}}' % kind
    usage = response_usage(seconds)
    assert usage is not None
    assert (usage.total, usage.units) == (0, (("audio_seconds", 3.0),))
    assert response_usage(b'{%b,"usage":{"type":"duration"}}' % kind) is None
    assert response_usage(b'{%b,"usage":{"input_tokens":-1}}' % kind) is None
