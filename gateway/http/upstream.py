"""HTTP/1.1 to an upstream: one protocol object for each pooled connection.

httptools parses the answer; the framing rules that it lacks (HEAD, close-delimited
bodies, 304 with a length) are applied here. A connection carries one exchange at a
time, and goes back to its target when the answer ended cleanly.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from gateway.http.head import WireError
from gateway.http.request_writer import (
    CHUNKED,
    LAST_CHUNK,
    write_chunk,
    write_head,
)
from gateway.http.response import AnswerHead, read_answer_head

if TYPE_CHECKING:
    from gateway.http.handler import AnswerSink, UpstreamTunnel
    from gateway.http.request_writer import OutgoingRequest
    from gateway.http.target import Target

# Connections older than this in seconds are not used again, so that DNS changes take
# effect.
MAX_AGE_S = 300.0
# Bytes that may arrive without body or end of message: an endless head, chunk
# extensions.
MAX_BYTES_WITHOUT_PROGRESS = 256 * 1024
CONTINUE, SWITCHING, FINAL = 100, 101, 200


class UpstreamConnection(asyncio.Protocol):
    """Sends one request at a time and hands the answer to its sink."""

    __slots__ = (
        "answer",
        "born_at",
        "bytes_without_progress",
        "chunked",
        "drop",
        "feeding",
        "fields",
        "idle_since",
        "interim",
        "lost",
        "method",
        "parser",
        "paused",
        "returning",
        "reusable",
        "reused",
        "sink",
        "target",
        "transport",
        "tunnel",
        "writable",
    )

    def __init__(self, target: Target, born_at: float) -> None:
        self.target = target
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.sink: AnswerSink | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.fields: list[tuple[bytes, bytes]] = []
        self.answer: AnswerHead | None = None
        self.method = "GET"
        self.chunked = False  # the request's body is sent in the chunked coding
        self.drop: frozenset[bytes] = frozenset()
        self.reused = False
        self.feeding = False
        self.paused = False
        self.reusable = True  # may carry another exchange after this one
        self.lost = False
        self.returning = False
        self.interim = False
        self.bytes_without_progress = 0
        self.born_at = born_at
        self.idle_since = 0.0
        self.writable = True
        self.tunnel: UpstreamTunnel | None = None

    # -- connection ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost, self.reusable = True, False
        self.target.forget(self)
        if self.tunnel is not None:
            self.tunnel.upstream_lost()
            return
        sink = self.sink
        if sink is None:
            return
        answer = self.answer
        self.sink = None
        if answer is None:
            retry = self.reused and not self.bytes_without_progress and not self.interim
            sink.on_upstream_lost(
                502, "the upstream closed the connection", retry=retry
            )
        else:
            # Without a length and chunks the close ends the body.
            sink.on_answer_end(answer.close_delimited and exc is None)

    def eof_received(self) -> bool:
        if self.tunnel is not None:
            return self.tunnel.upstream_eof()
        return False

    def pause_writing(self) -> None:
        self.writable = False
        self._notify_writable()

    def resume_writing(self) -> None:
        self.writable = True
        self._notify_writable()

    def _notify_writable(self) -> None:
        if self.tunnel is not None:
            self.tunnel.upstream_writable(writable=self.writable)
        elif self.sink is not None:
            self.sink.on_upstream_writable(self.writable)

    # -- request ------------------------------------------------------------------

    def send(
        self,
        sink: AnswerSink,
        request: OutgoingRequest,
        body: bytes,
        drop: frozenset[bytes],
    ) -> None:
        """Send a request; ``sink`` gets the answer without the fields in ``drop``.

        ``body`` is all of it, or empty where the sink streams it (``write_body``).
        """
        self.sink = sink
        self.method = request.head.method
        self.chunked = request.body_length == CHUNKED
        self.drop = drop
        self.answer = None
        self.interim = False
        self.bytes_without_progress = 0
        head = write_head(request)
        if body:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)

    def write_body(self, data: bytes) -> None:
        """Send one piece of a streamed body."""
        if data:
            self.transport.write(write_chunk(data) if self.chunked else data)

    def end_body(self) -> None:
        """Send the end of a streamed body."""
        if self.chunked:
            self.transport.write(LAST_CHUNK)

    def abandon(self) -> None:
        """Close at once: the exchange ended before its answer did."""
        self.sink = None
        self.reusable = False
        if not self.lost:
            self.transport.abort()

    def pause_reading(self) -> None:
        """Stop reading the answer: the client's write buffer is full."""
        if not self.paused and not self.lost:
            self.paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading, if reading was paused."""
        if self.paused and not self.lost:
            self.paused = False
            self.transport.resume_reading()

    def begin_tunnel(self, tunnel: UpstreamTunnel) -> None:
        """Pass all later bytes to ``tunnel``."""
        self.sink = None
        self.tunnel = tunnel

    # -- pool ---------------------------------------------------------------------

    def is_available(self) -> bool:
        """Whether an idle connection can carry an exchange."""
        return self.reusable and not self.transport.is_closing()

    def has_expired(self, now: float, keepalive_s: float) -> bool:
        """Whether it was idle for longer than ``keepalive_s``, or is too old."""
        return now - self.idle_since > keepalive_s or now - self.born_at > MAX_AGE_S

    def close(self) -> None:
        """Close; the connection carries no further exchange."""
        self.reusable = False
        self.transport.close()

    # -- answer -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.from_upstream(data)
            return
        sink = self.sink
        if sink is None:
            # Bytes without a request are not an answer.
            self.reusable = False
            self.transport.abort()
            return
        self.bytes_without_progress += len(data)
        self.feeding = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._malformed(error)
            return
        finally:
            self.feeding = False
        if self.sink is sink:
            if self.bytes_without_progress > MAX_BYTES_WITHOUT_PROGRESS:
                self._broken("the upstream's framing has no end")
            else:
                sink.on_answer_flush()
        elif self.returning:
            self.returning = False
            self.release()

    def _malformed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            cause, (WireError, httptools.HttpParserError)
        ):
            raise error
        self._broken("the upstream's answer is not HTTP/1.1")

    def _broken(self, why: str) -> None:
        sink, self.sink = self.sink, None
        self.reusable = False
        self.transport.abort()
        if sink is None:
            return
        if self.answer is None:
            sink.on_upstream_lost(502, why, retry=False)
        else:
            sink.on_answer_end(complete=False)

    # httptools calls these by name.

    def on_message_begin(self) -> None:
        self.fields = []
        if self.sink is None:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        sink = self.sink
        if sink is None:
            # A second answer on one request.
            self.reusable = False
            return
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise WireError(502, "the answer is not HTTP/1.1")
        status = self.parser.get_status_code()
        self.bytes_without_progress = 0
        answer = read_answer_head(
            status, version == "1.0", self.fields, self.method, drop=self.drop
        )
        self.interim = status < FINAL
        if status == SWITCHING:
            if not answer.upgrade:
                raise WireError(502, "the upstream switches to no protocol")
        elif status < FINAL:
            if status != CONTINUE:
                sink.on_interim(status, answer.forward)
            return
        self.answer = answer
        if not answer.keep_alive or answer.close_delimited:
            self.reusable = False
        sink.on_answer_head(answer)
        if answer.no_body and status != SWITCHING:
            # HEAD, 204, 304: llhttp may wait for a body that does not come.
            self.parser = httptools.HttpResponseParser(self)
            self._finish(sink)

    def on_body(self, data: bytes) -> None:
        sink = self.sink
        if sink is None:
            self.reusable = False  # a body after an answer that has none
            return
        self.bytes_without_progress = 0
        sink.on_answer_body(data)

    def on_message_complete(self) -> None:
        sink = self.sink
        if sink is None or self.interim or self.answer is None:
            return
        self._finish(sink)

    def _finish(self, sink: AnswerSink) -> None:
        self.sink = None
        sink.on_answer_end(complete=True)

    def _upgraded(self, leftover: bytes) -> None:
        sink, self.sink = self.sink, None
        self.reusable = False
        if sink is not None and self.answer is not None:
            sink.on_upgraded(leftover)
        else:
            self.transport.abort()

    def release(self) -> None:
        """Return the connection to its target, or close it, after a whole answer.

        Waits until the read that held the answer's end is parsed to its end: bytes
        behind the answer must not be taken for the answer to the next request.
        """
        if self.feeding:
            self.returning = True
        elif not self.reusable or self.transport.get_write_buffer_size():
            # Unsent bytes of this request must not precede the next one.
            self.reusable = False
            if not self.lost:
                self.transport.close()
        else:
            self.reused = True
            self.resume_reading()
            self.target.put(self)
