"""The reading side of a connection, from the pure functions alone, without a socket.

Used by the corpus and the property tests.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.http.chunked import ChunkedDecoder
from gateway.http.head import (
    RequestHead,
    WireError,
    check_partial_head,
    oversize_error,
    parse_request_head,
    strip_leading_crlf,
)

MAX_HEAD = 65_536
MAX_BODY = 32 * 1024 * 1024


class Reader:
    """Collects complete requests in ``requests``; `WireError` ends the connection."""

    def __init__(self) -> None:
        self.requests: list[tuple[RequestHead, bytes]] = []
        self._buffer = b""
        self._head: RequestHead | None = None
        self._decoder: ChunkedDecoder | None = None
        self._body = b""

    @property
    def idle(self) -> bool:
        """Whether no byte of a next request has arrived."""
        return self._head is None and not self._buffer

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the connection, split anywhere."""
        self._buffer += piece
        while self._step():
            pass

    def _step(self) -> bool:
        return self._read_head() if self._head is None else self._read_body()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if (end if end >= 0 else len(self._buffer)) > MAX_HEAD:
            raise oversize_error(self._buffer, MAX_HEAD)
        if end < 0:
            check_partial_head(self._buffer)
            return False
        raw, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
        self._head = parse_request_head(strip_leading_crlf(raw))
        if (self._head.content_length or 0) > MAX_BODY:
            raise WireError(413, "body too large")
        self._decoder = ChunkedDecoder() if self._head.chunked else None
        self._body = b""
        return True

    def _read_body(self) -> bool:
        assert self._head is not None
        if self._decoder is not None:
            pieces, used = self._decoder.feed(self._buffer)
            done = self._decoder.done
            self._body += b"".join(pieces)
        else:
            length = self._head.content_length or 0
            used = min(len(self._buffer), length - len(self._body))
            self._body += self._buffer[:used]
            done = len(self._body) == length
        self._buffer = self._buffer[used:]
        if done:
            self.requests.append((self._head, self._body))
            self._head = None
            return bool(self._buffer)
        return False


def read_all(
    pieces: Iterable[bytes],
) -> tuple[list[tuple[RequestHead, bytes]], WireError | None, bool]:
    """Return the requests, the refusal if any, and whether the reader is idle."""
    reader = Reader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except WireError as error:
        return reader.requests, error, False
    return reader.requests, None, reader.idle
