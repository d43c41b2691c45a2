"""HTTP/1.1 from a client: one protocol object for each accepted connection.

It finds the end of a head, passes the head to the pure rules in ``head``, and frames
the body itself, so that no byte is consumed without being counted. Both go to an
exchange. There is one exchange at a time: pipelined requests wait in ``buf``, in order.
While an exchange is open the socket is still read, because a paused socket does not
report that the client left.
"""

from __future__ import annotations

from socket import AF_UNIX
from typing import TYPE_CHECKING, cast

from gateway.http.chunked import ChunkedDecoder
from gateway.http.client_socket import FOREVER, ClientSocket, Phase
from gateway.http.head import (
    RequestHead,
    WireError,
    check_partial_head,
    oversize_error,
    strip_leading_crlf,
)
from gateway.http.proxyproto import parse_proxy_header

if TYPE_CHECKING:
    import asyncio

    from gateway.http.handler import ClientTunnel, Handler
    from gateway.http.shared import ServerState

# Bytes of later requests that are buffered while an exchange is open.
MAX_PIPELINED_BYTES = 64 * 1024
# Pipelined requests that are taken in one turn of the loop, so that one connection does
# not delay the others.
MAX_REQUESTS_A_TURN = 32
# Pieces of a held body are joined beyond this many: the overhead of a bytes object (33
# bytes, and its place in the list) exceeds a tiny piece.
MAX_BODY_PARTS = 1024
# An unread body up to this size is read and discarded instead of closing the
# connection.
SKIP_BODY_BYTES = 64 * 1024
CR = 0x0D

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _is_unix(transport: asyncio.BaseTransport) -> bool:
    """Whether the connection came through a Unix socket, whose peers have no address."""
    sock = transport.get_extra_info("socket")
    return sock is None or sock.family == AF_UNIX


class ClientConnection(ClientSocket):
    """Reads the requests of one client."""

    __slots__ = (
        "body_left",
        "cannot_drain",
        "head",
        "pumping",
        "scanned",
        "unparseable_backlog",
    )

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self.head: RequestHead | None = None
        self.body_left = 0
        self.scanned = 0  # bytes of an unfinished head that were checked
        self.pumping = False
        # More than MAX_PIPELINED_BYTES arrived behind an open exchange without the end
        # of a head: refused once the exchange is over.
        self.unparseable_backlog = False
        # The body is too long, or of unknown length, to be read and discarded.
        self.cannot_drain = False

    # -- connection ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        named = isinstance(peer, tuple)
        self.peer_ip = peer[0] if named else "unix"
        settings = self.state.settings
        if settings.proxy_protocol:
            self.phase = Phase.PREFACE
        self.deadline = self.state.now() + settings.head_timeout_s
        self.state.add(self)
        if not named and not _is_unix(transport):
            # Already reset: who sent it cannot be known, so it is not served.
            self.phase = Phase.CLOSED
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.phase = Phase.CLOSED
        self.deadline = FOREVER
        self.buf = b""
        self.state.remove(self)
        if self.tunnel is not None:
            self.tunnel.client_lost()
        elif self.handler is not None:
            handler, self.handler = self.handler, None
            handler.on_client_gone()

    def eof_received(self) -> bool:
        """Close on FIN: a half-closed client counts as gone, except in a tunnel."""
        if self.tunnel is not None:
            return self.tunnel.client_eof()
        return False

    def resume_writing(self) -> None:
        self.writable = True
        self.stall_at = 0.0
        if self.phase <= Phase.HEAD:
            self._pump()
        else:
            self._notify_writable()

    # -- bytes in -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase <= Phase.HEAD:
            self.buf = self.buf + data if self.buf else data
            self._pump()
        elif phase == Phase.BODY:
            self._take_body(data)
        elif phase == Phase.TUNNEL:
            assert self.tunnel is not None
            self.tunnel.from_client(data)
        elif phase == Phase.WAIT:
            self._buffer_pipelined(data)
        elif phase == Phase.SKIP:
            self._skip(data)
            self._pump()
        elif phase == Phase.LINGER:
            self._linger(data)

    def _pump(self) -> None:
        """Take requests off the buffer until one stays open or the buffer is empty."""
        if self.pumping:
            return
        self.pumping = True
        try:
            for _ in range(MAX_REQUESTS_A_TURN):
                if not self.buf or self.phase > Phase.HEAD or not self.writable:
                    break
                if self.phase == Phase.PREFACE:
                    more = self._take_preface()
                else:
                    more = self._take_head()
                if not more:
                    return
            else:
                self.state.loop.call_soon(self._pump)
        finally:
            self.pumping = False
        if self.phase <= Phase.HEAD:
            # Bound the requests that wait for the next turn of the loop, or for a full
            # write buffer to drain.
            if len(self.buf) > MAX_PIPELINED_BYTES:
                self.pause_reading()
            else:
                self.resume_reading()

    def _take_preface(self) -> bool:
        try:
            found = parse_proxy_header(self.buf)
        except WireError as error:
            self._refuse(error)
            return False
        if found is None:
            return False
        source, consumed = found
        self.buf = self.buf[consumed:]
        self.phase = Phase.IDLE
        if source is not None:
            self.state.set_source(self, source)
        return self.phase == Phase.IDLE

    def _take_head(self) -> bool:
        raw = self.buf
        if raw[0] == CR:
            raw = strip_leading_crlf(raw)
            if raw.startswith(b"\r\n"):
                self.refuse(400, "the request does not begin with a request line")
                return False
        end = raw.find(b"\r\n\r\n", max(0, self.scanned - 5)) + 4
        if end < len(b"\r\n\r\n"):
            return self._wait_for_head(raw)
        limit = self.state.settings.max_header_bytes
        if end > limit:
            self._refuse(oversize_error(raw, limit))
            return False
        self.scanned = 0
        self.buf = raw[end:]
        try:
            cached, own = self.state.heads.parse(raw if end == len(raw) else raw[:end])
        except WireError as error:
            self._refuse(error)
            return False
        self.head = head = cached.head
        length = own.length
        self.phase = Phase.WAIT
        self.deadline = FOREVER
        self.close_after = not head.keep_alive
        self.cannot_drain = (
            head.chunked or head.expect_continue or (length or 0) > SKIP_BODY_BYTES
        )
        handler = self.state.exchanges.open(self, cached, own)
        if self.phase != Phase.WAIT:
            return True  # refused or closed in ``open``
        if handler is None:
            return self._begin_skip(length)
        self.handler = handler
        return self._begin_body(handler, head, length)

    def _wait_for_head(self, raw: bytes) -> bool:
        settings = self.state.settings
        if self.phase == Phase.IDLE and raw:
            self.phase = Phase.HEAD
            self.deadline = self.state.now() + settings.head_timeout_s
        try:
            if len(raw) > settings.max_header_bytes or (
                len(raw) > settings.max_target_bytes + 64 and b"\r\n" not in raw
            ):
                raise oversize_error(raw, settings.max_header_bytes)
            check_partial_head(self.buf, self.scanned)
        except WireError as error:
            self._refuse(error)
        self.scanned = len(self.buf)
        return False

    def _refuse(self, error: WireError) -> None:
        self.refuse(error.status, error.reason, error.fields)

    # -- body ---------------------------------------------------------------------

    def _begin_body(
        self, handler: Handler, head: RequestHead, length: int | None
    ) -> bool:
        if head.chunked:
            self.decoder = ChunkedDecoder()
        elif not length:
            handler.on_body(b"") if handler.buffer_limit else handler.on_body_end()
            return True
        elif handler.buffer_limit and length > handler.buffer_limit:
            self._too_large(handler)
            return True
        elif len(self.buf) >= length:
            # The common case: the whole body arrived with the head.
            buf = self.buf
            self.buf = buf[length:]
            handler.on_body(buf if len(buf) == length else buf[:length])
            if not handler.buffer_limit:
                handler.on_body_end()
            return True
        else:
            self.body_left = length
        self.phase = Phase.BODY
        self.body_parts = []
        self.body_size = 0
        self.body_started_at = now = self.state.now()
        self.deadline = min(self.deadline, now + self.state.settings.head_timeout_s)
        if head.expect_continue and not self.buf:
            self.transport.write(CONTINUE)
        if self.buf:
            data, self.buf = self.buf, b""
            self._take_body(data)
        return self.phase <= Phase.HEAD

    def _take_body(self, data: bytes) -> None:
        handler = self.handler
        if handler is None:
            return
        if self.decoder is not None:
            pieces = self._decode_chunks(self.decoder, data)
            if pieces is None:
                return
            finished = self.decoder.done
        else:
            left = self.body_left
            if len(data) > left:
                self.buf = data[left:]
                data = data[:left]
            self.body_left = left = left - len(data)
            pieces = [data]
            finished = not left
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.body_size += len(piece)
            if not handler.buffer_limit:
                handler.on_body(piece)
            elif self.body_size > handler.buffer_limit:
                self._too_large(handler)
                return
            else:
                self._hold_body(piece)
        if finished:
            self._end_body(handler)

    def _hold_body(self, piece: bytes) -> None:
        parts = self.body_parts
        parts.append(piece)
        if len(parts) > MAX_BODY_PARTS:
            self.body_parts = [b"".join(parts)]

    def _decode_chunks(
        self, decoder: ChunkedDecoder, data: bytes
    ) -> list[bytes] | None:
        try:
            found, consumed = decoder.feed(data)
        except WireError as error:
            self.close_after = True
            if self.handler is not None:
                self.handler.on_body_refused(error.status, error.reason)
            return None
        if consumed < len(data):
            self.buf = data[consumed:]
        return found

    def _end_body(self, handler: Handler) -> None:
        self.decoder = None
        if self.handler is not handler:
            return
        self.phase = Phase.WAIT
        self.deadline = self.stall_at or FOREVER
        if handler.buffer_limit:
            parts, self.body_parts = self.body_parts, []
            handler.on_body(b"".join(parts))
        else:
            handler.on_body_end()
        if self.buf and self.phase <= Phase.HEAD:
            self._pump()

    def _too_large(self, handler: Handler) -> None:
        self.body_parts = []
        self.close_after = True
        self.phase = Phase.BODY  # the rest stays unread
        handler.on_body_refused(
            413, f"the body is larger than {int(handler.buffer_limit)} bytes"
        )

    def _begin_skip(self, length: int | None) -> bool:
        """Discard the body of a request that was answered early, or close.

        ``length``: of the body in bytes; None: no body. True: the next request may be
        read.
        """
        if self.cannot_drain:
            self._begin_linger()
            return False
        if self.close_after and not length:
            self.finish()
            return False
        self.body_left = length or 0
        self.phase = Phase.SKIP
        self.deadline = self.state.now() + self.state.settings.head_timeout_s
        data, self.buf = self.buf, b""
        self._skip(data)
        return self.phase <= Phase.HEAD

    def _skip(self, data: bytes) -> None:
        left = self.body_left
        if len(data) < left:
            self.body_left = left - len(data)
            return
        self.buf = data[left:]
        self.body_left = 0
        if self.close_after:
            self.finish()
        else:
            self._become_idle()

    def _buffer_pipelined(self, data: bytes) -> None:
        """Buffer bytes of later requests while an exchange is open."""
        if self.unparseable_backlog:
            return
        self.buf = self.buf + data if self.buf else data
        if len(self.buf) > MAX_PIPELINED_BYTES:
            if b"\r\n\r\n" in self.buf:
                self.pause_reading()
            else:
                self.unparseable_backlog = True

    @property
    def body_pending(self) -> bool:
        """Whether answering now leaves an unread body, so that the connection ends."""
        return self.phase == Phase.BODY or (
            self.cannot_drain and self.phase == Phase.WAIT and self.handler is None
        )

    # -- answers ------------------------------------------------------------------

    def exchange_done(self, *, keep: bool) -> None:
        """Go on with the next request, or close: the answer is written whole."""
        body_unread = self.phase == Phase.BODY
        self.handler = None
        if self.phase == Phase.CLOSED:
            return
        closing = not keep or self.close_after
        if body_unread or (closing and self.buf):
            self._begin_linger()
        elif closing:
            self.finish()
        elif self.unparseable_backlog:
            self.refuse(400, "no request ends within the bytes that were sent")
        else:
            self._become_idle()
            self._pump()

    def begin_tunnel(self, tunnel: ClientTunnel, handler: Handler) -> bytes:
        """Pass all later bytes to ``tunnel``; returns those already received.

        ``handler`` gets only the time limits from now on.
        """
        self.tunnel = tunnel
        self.handler = handler
        self.phase = Phase.TUNNEL
        self.deadline = self.state.now() + 1.0
        early, self.buf = self.buf, b""
        return early

    def _become_idle(self) -> None:
        self.phase = Phase.IDLE
        self.head = None
        self.deadline = self.state.now() + self.state.settings.keepalive_timeout_s
        if self.state.draining and not self.buf:
            self.finish()
