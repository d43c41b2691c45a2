"""Spellings of a path that servers do not distinguish, and paths that are refused.

Servers decode ``%2F`` before routing, ignore the case, merge slashes, cut off
``;parameters``, or resolve ``..`` before they choose a location. A request must be
metered as the endpoint that the most lenient of them would serve.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

# Characters without which a path has one spelling only, apart from its case.
_UNUSUAL = re.compile(r"[%;\\]|/[./]|[./]$|[.]/")
_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"[/\\]+")
# Dots and spaces at the end of a segment, which Windows servers drop.
_TAIL = re.compile(r"[.\s]+(?=/|$)")
_SPACES = re.compile(r"[\s\u200b-\u200f\ufeff]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# UTF-8 of "." and "/" in two or three bytes, which old decoders accept.
_OVERLONG = re.compile(r"\xc0\xae|\xe0\x80\xae|\xc0\xaf|\xe0\x80\xaf")
# A proxy behind a proxy may decode once more.
_DECODINGS = 3


def refused_path(path: str) -> str | None:
    """Why a path is not forwarded: dot segments or control characters, also in
    percent-encoding; None: it may pass. ``path``: latin-1 text, without query.
    """
    if _UNUSUAL.search(path) is None:
        return None
    plain = _decode(path)
    if _CONTROL.search(plain):
        return "control characters in the path"
    plain = _OVERLONG.sub(lambda m: "." if m[0].endswith("\xae") else "/", plain)
    for spelling in (plain, _compose(plain)):
        for segment in _SLASHES.split(spelling):
            if segment.partition(";")[0].strip() in (".", ".."):
                return "dot segments in the path"
    return None


def other_spellings(path: str) -> list[str]:
    """The path as lenient servers read it, most literal first, without ``path``."""
    if path == "*":
        return []
    text = _SLASHES.sub("/", _compose(_decode(path)))
    found = [text, _PARAMETERS.sub("", text)]
    found.append(_TAIL.sub("", found[-1]))
    # A server that decodes before it cuts off query and fragment.
    found.append(re.split(r"[?#]", found[-1], maxsplit=1)[0])
    found += [_SPACES.sub("", found[-1])]
    found += [spelling.casefold() for spelling in found]
    return [other for other in dict.fromkeys(found) if other != path]


def has_spaces(path: str) -> bool:
    """Whether a path has white space, percent-encoded."""
    return _SPACES.search(_decode(path)) is not None


def _decode(path: str) -> str:
    """Percent-decoded until nothing changes, at most ``_DECODINGS`` times."""
    for _ in range(_DECODINGS):
        decoded = unquote(path, "latin-1")
        if decoded == path:
            break
        path = decoded
    return path


def _compose(latin: str) -> str:
    """UTF-8 that was read as latin-1, with lookalikes of ASCII as ASCII (NFKC)."""
    try:
        return unicodedata.normalize("NFKC", latin.encode("latin-1").decode())
    except ValueError:
        return latin
