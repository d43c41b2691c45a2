"""A cache of parsed request heads by their exact bytes.

A client repeats its head on a kept-alive connection, byte for byte except for
Content-Length and the lines of tracing. Parsing is a pure function of the bytes, so the
result is cached: the key is the head without those lines, and only a head that spells
each of them plainly is cached. The lines that were cut out are returned with the
parsed head: the length as a number, the request id, and the other lines unchanged.

Whatever is derived from a head (route, identity, the head sent upstream) is stored in
``CachedHead.derived`` and so evicted with it. Heads with ``Expect`` or TRACE are not
cached, because their rules depend on whether there is a body; nor heads whose
``Connection`` names fields.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.core.lru import Lru
from gateway.http.head import RequestHead, parse_request_head

MAX_CACHED = 512
# Larger heads are parsed each time, so that all cached heads, each with the values
# derived for up to 16 senders, stay below 64 MiB.
MAX_HEAD_BYTES = 2048

# Lines that differ from request to request. The pattern matches whole lines, so the rest
# of the head contains no part of one. A folded field leaves its second line behind,
# which the parser refuses.
_OWN_LINES = re.compile(
    rb"\r\n(?:[Cc]ontent-[Ll]ength: (0|[1-9][0-9]{0,11})"
    rb"|[Xx]-[Rr]equest-[Ii][Dd]: ([!-~]{1,128})"
    rb"|((?:[Tt]raceparent|[Tt]racestate|[Bb]aggage|[Ss]entry-[Tt]race"
    rb"|[Ii]dempotency-[Kk]ey|[Xx]-[Cc]orrelation-[Ii][Dd]|[Xx]-[Aa]mzn-[Tt]race-[Ii][Dd]"
    rb"|[Xx]-[Cc]loud-[Tt]race-[Cc]ontext|[Xx]-[Bb]3-[A-Za-z]{1,16}|[Bb]3"
    rb"|[Xx]-[Dd]atadog-[A-Za-z-]{1,24}): [ -~]{0,512}))(?=\r\n)"
)
_LENGTH, _REQUEST_ID, _LINE = 1, 2, 3
MAX_OWN_LINES = 8
_CACHED_CONNECTIONS = frozenset({b"keep-alive", b"close"})


class RequestFields:
    """The fields of one request that are not part of its cached head."""

    __slots__ = ("length", "lines", "request_id")

    def __init__(
        self, length: int | None, request_id: bytes = b"", lines: bytes = b""
    ) -> None:
        self.length = length  # Content-Length
        self.request_id = request_id
        self.lines = lines  # complete header lines for the upstream


class CachedHead:
    """A parsed head, and values that its users derive from it (``derived``)."""

    __slots__ = ("derived", "head")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.derived: dict[str, Any] = {}


class HeadCache:
    """``parse_request_head`` with a cache."""

    __slots__ = (
        "_cached",
        "_last",
        "_last_raw",
        "_max_headers",
        "_max_target",
        "hits",
        "misses",
    )

    def __init__(self, max_headers: int, max_target: int) -> None:
        self._max_headers = max_headers
        self._max_target = max_target
        self._cached: Lru[bytes, CachedHead] = Lru(MAX_CACHED)
        # The last head that was found, unchanged: a busy client sends the same again.
        self._last_raw = b""
        self._last = (CachedHead(RequestHead()), RequestFields(None))
        self.hits = 0
        self.misses = 0

    def parse(self, raw: bytes) -> tuple[CachedHead, RequestFields]:
        """Parse a head, up to and including the empty line.

        Raises:
            WireError: the head breaks a rule; it holds the answer's status.
        """
        if raw == self._last_raw:
            self.hits += 1
            return self._last
        shared, key, own = _cut(raw)
        cached = self._cached.get(key) if own is not None else None
        if cached is not None and own is not None:
            self.hits += 1
            self._last_raw, self._last = raw, (cached, own)
            return cached, own
        self.misses += 1
        return self._parse_new(raw, shared, key, own)

    def _parse_new(
        self, raw: bytes, shared: bytes, key: bytes, own: RequestFields | None
    ) -> tuple[CachedHead, RequestFields]:
        limits = {"max_headers": self._max_headers, "max_target": self._max_target}
        head = parse_request_head(shared, **limits)
        if own is not None and _is_cacheable(head, own):
            cached = CachedHead(head)
            if len(key) <= MAX_HEAD_BYTES:
                self._cached.put(key, cached)
            return cached, own
        if shared is not raw:
            head = parse_request_head(raw, **limits)
        return CachedHead(head), RequestFields(head.content_length)

    def clear(self) -> None:
        """Drop all heads, with what was derived from them."""
        self._cached.clear()
        self._last_raw = b""


def _cut(raw: bytes) -> tuple[bytes, bytes, RequestFields | None]:
    """Return the head to parse, its cache key, and the fields of this request alone.

    The head to parse keeps Content-Length, because the rules of framing need it; the
    key has an empty line in its place. None instead of the fields: a line is repeated,
    or there are too many; do not cache.
    """
    length, request_id, lines = None, b"", b""
    shared: list[bytes] = []
    key: list[bytes] = []
    start = count = 0
    for found in _OWN_LINES.finditer(raw):
        count += 1
        part = raw[start : found.start()]
        start = found.end()
        key.append(part)
        shared.append(part)
        kind = found.lastindex
        if kind == _LENGTH:
            if length is not None:
                return raw, raw, None
            length = int(found[_LENGTH])
            # An empty line replaces it: no head contains one before its end, so the
            # key differs from that of the same head without a length.
            key.append(b"\r\n")
            shared.append(found[0])
        elif kind == _REQUEST_ID:
            if request_id:
                return raw, raw, None
            request_id = found[_REQUEST_ID]
        else:
            lines += found[_LINE] + b"\r\n"
    if count > MAX_OWN_LINES:
        return raw, raw, None
    if not count:
        return raw, raw, RequestFields(None)
    rest = raw[start:]
    key.append(rest)
    whole = b"".join(key)
    if length is not None and count == 1:
        return raw, whole, RequestFields(length)
    shared.append(rest)
    return b"".join(shared), whole, RequestFields(length, request_id, lines)


def _is_cacheable(head: RequestHead, own: RequestFields) -> bool:
    fields = head.fields
    return (
        head.content_length == own.length
        and head.method != "TRACE"
        and not head.upgrade
        and b"expect" not in fields
        and fields.get(b"connection", b"keep-alive").lower() in _CACHED_CONNECTIONS
    )
