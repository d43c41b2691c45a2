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
    ("text", "said"),
    [
        ('{"setup":{"model":"m"}}', {"model": "m"}),
        ('{"type":"response.create","model":"m"}', {"model": "m", "asks": True}),
        (
            '{"type":"response.create","response":{"model":"m"}}',
            {"model": "m", "asks": True},
        ),
        ('{"TYPE":"response.create"}', {"asks": True, "unknown": True}),
        ('{"type":"response.cancel"}', {"cancels": True}),
        ('{"type":"session.update","session":{"model":"m"}}', {"model": "m"}),
        ('{"type":"session.update","session":{"model":5}}', {}),
        ('{"type":"x","model":"m"}', {}),
        ('{"clientContent":{}}', {}),
        ('{"clientContent":{"turnComplete":true}}', {"asks": True}),
        ('{"client_content":{"turn_complete":true}}', {"asks": True}),
        ('{"client_content":5}', {"asks": True}),
        ('{"realtimeInput":{"audio":{}}}', {}),
        ('{"realtimeInput":{"text":"hi"}}', {"asks": True}),
        ('{"realtime_input":{"activity_end":{}}}', {"asks": True}),
        ('{"realtimeInput":{"activityEnd":{}}}', {"asks": True}),
        ('{"realtimeInput":[]}', {"asks": True}),
        ('{"toolResponse":{}}', {"replies": True}),
        ('{"tool_response":{}}', {"replies": True}),
        ('{"setup":{"model":"m","t":NaN}}', {"model": "m"}),
        ('{"setup":[]}', {}),
        ('{"setup":{"model":"\\ud800"}}', {"model": "?"}),
        ("{}", {"unknown": True}),
        ('{"type":5}', {"unknown": True}),
    ],
)
def test_client_events(text, said):
    """What a client's event names and asks for."""
    assert client_event(text.encode()) == SessionEvent(**said)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"[" * 5000, b"{" + b" " * 70_000, b"\xff", b'{"a":NaN']
)
def test_no_events(text):
    """What is no JSON object may be anything of a client, and is nothing of a server."""
    assert client_event(text) == SessionEvent(unknown=True)
    assert server_event(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type":"session.created","session":{"model":"m"}}', {"model": "m"}),
        (
            '{"session":{"input_audio_transcription":{"model":"m"}}}',
            {"model": "m"},
        ),
        (
            '{"session":{"audio":{"input":{"transcription":{"model":"m"}}}}}',
            {"model": "m"},
        ),
        ('{"session":{"audio":{"input":5}}}', {}),
        (
            '{"type":"response.created","response":{"model":"m"}}',
            {"model": "m", "begins": True, "goes_on": True},
        ),
        ('{"type":"response.output_text.delta"}', {"goes_on": True}),
        ('{"type":"response.failed","response":{"usage":null}}', {"ends": True}),
        ('{"type":"response.done"}', {"ends": True, "unstated": True}),
        ('{"type":"response.done","response":{"status":"failed"}}', {"ends": True}),
        ('{"type":"error"}', {"fails": True}),
        ('{"type":"error","error":5}', {"fails": True}),
        (
            '{"type":"error","error":{"code":"'
            'conversation_already_has_active_response"}}',
            {"fails": True, "refuses": True},
        ),
        ('{"serverContent":{}}', {}),
        ('{"serverContent":{"modelTurn":{}}}', {"goes_on": True}),
        ('{"serverContent":{"turnComplete":true}}', {"fades": True}),
        ('{"toolCall":{}}', {"goes_on": True, "calls": 1}),
        ('{"toolCall":{"functionCalls":[{},{}]}}', {"goes_on": True, "calls": 2}),
        ('{"type":5}', {}),
    ],
)
def test_server_events(text, said):
    """What an upstream's event states, begins and ends."""
    assert server_event(text.encode()) == SessionEvent(**said)


def test_transcripts_are_billed_by_their_seconds():
    """The usage of a transcript is a duration, or tokens."""
    kind = b'"type":"conversation.item.input_audio_transcription.completed"'
    seconds = b'{%b,"usage":{"type":"duration","seconds":3}}' % kind
    usage = response_usage(seconds)
    assert usage is not None
    assert (usage.total, usage.units) == (0, (("audio_seconds", 3.0),))
    assert response_usage(b'{%b,"usage":{"type":"duration"}}' % kind) is None
    assert response_usage(b'{%b,"usage":{"input_tokens":-1}}' % kind) is None
