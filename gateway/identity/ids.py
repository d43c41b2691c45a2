"""Ids that clients, tokens and headers state: printable, bounded, and never merged.

Different texts stay different ids: what is removed from a text or is beyond its largest
length is replaced by a hash of the whole text at its end. A text that already ends like
that is hashed, too, so that no text can state the id of another one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

MAX_ID_CHARS: Final = 128
# Of the hash at the end: 64 bits; two of a million ids are equal with 3e-8.
_TAIL_HEX_DIGITS: Final = 16
# What is read of a longer text, so that megabytes are not cleaned; the hash covers all.
_MAX_READ_CHARS: Final = 1024
_HASHED: Final = re.compile(rf"~[0-9a-f]{{{_TAIL_HEX_DIGITS}}}\Z")


def readable_id(text: str) -> str:
    """The id of a text that a client states; "" if nothing of it can be shown.

    Control characters, direction marks, lone surrogates and blanks around it are
    removed. Only the id of a text without these, of at most 128 characters, is the text.
    """
    shown = text[:_MAX_READ_CHARS].strip()
    if not shown.isprintable():
        shown = "".join(char for char in shown if char.isprintable()).strip()
    if not shown:
        return ""
    if shown == text and len(text) <= MAX_ID_CHARS and not _HASHED.search(text):
        return text
    return _with_hash(shown, text)


def shorten_id(text: str) -> str:
    """An id put together from readable ones, with a hash at its end if it is longer than
    128 characters.
    """
    return text if len(text) <= MAX_ID_CHARS else _with_hash(text, text)


def secret_id(secret: bytes) -> str:
    """16 hex digits by which the secrets behind ``key_…`` ids can be compared; they do
    not disclose it.
    """
    return hashlib.blake2b(secret, digest_size=8, person=b"tidegate-secret").hexdigest()


def _with_hash(shown: str, whole: str) -> str:
    written = whole.encode("utf-8", "surrogatepass")
    tail = hashlib.blake2b(written, digest_size=_TAIL_HEX_DIGITS // 2).hexdigest()
    return f"{shown[: MAX_ID_CHARS - 1 - _TAIL_HEX_DIGITS]}~{tail}"
