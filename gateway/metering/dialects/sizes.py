"""The size of a prompt without counting it: bytes of text, and tokens that are known."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Raw

from gateway.metering.dialects.outside import PromptReader, is_text

_ARRAY, _OBJECT, _STRING = b'[{"'
_NOTHING_BYTES = 4
_NOTHING = frozenset({b"", b"null", b'""', b"[]", b"{}"})
# Of an array of tokens, so much is counted and the rest estimated.
HEAD_BYTES = 1024 * 1024


class PromptSize(NamedTuple):
    """Bytes of text, tokens that are known without it (arrays of tokens, a flat number
    for each picture), and whether part of the prompt is not in the body.
    """

    text: int
    tokens: int
    outside: bool = False


_EMPTY = PromptSize(0, 0)


def text_size(raw: Raw) -> PromptSize:
    """The size of a member that is text throughout, or an array of tokens."""
    view = memoryview(raw)
    length = len(view)
    head = bytes(view[:HEAD_BYTES])
    if length <= _NOTHING_BYTES and head in _NOTHING:
        return _EMPTY
    if head[0] == _ARRAY and head[1] != _OBJECT:
        tokens = _token_array(head)
        if tokens:
            return PromptSize(0, tokens * length // len(head))
    return PromptSize(length, 0)


def content_size(raw: Raw, *, listed: bool = False) -> PromptSize:
    """The size of a member with messages or their parts, which may include pictures,
    files and references. ``listed``: so may the items of a list themselves.
    """
    length = len(raw)
    text = bytes(raw)
    if length <= _NOTHING_BYTES and text in _NOTHING:
        return _EMPTY
    first = text[0]
    if first == _STRING:
        return PromptSize(length, 0)
    # Without a second bracket the content of each message is one text.
    if first == _ARRAY and not listed and text.find(b"[", 1) < 0:
        listed = text[1] != _OBJECT
        if not listed:
            return PromptSize(length, 0)
    if first == _ARRAY and text[1] != _OBJECT:
        found = text_size(raw)
        if found.tokens:
            return found
    if is_text(text):
        return PromptSize(length, 0)
    reader = PromptReader()
    reader.read(text)
    return PromptSize(max(0, length - reader.payload), reader.tokens, reader.outside)


def payload_size(raw: Raw, kind: str) -> PromptSize:
    """The size of a member with payloads (a list of pictures)."""
    text = bytes(raw)
    if len(text) <= _NOTHING_BYTES and text in _NOTHING:
        return _EMPTY
    reader = PromptReader()
    reader.read(text, kind)
    return PromptSize(max(0, len(text) - reader.payload), reader.tokens, reader.outside)


def _token_array(text: bytes) -> int:
    """The number of integers in an array (or an array of arrays) of tokens, else 0."""
    head = text[:64].translate(None, b"[ \t\r\n")
    if not head[:1].isdigit():
        return 0
    return text.count(b",") + 1
