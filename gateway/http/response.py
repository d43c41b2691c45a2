"""The head of an upstream's answer: how its body ends, and which fields are forwarded.

llhttp parses the bytes; `read_answer_head` gets its list of (name, value) pairs. It
runs for every answer, so the class of a field name is looked up by its exact bytes, and
only a new name is lower-cased and checked.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.http.head import WireError

_MAX_NAMES: Final = 4096
_MAX_NAME_BYTES: Final = 64
_MAX_DROP_SETS: Final = 64
_MAX_LENGTH_DIGITS: Final = 18
_FINAL, _NO_CONTENT, _NOT_MODIFIED = 200, 204, 304  # below 200: interim answers
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# For ``drop``: the upstream's rate-limit fields, where the gateway sends its own.
RATE_LIMIT_FIELDS: Final = frozenset(
    {
        b"ratelimit",
        b"ratelimit-*",
        b"x-ratelimit-*",
    }
)

# Up to _REQUEST_ID the field is forwarded; above _PASS its value is kept.
(
    _PASS,
    _TYPE,
    _ENCODING,
    _REQUEST_ID,
    _LENGTH,
    _CODING,
    _CONNECTION,
    _UPGRADE,
    _DROP,
) = range(9)
_KINDS: Final = {
    b"connection": _CONNECTION,
    b"content-encoding": _ENCODING,
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
    b"keep-alive": _DROP,
    b"te": _DROP,
    b"trailer": _DROP,
    b"transfer-encoding": _CODING,
    b"upgrade": _UPGRADE,
    b"x-request-id": _REQUEST_ID,
}
# One table of cached names for each set of fields to drop.
_tables: dict[frozenset[bytes], dict[bytes, int]] = {}


class AnswerHead:
    """A parsed head of an answer.

    Exactly one of these says how the body ends: ``no_body``, ``chunked``,
    ``content_length``, ``close_delimited``. ``content_length`` is also set on answers
    without a body that state one (HEAD, 304), and is forwarded there too.
    ``keep_alive``: the upstream connection may be reused once the body has ended.
    ``forward`` holds complete header lines for the client. ``upgrade`` is the protocol
    that a 101 switches to.
    """

    __slots__ = (
        "chunked",
        "close_delimited",
        "content_encoding",
        "content_length",
        "content_type",
        "forward",
        "headers",
        "keep_alive",
        "no_body",
        "request_id",
        "status",
        "upgrade",
    )

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers
        self.content_length: int | None = None
        self.chunked = False
        self.close_delimited = False
        self.no_body = False
        self.keep_alive = True
        self.content_type = b""
        self.content_encoding = b""
        self.request_id = b""
        self.upgrade = b""
        self.forward = b""

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of a field; ``name`` in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


def read_answer_head(
    status: int,
    http10: bool,
    headers: list[tuple[bytes, bytes]],
    method: str,
    *,
    drop: frozenset[bytes],
) -> AnswerHead:
    """Parse an answer's head. Raises `WireError` (502) where its framing is ambiguous.

    ``drop`` names fields (lower case, a trailing ``*`` for a prefix) that are not
    forwarded. It should be one of a few constants: each has a table of its own.
    """
    head = AnswerHead(status, headers)
    kinds = _tables.get(drop)
    if kinds is None:
        kinds = _new_table(drop)
    lines: list[bytes] = []
    kept: dict[int, bytes] = {}
    # One flat loop: a function call for each field would double the cost.
    for name, value in headers:
        kind = kinds.get(name)
        if kind is None:
            kind = _learn_name(kinds, name, drop)
        if kind <= _REQUEST_ID:
            lines.append(b"%b: %b\r\n" % (name, value))
        if kind:
            first = kept.get(kind)
            kept[kind] = value if first is None else _repeat(kind, first, value)
    if http10 or _CONNECTION in kept:
        lines = _read_connection(head, http10, kept.get(_CONNECTION, b""), lines)
    head.forward = b"".join(lines)
    head.content_type = kept.get(_TYPE, b"")
    head.content_encoding = kept.get(_ENCODING, b"")
    head.request_id = kept.get(_REQUEST_ID, b"")
    head.upgrade = kept.get(_UPGRADE, b"").lower()
    _read_framing(head, http10, method, kept.get(_LENGTH), kept.get(_CODING))
    return head


def _repeat(kind: int, first: bytes, again: bytes) -> bytes:
    """Combine a repeated field: its first value, or all as a list."""
    if kind in (_TYPE, _REQUEST_ID):
        return first
    if kind == _LENGTH:
        if first != again:
            raise WireError(502, "differing content-lengths in the answer")
        return first
    return first + b", " + again


def _new_table(drop: frozenset[bytes]) -> dict[bytes, int]:
    table: dict[bytes, int] = {}
    if len(_tables) < _MAX_DROP_SETS:
        _tables[drop] = table
    return table


def _learn_name(table: dict[bytes, int], name: bytes, drop: frozenset[bytes]) -> int:
    """Check and classify a field name, and cache the result."""
    if not _TOKEN.fullmatch(name):
        raise WireError(502, "malformed header name in the answer")
    lower = name.lower()
    kind = _KINDS.get(lower)
    if kind is None:
        prefixes = tuple(x[:-1] for x in drop if x.endswith(b"*"))
        dropped = lower in drop or lower.startswith((b"proxy-", *prefixes))
        kind = _DROP if dropped else _PASS
    if len(name) <= _MAX_NAME_BYTES and len(table) < _MAX_NAMES:
        table[name] = kind
    return kind


def _read_connection(
    head: AnswerHead,
    http10: bool,
    value: bytes,
    lines: list[bytes],
) -> list[bytes]:
    """Set ``keep_alive``; returns ``lines`` without the fields named by Connection."""
    if not http10 and value == b"keep-alive":
        return lines
    options = {option.strip(b" \t") for option in value.lower().split(b",")}
    head.keep_alive = b"close" not in options and (
        not http10 or b"keep-alive" in options
    )
    named = options - {b"close", b"keep-alive", b"upgrade", b""}
    if not named:
        return lines
    return [x for x in lines if x.partition(b":")[0].lower() not in named]


def _read_framing(
    head: AnswerHead,
    http10: bool,
    method: str,
    length: bytes | None,
    coding: bytes | None,
) -> None:
    """Decide how the body ends (RFC 9112 section 6.3)."""
    status = head.status
    if coding is not None:
        if length is not None or http10 or coding.lower() != b"chunked":
            raise WireError(502, "ambiguous framing of the answer")
    elif length is not None:
        if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
            raise WireError(502, "malformed content-length in the answer")
        head.content_length = int(length)
    if status < _FINAL or status == _NO_CONTENT:
        head.no_body = True
        head.content_length = None
    elif method == "HEAD" or status == _NOT_MODIFIED:
        head.no_body = True
    elif coding is not None:
        head.chunked = True
    elif length is None:
        head.close_delimited = True
        head.keep_alive = False
