"""Parsed heads by their exact bytes.

A client on a kept-alive connection repeats its head to the letter but for
Content-Length. Parsing is a pure function of those bytes, so its result may be kept:
the key is the head without its Content-Length line, and only a head with one plain
Content-Length (or none) takes this way. Everything derived from a head (route,
identity, the head sent upstream) hangs on the parsed head's ``memo`` and so is kept
with it. An interim rule of ``Expect`` or TRACE depends on whether there is a body, so
heads with either are not kept.
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

_CONTENT_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (0|[1-9][0-9]{0,11})\r\n")


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
        self._last: tuple[KnownHead, int | None] = (KnownHead(RequestHead()), None)
        self.hits = 0
        self.misses = 0

    def parse(self, raw: bytes) -> tuple[KnownHead, int | None]:
        """Head and Content-Length of the bytes up to and including the blank line.

        Raises:
            WireError: the head breaks a rule; it names the answer's status.
        """
        if raw == self._last_raw:
            self.hits += 1
            return self._last
        found = _CONTENT_LENGTH.search(raw)
        if found is None:
            key, length = raw, None
        else:
            # An empty line stands in its place: no head holds one before its end, so
            # no other head can have this key.
            key = raw[: found.start()] + b"\r\n\r\n" + raw[found.end() :]
            length = int(found[1])
        known = self._known.get(key)
        if known is not None:
            self.hits += 1
            self._last_raw, self._last = raw, (known, length)
            return known, length
        self.misses += 1
        head = parse_request_head(
            raw, max_headers=self._max_headers, max_target=self._max_target
        )
        known = KnownHead(head)
        if head.content_length != length:
            # Spelled in a way of its own: the parser's figure stands, nothing is kept.
            return known, head.content_length
        if (
            len(key) <= MAX_KEPT_BYTES
            and head.method != "TRACE"
            and (b"expect" not in head.fields and not head.upgrade)
        ):
            self._known.put(key, known)
        return known, length

    def clear(self) -> None:
        """Forget all, and with it what was derived (after a reload)."""
        self._known.clear()
        self._last_raw = b""
