"""The text of answers and prompts, for counting tokens where no usage is stated.

Runs off the event loop (``metering/counting.py``), except for the small steps in which a
long stream is reduced. Reads by shape, not by dialect, for the reason in ``fields.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from gateway.metering.dialects.base import FRAMES, JSON, NDJSON, OPAQUE, SSE, CountTask

# JSON members whose strings are generated text, for answers that cannot be parsed.
_TEXT_MEMBER = re.compile(
    rb'"(?:content|text|delta|arguments|partial_json|thinking|reasoning_content'
    rb"|reasoning|generation|outputText|completion|response|value|transcript)"
    rb'"\s*+:\s*+("[^"\\]*+(?:\\.[^"\\]*+)*+"?)',
    re.DOTALL,
)
# The most frequent member alone: a literal prefix makes the search 5 times as fast.
_CONTENT = re.compile(
    rb'"content":\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"',
    re.DOTALL,
)
# Members of a prompt that contain no text.
_NO_TEXT = frozenset(
    {
        "b64_json",
        "bytes",
        "encrypted_content",
        "file_data",
        "fileData",
        "file_id",
        "id",
        "image",
        "image_url",
        "images",
        "inlineData",
        "inline_data",
        "input_audio",
        "metadata",
        "mimeType",
        "model",
        "signature",
        "source",
        "stream_options",
        "thoughtSignature",
        "tool_call_id",
        "tool_use_id",
        "type",
        "url",
        "user",
    }
)
_PROMPT_MEMBERS = (
    "instructions",
    "system",
    "systemInstruction",
    "system_instruction",
    "preamble",
    "messages",
    "chat_history",
    "message",
    "contents",
    "content",
    "requests",
    "instances",
    "input",
    "inputs",
    "inputText",
    "prompt",
    "suffix",
    "query",
    "documents",
    "texts",
    "text",
    "additional_instructions",
    "additional_messages",
)
_SCHEMA_MEMBERS = (
    "tools",
    "functions",
    "toolConfig",
    "response_format",
    "output_config",
)


def sse_payload(event: bytes) -> bytes:
    """The ``data`` lines of one server-sent event, joined."""
    lines = [
        line[6:] if line[5:6] == b" " else line[5:]
        for line in event.splitlines()
        if line.startswith(b"data:")
    ]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def answer_texts(framing: str, records: Iterable[bytes]) -> Iterator[str]:
    """Generated text in order. ``records``: whole events, lines or one body."""
    if framing == OPAQUE:
        return
    if framing == JSON:
        yield from _body_texts(b"".join(records))
        return
    for record in records:
        for payload in _payloads(framing, record):
            yield from _payload_texts(payload)


def _payloads(framing: str, record: bytes) -> Iterator[bytes]:
    if framing != SSE:
        yield from record.split(b"\n")
        return
    for line in record.splitlines():
        if line.startswith(b"data:"):
            yield line[5:].strip()


def _payload_texts(payload: bytes) -> Iterator[str]:
    payload = payload.strip()
    if not payload or payload == b"[DONE]":
        return
    try:
        yield from generated(msgspec.json.decode(payload))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield from _truncated_texts(payload)


def _body_texts(body: bytes) -> Iterator[str]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield from _truncated_texts(body)
        return
    for item in value if isinstance(value, list) else [value]:
        yield from generated(item)


def raw_texts(record: bytes) -> bytes:
    """Generated text of stream records, as the contents of their JSON strings."""
    if b'"response.' in record and b".delta" not in record:
        return b""  # Responses: the events at the end of an item repeat its text
    content = b"".join(_CONTENT.findall(record))
    if content:
        return content
    return b"".join(literal[1:-1] for literal in _TEXT_MEMBER.findall(record))


def kept_texts(literals: Iterable[bytes]) -> Iterator[str]:
    """The results of ``raw_texts``, decoded."""
    for literal in literals:
        try:
            yield json.loads(b'"' + literal + b'"')
        except ValueError:
            yield literal.decode("utf-8", "replace")


def _truncated_texts(truncated: bytes) -> Iterator[str]:
    """Text members of truncated JSON."""
    for literal in _TEXT_MEMBER.findall(truncated):
        closed = (
            literal if literal[-1:] == b'"' and len(literal) > 1 else literal + b'"'
        )
        try:
            yield json.loads(closed.decode("utf-8", "replace"))
        except ValueError:  # an invalid escape
            yield literal[1:].decode("utf-8", "replace").removesuffix('"')


def generated(value: Any) -> Iterator[str]:
    """The generated text in one decoded answer or event."""
    if not isinstance(value, dict):
        return
    for name, read in _READERS:
        member = value.get(name)
        if member is not None:
            yield from read(value, member)
            return


def _choices(_: dict[str, Any], choices: Any) -> Iterator[str]:
    for choice in _dicts(choices):
        message = choice.get("delta") or choice.get("message")
        if isinstance(message, dict):
            yield from _message(message)
        yield from _plain(choice.get("text"))


def _message(message: dict[str, Any]) -> Iterator[str]:
    """The text of a message, or of a delta, in any chat API."""
    yield from _parts(message.get("content"))
    for name in ("reasoning_content", "reasoning", "thinking"):
        if message.get(name):
            yield from _plain(message[name])
            break
    else:
        for detail in _dicts(message.get("reasoning_details")):
            yield from _plain(detail.get("text"))
    for name in ("refusal", "tool_plan"):
        yield from _plain(message.get(name))
    calls = message.get("tool_calls")
    for call in _dicts([calls] if isinstance(calls, dict) else calls):
        yield from _call(call.get("function"))
    yield from _call(message.get("function_call"))
    audio = message.get("audio")
    if isinstance(audio, dict):
        yield from _plain(audio.get("transcript"))


def _call(call: Any) -> Iterator[str]:
    if isinstance(call, dict):
        yield from _plain(call.get("name"))
        arguments = call.get("arguments", call.get("args", call.get("input")))
        yield from _plain(arguments)
        if isinstance(arguments, dict):
            yield json.dumps(arguments)


def _parts(content: Any) -> Iterator[str]:
    """Content as a string, as one part, or as a list of parts."""
    if isinstance(content, str):
        yield content
    for part in _dicts([content] if isinstance(content, dict) else content):
        for name in ("text", "thinking", "refusal", "partial_json"):
            text = part.get(name)
            # OpenAI's assistants nest the text once more.
            yield from _plain(text.get("value") if isinstance(text, dict) else text)
        for name in ("functionCall", "toolUse"):
            yield from _call(part.get(name))
        if part.get("type") == "tool_use":
            yield from _call(part)
        reasoning = part.get("reasoningContent")
        if isinstance(reasoning, dict):
            inner = reasoning.get("reasoningText", reasoning)
            yield from _parts(inner)


def _typed(value: dict[str, Any], kind: Any) -> Iterator[str]:
    """The text of an object with a ``type``: an event of Responses, Anthropic or Cohere
    v2, or a whole Anthropic message.
    """
    kind = str(kind)
    delta = value.get("delta")
    if kind.startswith("response."):
        # Only deltas: the events at the end of an item repeat its whole text.
        if kind.endswith(".delta"):
            yield from _plain(delta)
        return
    if isinstance(delta, dict):
        message = delta.get("message")
        yield from _message(message if isinstance(message, dict) else {})
        yield from _parts(delta)
        return
    yield from _parts(value.get("content_block"))
    yield from _parts(value.get("content"))
    yield from _plain(value.get("completion"))


def _delta(_: dict[str, Any], delta: Any) -> Iterator[str]:
    """The text of stream events of Converse and of assistants."""
    if not isinstance(delta, dict):
        yield from _plain(delta)
        return
    yield from _parts(delta.get("content"))
    yield from _parts(delta)


def _start(_: dict[str, Any], start: Any) -> Iterator[str]:
    if isinstance(start, dict):
        yield from _call(start.get("toolUse"))


def _candidates(_: dict[str, Any], candidates: Any) -> Iterator[str]:
    for candidate in _dicts(candidates):
        content = candidate.get("content")
        if isinstance(content, dict):
            yield from _parts(content.get("parts"))


def _output(_: dict[str, Any], output: Any) -> Iterator[str]:
    """The text of Responses' list of items, or of Converse's message."""
    if isinstance(output, dict):
        message = output.get("message")
        yield from _message(message if isinstance(message, dict) else {})
    for item in _dicts(output):
        yield from _parts(item.get("content"))
        yield from _parts(item.get("summary"))
        yield from _call(item)


def _named_event(value: dict[str, Any], kind: Any) -> Iterator[str]:
    """The text of events with an ``event_type``; the last event of Cohere v1, which
    repeats all of it, is not read.
    """
    if kind == "text-generation":
        yield from _plain(value.get("text"))
    elif kind == "step.delta":  # Gemini's Interactions
        yield from _delta(value, value.get("delta"))


def _message_member(_: dict[str, Any], message: Any) -> Iterator[str]:
    """The text of Ollama's and Cohere v2's message (Anthropic's message_start has none)."""
    if isinstance(message, dict):
        yield from _message(message)


def _listed(_: dict[str, Any], items: Any) -> Iterator[str]:
    """The text of Bedrock's and Cohere's lists of generations."""
    for item in _dicts(items):
        for name in ("outputText", "text", "generated_text"):
            yield from _plain(item.get(name))
        inner = item.get("data")
        if isinstance(inner, dict):
            yield from _plain(inner.get("text"))


def _content(_: dict[str, Any], content: Any) -> Iterator[str]:
    yield from _parts(content)


def _token(_: dict[str, Any], token: Any) -> Iterator[str]:
    if isinstance(token, dict):
        yield from _plain(token.get("text"))


def _string(_: dict[str, Any], text: Any) -> Iterator[str]:
    yield from _plain(text)


# The first member present determines the reader. Order matters: Ollama's generate has
# both ``response`` and ``thinking``, Responses events ``type`` and ``delta``.
_READERS = (
    ("choices", _choices),
    ("candidates", _candidates),
    ("output", _output),
    ("event_type", _named_event),
    ("steps", _output),
    ("type", _typed),
    ("delta", _delta),
    ("start", _start),
    ("message", _message_member),
    ("generations", _listed),
    ("results", _listed),
    ("completions", _listed),
    ("outputs", _listed),
    ("content", _content),
    ("token", _token),
    ("response", _string),
    ("text", _string),
    ("generation", _string),
    ("outputText", _string),
    ("generated_text", _string),
    ("completion", _string),
    ("value", _string),
)


def _dicts(items: Any) -> Iterator[dict[str, Any]]:
    if isinstance(items, list):
        yield from (item for item in items if isinstance(item, dict))


def _plain(text: Any) -> Iterator[str]:
    if isinstance(text, str) and text:
        yield text


def prompt_texts(body: bytes) -> tuple[list[str], int]:
    """Texts of a request body and its number of messages; ([], 0) if unreadable.

    Tool and output schemas count as JSON text, names included.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [], 0
    if not isinstance(value, dict):
        return [], 0
    texts: list[str] = []
    for name in _PROMPT_MEMBERS:
        if name in value:
            # Of a document every member may be read (Cohere's ``rank_fields``).
            without = frozenset() if name == "documents" else _NO_TEXT
            _collect(value[name], texts, without)
    schemas = (value[name] for name in _SCHEMA_MEMBERS if value.get(name))
    texts.extend(json.dumps(schema, separators=(",", ":")) for schema in schemas)
    messages = value.get("messages")
    return texts, len(messages) if isinstance(messages, list) else 0


def _collect(value: Any, texts: list[str], without: frozenset[str] = _NO_TEXT) -> None:
    """Append every string that may be text; the decoder bounds the depth. ``without``:
    members that contain none.
    """
    if isinstance(value, str):
        if value:
            texts.append(value)
    elif isinstance(value, list):
        for item in value:
            _collect(item, texts, without)
    elif isinstance(value, dict):
        for name, member in value.items():
            if name not in without:
                _collect(member, texts, without)


__all__ = [
    "FRAMES",
    "NDJSON",
    "CountTask",
    "answer_texts",
    "generated",
    "prompt_texts",
    "sse_payload",
]
