"""How a stream stands, by its last records: open, ended by its own mark, or failed.

Status 200 says nothing about it: errors come as events of a stream, too. Read by shape,
not by dialect, for the reason in ``fields.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from gateway.metering.dialects.base import ENDED, FAILED, OPEN_STREAM, SSE
from gateway.metering.dialects.texts import sse_payload

# Events read from the end of a stream: the error or end mark, and what may follow it
# (usage, a comment, ``[DONE]``).
LAST_EVENTS = 6
_LAST_RECORDS = LAST_EVENTS + 2  # a record may be blank
# Bytes of the last records that are searched for them.
TAIL_BYTES = 16 * 1024

_BLANK = re.compile(rb"(?>\r\n|\n|\r){2}")
_DONE = b"[DONE]"
_ERROR_EVENT = re.compile(rb"^event:[ ]?error\s*$", re.MULTILINE)
_END_TYPES = frozenset(
    {
        "message_stop",  # Anthropic
        "message-end",  # Cohere
        "response.completed",
        "response.incomplete",
        "response.cancelled",
        "image_generation.completed",
        "image_edit.completed",
        "speech.audio.done",
        "transcript.text.done",
    }
)
_END_EVENTS = frozenset({"stream-end", "interaction.completed"})
_ERROR_TYPES = frozenset({"error", "response.failed", "response.error"})


class _Delta(msgspec.Struct):
    finish_reason: Any = None


class _Choice(msgspec.Struct):
    finish_reason: Any = None
    error: Any = None


class _Candidate(msgspec.Struct, rename="camel"):
    finish_reason: Any = None


class _Event(msgspec.Struct):
    """The members that say how a stream stands."""

    type: Any = None
    event_type: Any = None  # Cohere v1, Gemini's Interactions
    object: Any = None
    error: Any = None
    done: Any = None  # Ollama
    is_finished: Any = None
    stop: Any = None  # llama.cpp
    generated_text: Any = None  # TGI: null until the last event
    finish_reason: Any = None
    delta: _Delta | str | None = None
    choices: list[_Choice] | None = None
    candidates: list[_Candidate] | None = None
    usage: dict[str, Any] | None = None
    usage_metadata: dict[str, Any] | None = msgspec.field(
        name="usageMetadata", default=None
    )
    # Bedrock: the last event of Converse, the last chunk of invoke
    metrics: dict[str, Any] | None = None
    invocation: dict[str, Any] | None = msgspec.field(
        name="amazon-bedrock-invocationMetrics", default=None
    )


_decode = msgspec.json.Decoder(_Event).decode
_decode_many = msgspec.json.Decoder(list[_Event]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def tail_of(records: Iterable[bytes], rest: bytes) -> bytes:
    """The last bytes of a stream, in whole records; ``records``: the newest first."""
    taken = [rest, *islice(records, _LAST_RECORDS)]
    size = sum(map(len, taken))
    # One record at least, and no more than it takes to pass TAIL_BYTES.
    while len(taken) > 2 and size - len(taken[-1]) > TAIL_BYTES:  # noqa: PLR2004
        size -= len(taken.pop())
    taken.reverse()
    return b"".join(taken)


def end_of_stream(framing: str, tail: bytes) -> str:
    """OPEN_STREAM, ENDED or FAILED, by the last events in ``tail``."""
    suspect = _may_fail(tail)
    if not suspect and tail[-16:].rstrip().endswith(b"data: " + _DONE):
        return ENDED
    state = OPEN_STREAM
    generating = False  # a later event has choices that are not finished
    for name_is_error, payload in _last_events(framing, tail):
        if name_is_error:
            return FAILED
        if payload == _DONE:
            state = ENDED
            continue
        if (generating or state is ENDED) and not suspect:
            break
        try:
            event = _decode(payload)
        except _UNREADABLE:
            continue
        if _is_error(event):
            return FAILED
        if not generating and _is_end(event):
            state = ENDED
        generating = generating or bool(event.choices)
    return state


def _may_fail(text: bytes) -> bool:
    """Whether any event may be an error: searched at first, as most streams have none."""
    if b"rror" in text or b"ailed" in text:
        return True
    return b"R" in text and b"RROR" in text  # one byte is found much faster


def end_of_body(body: bytes) -> str:
    """The same for one JSON body, or for Gemini's array of them."""
    try:
        many = body.lstrip()[:1] == b"["
        events = _decode_many(body) if many else [_decode(body)]
    except _UNREADABLE:
        return OPEN_STREAM
    return FAILED if any(map(_is_error, events)) else ENDED


def _last_events(framing: str, tail: bytes) -> Iterator[tuple[bool, bytes]]:
    """(named "error", payload) of the last events, newest first."""
    if framing != SSE:
        for line in reversed(tail.splitlines()[-LAST_EVENTS:]):
            yield False, line.strip()
        return
    for event in reversed(_split(tail)[-LAST_EVENTS:]):
        if event.startswith(b"data: ") and b"\n" not in event:
            yield False, event[6:].strip()
        else:
            payload = sse_payload(event).strip()
            yield _ERROR_EVENT.search(event) is not None, payload


def _split(tail: bytes) -> list[bytes]:
    """The events at the end of ``tail``, not blank."""
    if b"\r" not in tail:
        pieces = tail.rsplit(b"\n\n", _LAST_RECORDS)
        events = [event for piece in pieces[1:] if (event := piece.strip())]
        if len(events) >= LAST_EVENTS:
            return events
    return [event for event in _BLANK.split(tail) if event.strip()]


def _is_error(event: _Event) -> bool:
    if event.error or event.object == "error" or event.type in _ERROR_TYPES:
        return True
    delta = event.delta
    reasons = [event.finish_reason]
    if isinstance(delta, _Delta):
        reasons.append(delta.finish_reason)
    reasons += [choice.finish_reason for choice in event.choices or ()]
    if any(isinstance(r, str) and r.lower().startswith("error") for r in reasons):
        return True
    return any(choice.error for choice in event.choices or ())


def _is_end(event: _Event) -> bool:
    if (
        event.type in _END_TYPES
        or event.done is True
        or event.event_type in _END_EVENTS
        or event.is_finished is True
        or event.stop is True
        or isinstance(event.generated_text, str)
        or event.invocation is not None
    ):
        return True
    if event.usage_metadata is not None:
        candidates = event.candidates or ()
        return bool(candidates) and all(one.finish_reason for one in candidates)
    if event.usage is None:
        return False
    if event.choices is None:
        return event.metrics is not None
    return all(choice.finish_reason for choice in event.choices)
