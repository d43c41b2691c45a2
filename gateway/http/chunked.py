"""A strict, incremental decoder of the chunked coding (RFC 9112 section 7.1).

llhttp accepts any amount of chunk extensions and any number of leading zeros without a
callback, and reports trailers as headers. Here every line has a length limit and a
grammar, and everything but the body (extensions, trailers) is dropped.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.http.head import CREDENTIAL_FIELDS, WireError

MAX_EXTENSION_BYTES: Final = 256  # in one chunk-size line, without its digits
MAX_ALL_EXTENSION_BYTES: Final = 16_384  # in one body
MAX_TRAILER_BYTES: Final = 8_192  # of all trailer lines together
_MAX_DIGITS: Final = 16
_MAX_LEADING_ZEROS: Final = 8
_MAX_SIZE_LINE: Final = _MAX_DIGITS + MAX_EXTENSION_BYTES + 2
# The largest signed 64-bit integer, which upstreams count with.
_MAX_CHUNK_BYTES: Final = 2**63 - 1

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
# No white space around ";" and "=": parsers disagree on it.
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,%d})((?:;%b(?:=(?:%b|%b))?)*)\r\n"
    % (_MAX_DIGITS, _TOKEN, _TOKEN, _QUOTED)
)
# A size line without extension: the fast path, which bounds the cost of tiny chunks.
_SIMPLE_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_TRAILER: Final = re.compile(rb"(%b):[\t -~\x80-\xff]*\r\n" % _TOKEN)
# Fields for framing, routing, request modifiers, authentication and content format
# are forbidden in trailers (RFC 9110 section 6.5.1).
_FORBIDDEN: Final = CREDENTIAL_FIELDS | {
    b"accept-encoding",
    b"age",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expect",
    b"expires",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"location",
    b"max-forwards",
    b"pragma",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"vary",
    b"via",
    b"warning",
    b"www-authenticate",
    b"x-request-id",
}
_FORBIDDEN_STARTS: Final = (b"if-", b"proxy-", b"x-forwarded-", b"x-tidegate-")

_SIZE, _CONTENT, _CONTENT_END, _TRAILERS, _DONE = range(5)


class ChunkedDecoder:
    """Decodes a chunked body; its bytes may be split over the calls in any way.

    ``done`` is True once the final empty line was read; later bytes are not consumed.
    After a `WireError` the decoder must not be used again.
    """

    __slots__ = ("_extension_bytes", "_left", "_line", "_state", "_trailer_bytes")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._extension_bytes = 0
        self._trailer_bytes = 0

    @property
    def done(self) -> bool:
        """Whether the body has ended."""
        return self._state == _DONE

    def feed(self, chunk: bytes) -> tuple[list[bytes], int]:
        """Return the pieces of body and the number of bytes of ``chunk`` consumed.

        Fewer than ``len(chunk)`` are consumed only at the end of the body: the rest
        belongs to the next request. Raises `WireError` (400).
        """
        pieces: list[bytes] = []
        at, end = 0, len(chunk)
        while at < end and self._state != _DONE:
            if self._state == _SIZE and not self._line:
                at = _take_whole_chunks(chunk, at, pieces)
                at = self._feed_line(chunk, at) if at < end else at
            elif self._state == _CONTENT:
                piece = chunk[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _CONTENT_END
            else:
                at = self._feed_line(chunk, at)
        return pieces, at

    def _feed_line(self, chunk: bytes, at: int) -> int:
        """Continue the current line from ``chunk``; returns the offset after it."""
        stop = chunk.find(b"\n", at) + 1
        line = self._line + chunk[at : stop or len(chunk)]
        self._check_bound(line)
        if not stop:
            self._line = line
            return len(chunk)
        self._line = b""
        self._take_line(line)
        return stop

    def _check_bound(self, line: bytes) -> None:
        """Refuse a line that is too long, even before its end has arrived."""
        if self._state == _SIZE:
            if len(line) > _MAX_SIZE_LINE:
                raise WireError(400, "chunk-size line too long")
        elif self._state == _CONTENT_END:
            if not b"\r\n".startswith(line):
                raise WireError(400, "chunk longer than its size")
        elif self._trailer_bytes + len(line) > MAX_TRAILER_BYTES:
            raise WireError(400, "trailers too large")

    def _take_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            self._left = self._read_size(line)
            self._state = _CONTENT if self._left else _TRAILERS
        elif self._state == _CONTENT_END:
            self._state = _SIZE
        elif line == b"\r\n":
            self._state = _DONE
        else:
            self._trailer_bytes += len(line)
            _check_trailer(line)

    def _read_size(self, line: bytes) -> int:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise WireError(400, "malformed chunk size")
        digits, extension = match.groups()
        size = int(digits, 16)
        zeros = len(digits) - len(digits.lstrip(b"0"))
        if zeros > _MAX_LEADING_ZEROS or size > _MAX_CHUNK_BYTES:
            raise WireError(400, "malformed chunk size")
        self._extension_bytes += len(extension)
        if (
            len(extension) > MAX_EXTENSION_BYTES
            or self._extension_bytes > MAX_ALL_EXTENSION_BYTES
        ):
            raise WireError(400, "chunk extensions too large")
        return size


def _take_whole_chunks(chunk: bytes, at: int, pieces: list[bytes]) -> int:
    """Append the complete simple chunks at ``at``; returns the offset after them."""
    while match := _SIMPLE_SIZE.match(chunk, at):
        start = match.end()
        stop = start + int(match[1], 16)
        if stop == start or chunk[stop : stop + 2] != b"\r\n":
            break
        pieces.append(chunk[start:stop])
        at = stop + 2
    return at


def _check_trailer(line: bytes) -> None:
    match = _TRAILER.fullmatch(line)
    if match is None:
        raise WireError(400, "malformed trailer")
    # Some servers read "_" as "-".
    name = match[1].lower().replace(b"_", b"-")
    if name in _FORBIDDEN or name.startswith(_FORBIDDEN_STARTS):
        raise WireError(400, "forbidden trailer")
