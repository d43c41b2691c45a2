"""What a request asks, found in its body without parsing it: the newest text's head.

Detection compares prompts by the head of what was said last: system prompts and the
history before it are shared by all users of an application. The search runs from the
end of the body, so a long conversation costs no more than a short one. What is found is
only ever hashed; a wrong guess costs likeness, never correctness.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

HEAD_BYTES: Final = 1024
# Prints of one template lie within so many bits of its first one: two members may
# differ by twice the flips of one.
TEMPLATE_BITS: Final = 12
# The last message begins within this of the end; else the first one is taken.
_TAIL_BYTES: Final = 128 * 1024
# Names of members that hold what is asked, the likelier first.
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
# A content of parts: the text of the first part that is one.
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
            return _plain(body, place + 2)
        found = _STRING.match(body, place) or _PART.match(body, place)
        if found is not None:
            return _plain(body, found.end())
    return b""


def _plain(body: bytes, start: int) -> bytes:
    head = body[start : start + HEAD_BYTES]
    if b"\\" in head:
        # What these stand for parts words, as a space does; that is all that counts.
        head = head.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        head = head.replace(b"\\n", b" ").replace(b"\\t", b" ").replace(b"\\r", b" ")
    text, _, _ = head.partition(b'"')
    return _spelled_out(text) if b"\\" in text else text


def _spelled_out(text: bytes) -> bytes:
    """Escaped letters as themselves; a text cut within an escape up to there."""
    whole = text[: text.rfind(b"\\")] if b"\\" in text[-_ESCAPE_BYTES:] else text
    try:
        return _decode(b'"%b"' % whole).encode("utf-8", "replace")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text
