"""What one event of a WebSocket session says: model, usage, begin and end of an answer.

Read for OpenAI Realtime, the WebSocket mode of OpenAI Responses, and Gemini Live. Usage
is read whatever the protocol.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from msgspec import Raw

from gateway.core.model import Usage
from gateway.metering.dialects.billed import name_tools
from gateway.metering.dialects.fields import UsageEnvelope, decode_envelope
from gateway.metering.dialects.loose import envelope_in_tail, loose_envelope
from gateway.metering.dialects.tally import UsageTally

# The standard library's parser reads what msgspec refuses (NaN, lone surrogates).
_LENIENT_BYTES = 64 * 1024
_MODEL_CHARS = 200
_EMPTY = Raw()
# Server events that end an answer, with or without usage; of those that are billed.
_BILLED = frozenset({"response.done", "response.completed", "response.incomplete"})
_ENDS = _BILLED | {"response.failed", "response.cancelled"}
# What became of a ``response.done`` that is not billed where it states no usage.
_FREE = frozenset({"failed", "cancelled"})
# The kind of an event, which is its first member; of an end, wherever it is.
_TYPE = re.compile(rb'\s*+\{\s*+"type"\s*+:\s*+"([a-z_.]+)"')
_END_TYPE = re.compile(
    rb'"type"\s*+:\s*+"(response\.(?:done|completed|incomplete|failed|cancelled))"'
)
# An error that says of a request for an answer that it is refused.
_REFUSED = "conversation_already_has_active_response"


class SessionEvent(msgspec.Struct, gc=False):
    """One event of either side.

    Of the client: ``asks`` for an answer; ``cancels`` one; ``replies`` to a call of a
    tool; is ``unknown``, so that it may do any of these.

    Of the upstream: an answer ``begins``, by name; ``goes_on``; ``ends``, perhaps with
    its ``usage``, or it is ``unstated`` although it is billed; ``fades``, so that its
    usage should follow. ``fails``: some message is refused; ``refuses``: a request for
    an answer is. ``calls``: so many tools.
    """

    model: str = ""
    usage: Usage | None = None
    asks: bool = False
    cancels: bool = False
    replies: bool = False
    unknown: bool = False
    begins: bool = False
    goes_on: bool = False
    ends: bool = False
    unstated: bool = False
    fades: bool = False
    fails: bool = False
    refuses: bool = False
    calls: int = 0


class _Members(
    msgspec.Struct,
    rename={
        "server_content": "serverContent",
        "tool_call": "toolCall",
        "content": "clientContent",
        "input": "realtimeInput",
        "tool_response": "toolResponse",
        "content_snake": "client_content",
        "input_snake": "realtime_input",
        "tool_response_snake": "tool_response",
    },
):
    """Members of an event, not decoded where they may be large."""

    type: Any = None
    model: Any = None
    session: Raw = _EMPTY
    setup: Raw = _EMPTY
    response: Raw = _EMPTY
    error: Raw = _EMPTY
    server_content: Raw = _EMPTY
    tool_call: Raw = _EMPTY
    content: Raw = _EMPTY
    input: Raw = _EMPTY
    tool_response: Raw = _EMPTY
    content_snake: Raw = _EMPTY
    input_snake: Raw = _EMPTY
    tool_response_snake: Raw = _EMPTY


class _Named(msgspec.Struct):
    model: Any = None
    status: Any = None
    code: Any = None
    audio: Raw = _EMPTY
    input: Raw = _EMPTY
    transcription: Raw = _EMPTY
    input_audio_transcription: Raw = _EMPTY


class _Turn(
    msgspec.Struct,
    rename={
        "complete": "turnComplete",
        "complete_snake": "turn_complete",
        "model_turn": "modelTurn",
        "activity_end": "activityEnd",
        "activity_end_snake": "activity_end",
        "calls": "functionCalls",
    },
):
    """Members of Gemini's turns: the client's, the model's, and calls of tools."""

    complete: Any = None
    complete_snake: Any = None
    text: Any = None
    activity_end: Any = None
    activity_end_snake: Any = None
    model_turn: Raw = _EMPTY
    calls: list[Raw] = []


_decode_members = msgspec.json.Decoder(_Members).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_turn = msgspec.json.Decoder(_Turn).decode
# What cannot be read may be the end of a turn.
_UNREAD_TURN = _Turn(complete=True)


def client_event(payload: bytes) -> SessionEvent:
    """Read an event of the client."""
    members = _members(payload)
    if members is None:
        return SessionEvent(unknown=True)
    kind = members.type
    model = _model_of(members.setup) or _session_model(members.session)
    if not model and kind in ("response.create", "session.update"):
        model = _text(members.model) or _model_of(members.response)
    # The other spelling: a server that ignores the case of names.
    creates = kind == "response.create" or b'"response.create"' in payload
    return SessionEvent(
        model,
        asks=creates or _ends_turn(members),
        cancels=kind == "response.cancel",
        replies=_given(members.tool_response, members.tool_response_snake),
        unknown=not isinstance(kind, str)
        and not _given(
            members.setup,
            members.content,
            members.content_snake,
            members.input,
            members.input_snake,
            members.tool_response,
            members.tool_response_snake,
        ),
    )


def _ends_turn(members: _Members) -> bool:
    """Whether a message of Gemini Live ends the user's turn, so that an answer follows.

    The end of speech is found by the server, in the sound.
    """
    for part in (members.content, members.content_snake):
        turn = _turn(part)
        if turn is not None and (turn.complete or turn.complete_snake):
            return True
    for part in (members.input, members.input_snake):
        turn = _turn(part)
        if turn is not None and (
            turn is _UNREAD_TURN
            or turn.text
            or turn.activity_end is not None
            or turn.activity_end_snake is not None
        ):
            return True
    return False


def server_event(payload: bytes) -> SessionEvent | None:
    """Read an event of the upstream; None if it is not JSON."""
    members = _members(payload)
    if members is None:
        return None
    usage = response_usage(payload)
    model = _session_model(members.session) or _model_of(members.response)
    if not isinstance(members.type, str):
        return _live_event(members, model, usage)
    kind = members.type
    answer = kind.startswith("response.")
    # A transcript of what the client said states its own usage.
    ends = kind in _ENDS or (answer and usage is not None)
    unstated = kind in _BILLED and usage is None and not _is_free(members.response)
    return SessionEvent(
        model,
        usage,
        begins=kind == "response.created",
        goes_on=answer and not ends,
        ends=ends,
        unstated=unstated,
        fails=kind == "error",
        refuses=kind == "error" and _code_of(members.error) == _REFUSED,
    )


def cut_event(head: bytes, tail: bytes) -> SessionEvent | None:
    """Read an event of the upstream that is too large, by its first and last bytes; None:
    it may be of any kind.
    """
    usage = _usage_of(envelope_in_tail(tail)) if b'"usage' in tail else None
    named = _TYPE.match(head) or _END_TYPE.search(tail)
    kind = "" if named is None else named[1].decode()
    if kind in _ENDS:
        unstated = usage is None and kind in _BILLED
        return SessionEvent(usage=usage, ends=True, unstated=unstated)
    if kind:
        return SessionEvent(goes_on=kind.startswith("response."))
    if usage is not None:  # Gemini Live
        return SessionEvent(usage=usage, ends=True)
    return None


def _live_event(members: _Members, model: str, usage: Usage | None) -> SessionEvent:
    """An event of Gemini Live: an answer begins with its content."""
    turn = _turn(members.server_content)
    called = _turn(members.tool_call)
    return SessionEvent(
        model,
        usage,
        goes_on=usage is None
        and (
            called is not None or (turn is not None and turn.model_turn is not _EMPTY)
        ),
        ends=usage is not None,
        fades=usage is None and turn is not None and bool(turn.complete),
        calls=0 if called is None else max(len(called.calls), 1),
    )


def response_usage(event: bytes) -> Usage | None:
    """Usage in an event (OpenAI: ``response.done``); None if it states none."""
    if b'"usage' not in event:
        return None
    envelope: UsageEnvelope | None
    try:
        envelope = decode_envelope(event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        envelope = loose_envelope(event)
    return _usage_of(envelope)


def _usage_of(envelope: UsageEnvelope | None) -> Usage | None:
    if envelope is None:
        return None
    tally = UsageTally()
    tally.take(envelope)
    if not tally.plausible:
        return None
    if tally.seen:
        usage = tally.usage()
        name_tools(usage, ())
        return usage
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


def _is_free(response: Raw) -> bool:
    named = _named(response)
    return named is not None and named.status in _FREE


def _code_of(raw: Raw) -> str:
    named = _named(raw)
    return "" if named is None else _text(named.code)


def _given(*parts: Raw) -> bool:
    return any(part is not _EMPTY for part in parts)


def _turn(raw: Raw) -> _Turn | None:
    if raw is _EMPTY:
        return None
    try:
        return _decode_turn(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _UNREAD_TURN


def _text(value: Any) -> str:
    return value[:_MODEL_CHARS] if isinstance(value, str) else ""
