"""The upstream's side of the wire: one protocol object for each pooled connection.

httptools parses the answer; framing rules that it does not know (HEAD, close-delimited
bodies, 304 with a length) are kept here. One exchange uses a connection at a time; the
connection goes back to its pool when the answer ended cleanly.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from gateway.http.head import WireError
from gateway.http.response import AnswerHead, read_answer_head

if TYPE_CHECKING:
    from gateway.http.handler import AnswerSink
    from gateway.http.pool import Target
    from gateway.http.tunnel import Tunnel

# Bytes that bring neither body nor end: a head without end, chunk extensions.
MAX_BARREN_BYTES = 256 * 1024
CONTINUE, SWITCHING, FINAL = 100, 101, 200


class UpstreamConnection(asyncio.Protocol):
    """Sends one request at a time and hands the answer to its sink."""

    __slots__ = (
        "answer",
        "barren",
        "born_at",
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
        "reused",
        "sink",
        "spent",
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
        self.drop: frozenset[bytes] = frozenset()
        self.reused = False
        self.feeding = False
        self.paused = False
        self.spent = False  # must not be used for another exchange
        self.lost = False
        self.returning = False
        self.interim = False
        self.barren = 0
        self.born_at = born_at
        self.idle_since = 0.0
        self.writable = True
        self.tunnel: Tunnel | None = None

    # -- connection ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.spent = True
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
            retry = self.reused and not self.barren and not self.interim
            sink.on_upstream_lost(
                502, "the upstream closed the connection", retry=retry
            )
        else:
            # Without a declared length or last chunk the end of bytes is the end.
            sink.on_answer_end(answer.close_delimited and exc is None)

    def eof_received(self) -> bool:
        if self.tunnel is not None:
            return self.tunnel.upstream_eof()
        return False

    def pause_writing(self) -> None:
        self.writable = False
        self._tell_writable()

    def resume_writing(self) -> None:
        self.writable = True
        self._tell_writable()

    def _tell_writable(self) -> None:
        if self.tunnel is not None:
            self.tunnel.upstream_writable(writable=self.writable)
        elif self.sink is not None:
            self.sink.on_upstream_writable(self.writable)

    # -- request ------------------------------------------------------------------

    def send(
        self,
        sink: AnswerSink,
        method: str,
        head: bytes,
        body: bytes,
        drop: frozenset[bytes],
    ) -> None:
        """Begin an exchange: ``head`` with its blank line, then ``body`` (all of it,
        or nothing when the sink streams it through ``write``).
        """
        self.sink = sink
        self.method = method
        self.drop = drop
        self.answer = None
        self.interim = False
        self.barren = 0
        if body:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def abandon(self) -> None:
        """The exchange is over before its answer is: close at once."""
        self.sink = None
        self.spent = True
        if not self.lost:
            self.transport.abort()

    def pause_reading(self) -> None:
        """The client takes nothing more for now."""
        if not self.paused and not self.lost:
            self.paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, if reading was paused."""
        if self.paused and not self.lost:
            self.paused = False
            self.transport.resume_reading()

    # -- answer -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.from_upstream(data)
            return
        sink = self.sink
        if sink is None:
            # Bytes nobody asked for: whatever they are, they are no answer.
            self.spent = True
            self.transport.abort()
            return
        self.barren += len(data)
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
            if self.barren > MAX_BARREN_BYTES:
                self._broken("the upstream's framing holds no end")
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
        self.spent = True
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
            self.spent = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        sink = self.sink
        if sink is None:
            # A second answer on one request.
            self.spent = True
            return
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise WireError(502, "the answer is not HTTP/1.1")
        status = self.parser.get_status_code()
        self.barren = 0
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
            self.spent = True
        sink.on_answer_head(answer)
        if answer.no_body and status != SWITCHING:
            # HEAD, 204, 304: the parser might wait for a body that never comes.
            self.parser = httptools.HttpResponseParser(self)
            self._finish(sink)

    def on_body(self, data: bytes) -> None:
        sink = self.sink
        if sink is None:
            self.spent = True  # a body behind an answer that has none
            return
        self.barren = 0
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
        self.spent = True
        if sink is not None and self.answer is not None:
            sink.on_upgraded(leftover)
        else:
            self.transport.abort()

    def release(self) -> None:
        """The sink has its whole answer: back to the pool, or closed.

        Not before the read that brought its end is parsed whole: what may follow in it
        was asked for by nobody, and must not answer the next request.
        """
        if self.feeding:
            self.returning = True
        elif self.spent or self.transport.get_write_buffer_size():
            # What it was sent and did not read must not stand before a new request.
            self.spent = True
            if not self.lost:
                self.transport.close()
        else:
            self.reused = True
            self.resume_reading()
            self.target.put(self)
