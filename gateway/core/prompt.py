"""The beginning of the newest prompt text in a request body, found without parsing.

Detection compares prompts by the beginning of the last message, because all users of an
application share its system prompt and often its history. The search runs from the end
of the body, so a long conversation costs no more than a short one. The result is only
hashed: a wrong guess makes two prompts look less alike, and does no other harm.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

HEAD_BYTES: Final = 1024
# A prompt belongs to a template if their fingerprints differ in at most this many bits.
# Two prompts of one template may therefore differ in twice as many.
TEMPLATE_BITS: Final = 12
# Bytes at the end of a body that are searched for the last message; if they hold none,
# the first one is used.
_TAIL_BYTES: Final = 128 * 1024
# Names of members that hold the prompt, the most frequent first.
_NAMES: Final = (
    b'"content"',
    b'"text"',
    b'"prompt"',
    b'"input"',
    b'"inputs"',
    b'"message"',
    b'"query"',
    b'"inputText"',
)
_STRING: Final = re.compile(rb'\s*+:\s*+\[?\s*+"')
# A content that is a list of parts: the first text part.
_PART: Final = re.compile(rb'\s*+:\s*+\[\s*+\{.{0,4096}?"text"\s*+:\s*+"', re.DOTALL)
# The longest escape, less one: ``\\uD83D`` may be cut anywhere.
_ESCAPE_BYTES: Final = 5
_decode: Final = msgspec.json.Decoder(str).decode


def prompt_head(body: bytes) -> bytes:
    """The first HEAD_BYTES of the newest text (UTF-8; escaped punctuation may be
    spaces); b"" when there is none.
    """
    for name in _NAMES:
        at = body.rfind(name, max(0, len(body) - _TAIL_BYTES))
        if at < 0:
            at = body.find(name)
        if at < 0:
            continue
        place = at + len(name)
        if body[place : place + 2] == b':"':  # as most clients write it
            return _text_at(body, place + 2)
        found = _STRING.match(body, place) or _PART.match(body, place)
        if found is not None:
            return _text_at(body, found.end())
    return b""


def _text_at(body: bytes, start: int) -> bytes:
    """The JSON string whose text begins at ``start``, at most HEAD_BYTES of it."""
    head = body[start : start + HEAD_BYTES]
    if b"\\" in head:
        # These characters separate words, as a space does; the hash needs no more.
        head = head.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        head = head.replace(b"\\n", b" ").replace(b"\\t", b" ").replace(b"\\r", b" ")
    text, _, _ = head.partition(b'"')
    return _unescape(text) if b"\\" in text else text


def _unescape(text: bytes) -> bytes:
    """``text`` with its JSON escapes decoded, without one that may be cut off at its end;
    unchanged if it is not valid.
    """
    whole = text[: text.rfind(b"\\")] if b"\\" in text[-_ESCAPE_BYTES:] else text
    try:
        return _decode(b'"%b"' % whole).encode("utf-8", "replace")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text
