"""Writing one answer to the client: status line, framing, and few writes."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.http.request_writer import LAST_CHUNK

if TYPE_CHECKING:
    from gateway.http.handler import ClientSide
    from gateway.http.head import RequestHead
    from gateway.http.response import AnswerHead

_REASONS: dict[int, bytes] = {s.value: s.phrase.encode() for s in HTTPStatus}
_STATUS_LINES: dict[int, bytes] = {}


def status_line(status: int) -> bytes:
    """Return the first line of an answer, with its line end."""
    line = _STATUS_LINES.get(status)
    if line is None:
        line = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Unknown"))
        if len(_STATUS_LINES) < 1000:
            _STATUS_LINES[status] = line
    return line


class AnswerWriter:
    """Collects the output of one read from the upstream and writes it at once."""

    __slots__ = ("chunked", "conn", "keep", "pending", "pieces", "until_close")

    def __init__(self, conn: ClientSide) -> None:
        self.conn: ClientSide | None = conn
        self.chunked = False
        self.keep = True
        self.pending = b""  # the head, until it is written
        self.pieces: list[bytes] = []
        self.until_close = False  # the answer is delimited by the close alone

    def head(
        self, request: RequestHead, answer: AnswerHead, more: bytes, request_id: bytes, *,
        keep: bool, rewritten: bool,
    ) -> None:  # fmt: skip
        """Take the upstream's head.

        ``more``: our own header lines; ``request_id`` is added where the upstream sent
        none. ``rewritten``: the body will not have the length that it stated.
        """
        if not answer.request_id:
            more += b"X-Request-Id: %b\r\n" % request_id
        length = answer.content_length
        if answer.no_body:
            framing = b"" if length is None else b"Content-Length: %d\r\n" % length
        elif length is not None and not rewritten:
            framing = b"Content-Length: %d\r\n" % length
        elif request.http10:
            framing = b""
            keep = False
            self.until_close = True
        else:
            framing = b"Transfer-Encoding: chunked\r\n"
            self.chunked = True
        if not keep:
            framing += b"Connection: close\r\n"
        elif request.http10:
            framing += b"Connection: keep-alive\r\n"
        self.keep = keep
        self.pending = b"%b%b%b%b\r\n" % (
            status_line(answer.status),
            answer.forward,
            more,
            framing,
        )

    def interim(self, status: int, lines: bytes) -> None:
        """Write an interim answer (103); ``lines`` are complete header lines."""
        if self.conn is not None:
            self.conn.transport.write(b"%b%b\r\n" % (status_line(status), lines))

    def write(self, data: bytes) -> None:
        """Write a complete answer."""
        if data and self.conn is not None:
            self.conn.transport.write(data)

    def flush(self) -> None:
        """Write what was collected, in one write and one chunk."""
        pieces = self.pieces
        if pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.pieces = []
            if not body:
                data = self.pending
            elif self.chunked:
                data = b"%b%x\r\n%b\r\n" % (self.pending, len(body), body)
            else:
                data = self.pending + body if self.pending else body
        else:
            data = self.pending
        self.pending = b""
        if data and self.conn is not None:
            self.conn.transport.write(data)

    def finish(self) -> None:
        """Write the rest of a complete answer and its end."""
        if not self.chunked:
            self.flush()
            return
        body = b"".join(self.pieces)
        self.pieces = []
        if body:
            data = b"%b%x\r\n%b\r\n0\r\n\r\n" % (self.pending, len(body), body)
        else:
            data = self.pending + LAST_CHUNK
        self.pending = b""
        if self.conn is not None:
            self.conn.transport.write(data)
