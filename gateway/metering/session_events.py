"""What one event of a WebSocket session says: model, usage, begin and end of an answer.

Read for OpenAI Realtime, the WebSocket mode of OpenAI Responses, and Gemini Live. Usage
is read whatever the protocol.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw

from gateway.core.model import Usage
from gateway.metering.dialects.fields import UsageEnvelope, decode_envelope
from gateway.metering.dialects.loose import loose_envelope
from gateway.metering.dialects.tally import UsageTally

# The standard library's parser reads what msgspec refuses (NaN, lone surrogates).
_LENIENT_BYTES = 64 * 1024
_MODEL_CHARS = 200
_EMPTY = Raw()
# Server events that end an answer, with or without usage.
_ENDS = frozenset(
    {
        "response.done",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "error",
    }
)


class SessionEvent(msgspec.Struct, gc=False):
    """One event. ``opens``: an answer has begun or goes on; ``closes``: it has ended."""

    model: str = ""
    usage: Usage | None = None
    opens: bool = False
    closes: bool = False


class _Members(msgspec.Struct, rename={"server_content": "serverContent"}):
    """Members of an event, not decoded where they may be large."""

    type: Any = None
    model: Any = None
    session: Raw = _EMPTY
    setup: Raw = _EMPTY
    response: Raw = _EMPTY
    server_content: Raw = _EMPTY


class _Named(msgspec.Struct):
    model: Any = None
    audio: Raw = _EMPTY
    input: Raw = _EMPTY
    transcription: Raw = _EMPTY
    input_audio_transcription: Raw = _EMPTY


_decode_members = msgspec.json.Decoder(_Members).decode
_decode_named = msgspec.json.Decoder(_Named).decode


def client_event(payload: bytes) -> SessionEvent | None:
    """Read an event of the client; None if it is not JSON."""
    members = _members(payload)
    if members is None:
        return None
    model = _model_of(members.setup) or _session_model(members.session)
    if not model and members.type in ("response.create", "session.update"):
        model = _text(members.model) or _model_of(members.response)
    opens = members.type == "response.create" or b'lientContent"' in payload
    return SessionEvent(model, opens=opens or b'"client_content"' in payload)


def server_event(payload: bytes) -> SessionEvent | None:
    """Read an event of the upstream; None if it is not JSON."""
    members = _members(payload)
    if members is None:
        return None
    usage = response_usage(payload)
    model = _session_model(members.session) or _model_of(members.response)
    kind = members.type if isinstance(members.type, str) else ""
    closes = usage is not None or kind in _ENDS
    opens = kind.startswith("response.") or members.server_content is not _EMPTY
    return SessionEvent(model, usage, opens and not closes, closes)


def response_usage(event: bytes) -> Usage | None:
    """Usage in an event (OpenAI: ``response.done``); None if it states none."""
    if b'"usage' not in event:
        return None
    envelope: UsageEnvelope | None
    try:
        envelope = decode_envelope(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        envelope = loose_envelope(event)
    if envelope is None:
        return None
    tally = UsageTally()
    tally.take(envelope)
    if not tally.plausible:
        return None
    if tally.seen:
        return tally.usage()
    # A transcript states seconds.
    usage = tally.billed.onto(Usage(source="upstream"))
    return usage if usage.units else None


def _members(payload: bytes) -> _Members | None:
    try:
        return _decode_members(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    if len(payload) > _LENIENT_BYTES:
        return None
    try:
        value = json.loads(payload, parse_constant=lambda _name: None)
        text = json.dumps(value, ensure_ascii=False)
        return _decode_members(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError, msgspec.DecodeError):
        return None


def _session_model(session: Raw) -> str:
    """The model of a session; of a transcription session, that of its input."""
    named = _named(session)
    if named is None:
        return ""
    found = _text(named.model) or _model_of(named.input_audio_transcription)
    if not found and (audio := _named(named.audio)) is not None:
        given = _named(audio.input)
        found = "" if given is None else _model_of(given.transcription)
    return found


def _model_of(raw: Raw) -> str:
    named = _named(raw)
    return "" if named is None else _text(named.model)


def _named(raw: Raw) -> _Named | None:
    if raw is _EMPTY:
        return None
    try:
        return _decode_named(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _text(value: Any) -> str:
    return value[:_MODEL_CHARS] if isinstance(value, str) else ""
