"""Parsed heads by their exact bytes.

A client on a kept-alive connection repeats its head to the letter but for
Content-Length and what tracing adds. Parsing is a pure function of those bytes, so its
result may be kept: the key is the head without those lines, and only a head in which
each of them is spelled plainly takes this way. What was cut out is handed back with the
parsed head: the length as a number, the request id, the rest as the lines they were.

Everything derived from a head (route, identity, the head sent upstream) hangs on the
parsed head's ``memo`` and so is kept with it. A rule of ``Expect`` or TRACE depends on
whether there is a body, and ``Connection`` may name any field: such heads are not kept.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.core.lru import Lru
from gateway.http.head import RequestHead, parse_request_head

MAX_KNOWN = 512
# Larger heads are parsed each time, so that all kept ones, with what hangs
# on them for each of up to 16 senders, stay below 64 MiB.
MAX_KEPT_BYTES = 2048

# Lines that differ from request to request. All of a line is matched, so what is left
# of the head holds no part of one; a field folded onto a second line leaves that line
# behind, and the parser refuses it.
_CHANGING = re.compile(
    rb"\r\n(?:[Cc]ontent-[Ll]ength: (0|[1-9][0-9]{0,11})"
    rb"|[Xx]-[Rr]equest-[Ii][Dd]: ([!-~]{1,128})"
    rb"|((?:[Tt]raceparent|[Tt]racestate|[Bb]aggage|[Ss]entry-[Tt]race"
    rb"|[Ii]dempotency-[Kk]ey|[Xx]-[Cc]orrelation-[Ii][Dd]|[Xx]-[Aa]mzn-[Tt]race-[Ii][Dd]"
    rb"|[Xx]-[Cc]loud-[Tt]race-[Cc]ontext|[Xx]-[Bb]3-[A-Za-z]{1,16}|[Bb]3"
    rb"|[Xx]-[Dd]atadog-[A-Za-z-]{1,24}): [ -~]{0,512}))(?=\r\n)"
)
_LENGTH, _REQUEST_ID, _LINE = 1, 2, 3
MAX_CHANGING = 8
_KEPT_CONNECTIONS = frozenset({b"keep-alive", b"close"})


class Changing:
    """What one request has of its own beside the head that it shares."""

    __slots__ = ("length", "lines", "request_id")

    def __init__(
        self, length: int | None, request_id: bytes = b"", lines: bytes = b""
    ) -> None:
        self.length = length  # Content-Length
        self.request_id = request_id
        self.lines = lines  # whole header lines for the upstream


class KnownHead:
    """A parsed head, and what others derived from it (``memo``, theirs to fill)."""

    __slots__ = ("head", "memo")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.memo: dict[str, Any] = {}


class HeadCache:
    """``parse_request_head`` with a memory."""

    __slots__ = (
        "_known",
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
        self._known: Lru[bytes, KnownHead] = Lru(MAX_KNOWN)
        # The last head that was found, to the letter: a busy client sends it again.
        self._last_raw = b""
        self._last = (KnownHead(RequestHead()), Changing(None))
        self.hits = 0
        self.misses = 0

    def parse(self, raw: bytes) -> tuple[KnownHead, Changing]:
        """The head up to and including the blank line, and what is its own.

        Raises:
            WireError: the head breaks a rule; it names the answer's status.
        """
        if raw == self._last_raw:
            self.hits += 1
            return self._last
        shared, key, changing = _cut(raw)
        known = self._known.get(key) if changing is not None else None
        if known is not None and changing is not None:
            self.hits += 1
            self._last_raw, self._last = raw, (known, changing)
            return known, changing
        self.misses += 1
        return self._parse_new(raw, shared, key, changing)

    def _parse_new(
        self, raw: bytes, shared: bytes, key: bytes, changing: Changing | None
    ) -> tuple[KnownHead, Changing]:
        limits = {"max_headers": self._max_headers, "max_target": self._max_target}
        head = parse_request_head(shared, **limits)
        if changing is not None and _may_be_kept(head, changing):
            known = KnownHead(head)
            if len(key) <= MAX_KEPT_BYTES:
                self._known.put(key, known)
            return known, changing
        if shared is not raw:
            head = parse_request_head(raw, **limits)
        return KnownHead(head), Changing(head.content_length)

    def clear(self) -> None:
        """Forget all, and with it what was derived (after a reload)."""
        self._known.clear()
        self._last_raw = b""


def _cut(raw: bytes) -> tuple[bytes, bytes, Changing | None]:
    """The head without tracing, the key, and what was cut out.

    None: a line stands there twice or there are too many; the head goes its own way.
    """
    length, request_id, lines = None, b"", b""
    shared: list[bytes] = []
    key: list[bytes] = []
    start = count = 0
    for found in _CHANGING.finditer(raw):
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
            # An empty line stands in its place: no head holds one before its end, so
            # no head without a length can have this key.
            key.append(b"\r\n")
            shared.append(found[0])
        elif kind == _REQUEST_ID:
            if request_id:
                return raw, raw, None
            request_id = found[_REQUEST_ID]
        else:
            lines += found[_LINE] + b"\r\n"
    if count > MAX_CHANGING:
        return raw, raw, None
    if not count:
        return raw, raw, Changing(None)
    rest = raw[start:]
    key.append(rest)
    whole = b"".join(key)
    if length is not None and count == 1:
        return raw, whole, Changing(length)
    shared.append(rest)
    return b"".join(shared), whole, Changing(length, request_id, lines)


def _may_be_kept(head: RequestHead, changing: Changing) -> bool:
    fields = head.fields
    return (
        head.content_length == changing.length
        and head.method != "TRACE"
        and not head.upgrade
        and b"expect" not in fields
        and fields.get(b"connection", b"keep-alive").lower() in _KEPT_CONNECTIONS
    )
