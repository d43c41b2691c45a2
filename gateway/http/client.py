"""The client's side of the wire: one protocol object for each accepted connection.

It finds the end of a head, hands the head to the pure rules, frames the body by itself
(so that nothing a parser might swallow stays unseen), and gives both to the service.
One exchange at a time: pipelined requests wait in ``buf``, in order. While an exchange
is open the socket stays read, because a paused socket would not show that the client
left.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from gateway.http.chunked import ChunkedDecoder
from gateway.http.head import (
    RequestHead,
    WireError,
    check_partial_head,
    oversize_error,
    strip_leading_crlf,
)
from gateway.http.proxyproto import parse_proxy_header

if TYPE_CHECKING:
    from gateway.http.handler import Handler
    from gateway.http.listener import Listener
    from gateway.http.tunnel import Tunnel

# Data of later requests held while an exchange is open (wire rule of the design).
MAX_PIPELINED_BYTES = 64 * 1024
# After a refusal: what is still read and thrown away so that the answer is not lost
# to a reset (RFC 9112 9.6), and how long.
LINGER_BYTES = 64 << 20
LINGER_S = 2.0
# Pipelined requests that are taken in one turn of the loop: others want their turn too.
MAX_REQUESTS_A_TURN = 32
# Pieces of a held body are joined beyond this many: tiny ones cost more than they hold.
MAX_BODY_PARTS = 1024
# An unread body up to this size is skipped instead of closing the connection.
SKIP_BODY_BYTES = 64 * 1024
RATE_CHECK_S = 2.0
FOREVER = float("inf")
CR = 0x0D
# Lingering for no time makes the kernel send RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# ``tcpi_state`` of Linux' tcp.h: the peer has reset, or said that it sends no more.
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS: dict[int, bytes] = {s.value: s.phrase.encode() for s in HTTPStatus}


def reason_phrase(status: int) -> bytes:
    """Reason phrase of the status line."""
    return REASONS.get(status, b"Unknown")


class Phase(IntEnum):
    """Where a connection stands."""

    PREFACE = 0  # a PROXY header is due
    IDLE = 1  # nothing of the next request has come
    HEAD = 2
    BODY = 3
    SKIP = 4  # body of a request that is answered already
    WAIT = 5  # request read, exchange open
    TUNNEL = 6
    LINGER = 7
    CLOSED = 8


class ClientConnection(asyncio.Protocol):
    """Reads requests and writes answers of one client."""

    __slots__ = (
        "body_left",
        "body_parts",
        "body_size",
        "body_started_at",
        "buf",
        "close_after",
        "counted_as",
        "deadline",
        "decoder",
        "handler",
        "head",
        "lingered",
        "listener",
        "paused_at",
        "peer_ip",
        "phase",
        "poisoned",
        "pumping",
        "reading_paused",
        "scanned",
        "stall_at",
        "stall_left",
        "transport",
        "tunnel",
        "unskippable",
        "writable",
    )

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.peer_ip = ""
        self.counted_as = ""  # among the connections of one address
        self.buf = b""
        self.phase = Phase.IDLE
        self.handler: Handler | None = None
        self.head: RequestHead | None = None
        self.decoder: ChunkedDecoder | None = None
        self.body_left = 0
        self.body_parts: list[bytes] = []
        self.body_size = 0
        self.body_started_at = 0.0
        self.deadline = FOREVER
        self.stall_at = 0.0
        self.stall_left = FOREVER  # unsent bytes when it was last looked at
        self.paused_at = 0.0
        self.lingered = 0
        self.scanned = 0  # bytes of an unfinished head that were looked at
        self.writable = True
        self.reading_paused = False
        self.pumping = False
        self.poisoned = False
        self.close_after = False
        # A body follows the head that is too long to be passed over.
        self.unskippable = False
        self.tunnel: Tunnel | None = None

    # -- connection ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.peer_ip = peer[0] if isinstance(peer, tuple) else "unix"
        settings = self.listener.settings
        if settings.proxy_protocol:
            self.phase = Phase.PREFACE
        self.deadline = self.listener.now() + settings.head_timeout_s
        self.listener.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.phase = Phase.CLOSED
        self.deadline = FOREVER
        self.buf = b""
        self.listener.forget(self)
        if self.tunnel is not None:
            self.tunnel.client_lost()
        elif self.handler is not None:
            handler, self.handler = self.handler, None
            handler.on_client_gone()

    def eof_received(self) -> bool:
        """Take the end of the client's bytes as its leaving, except in a tunnel."""
        if self.tunnel is not None:
            return self.tunnel.client_eof()
        return False

    def pause_writing(self) -> None:
        self.writable = False
        self.stall_at = self.listener.now() + self.listener.settings.write_timeout_s
        self.stall_left = self.transport.get_write_buffer_size()
        self.deadline = min(self.deadline, self.stall_at)
        self._tell_writable()

    def resume_writing(self) -> None:
        self.writable = True
        self.stall_at = 0.0
        if self.phase <= Phase.HEAD:
            self._pump()
        else:
            self._tell_writable()

    def _tell_writable(self) -> None:
        if self.tunnel is not None:
            self.tunnel.client_writable(writable=self.writable)
        elif self.handler is not None:
            self.handler.on_client_writable(self.writable)

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
            self._hold_back(data)
        elif phase == Phase.SKIP:
            self._skip(data)
            self._pump()
        elif phase == Phase.LINGER:
            self._linger(data)

    def _pump(self) -> None:
        """Take requests off the buffer until one stays open or bytes run out."""
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
                self.listener.loop.call_soon(self._pump)
        finally:
            self.pumping = False
        if self.phase <= Phase.HEAD:
            # What waits here for its turn, or for answers to be taken, is bounded.
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
            self.listener.take_proxied(self, source)
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
        limit = self.listener.settings.max_header_bytes
        if end > limit:
            self._refuse(oversize_error(raw, limit))
            return False
        self.scanned = 0
        self.buf = raw[end:]
        try:
            known, changing = self.listener.heads.parse(
                raw if end == len(raw) else raw[:end]
            )
        except WireError as error:
            self._refuse(error)
            return False
        self.head = head = known.head
        length = changing.length
        self.phase = Phase.WAIT
        self.deadline = FOREVER
        self.close_after = not head.keep_alive
        self.unskippable = (
            head.chunked or head.expect_continue or (length or 0) > SKIP_BODY_BYTES
        )
        handler = self.listener.service.open(self, known, changing)
        if self.phase != Phase.WAIT:
            return True  # refused, or closed, while it was opened
        if handler is None:
            return self._begin_skip(length)
        self.handler = handler
        return self._begin_body(handler, head, length)

    def _wait_for_head(self, raw: bytes) -> bool:
        settings = self.listener.settings
        if self.phase == Phase.IDLE and raw:
            self.phase = Phase.HEAD
            self.deadline = self.listener.now() + settings.head_timeout_s
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
            handler.on_body(b"") if handler.hold else handler.on_body_end()
            return True
        elif handler.hold and length > handler.hold:
            self._too_large(handler)
            return True
        elif len(self.buf) >= length:
            # The common case: the whole body came with the head.
            buf = self.buf
            self.buf = buf[length:]
            handler.on_body(buf if len(buf) == length else buf[:length])
            if not handler.hold:
                handler.on_body_end()
            return True
        else:
            self.body_left = length
        self.phase = Phase.BODY
        self.body_parts = []
        self.body_size = 0
        self.body_started_at = now = self.listener.now()
        self.deadline = min(self.deadline, now + self.listener.settings.head_timeout_s)
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
            if not handler.hold:
                handler.on_body(piece)
            elif self.body_size > handler.hold:
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
        if handler.hold:
            parts, self.body_parts = self.body_parts, []
            handler.on_body(b"".join(parts))
        else:
            handler.on_body_end()
        if self.buf and self.phase <= Phase.HEAD:
            self._pump()

    def _too_large(self, handler: Handler) -> None:
        self.body_parts = []
        self.close_after = True
        self.phase = Phase.BODY  # it stays unread
        handler.on_body_refused(
            413, f"the body is larger than {int(handler.hold)} bytes"
        )

    def _begin_skip(self, length: int | None) -> bool:
        """The answer is out before the body was read: pass over it, or close."""
        if self.unskippable:
            self._begin_linger()
            return False
        if self.close_after and not length:
            self.finish()
            return False
        self.body_left = length or 0
        self.phase = Phase.SKIP
        self.deadline = self.listener.now() + self.listener.settings.head_timeout_s
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

    def _hold_back(self, data: bytes) -> None:
        """Keep what comes while an exchange is open; it belongs to later requests."""
        if self.poisoned:
            return
        self.buf = self.buf + data if self.buf else data
        if len(self.buf) > MAX_PIPELINED_BYTES:
            if b"\r\n\r\n" in self.buf:
                self.pause_reading()
            else:
                self.poisoned = True

    def pause_reading(self) -> None:
        if not self.reading_paused and self.phase != Phase.CLOSED:
            self.reading_paused = True
            self.paused_at = self.listener.now()
            self.transport.pause_reading()
            self.listener.watch(self)

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            self.listener.paused.discard(self)
            # The client is not to blame for the time that nobody read.
            self.body_started_at += self.listener.now() - self.paused_at
            if self.phase != Phase.CLOSED:
                self.transport.resume_reading()

    def has_left(self) -> bool:
        """Whether the client is gone although its socket is not read."""
        sock = self.transport.get_extra_info("socket")
        try:
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:  # not TCP
            return False
        # In a tunnel the end of one direction is not the end.
        return state == TCP_CLOSE or (
            state == TCP_CLOSE_WAIT and self.phase != Phase.TUNNEL
        )

    @property
    def body_pending(self) -> bool:
        """Whether a body is left that ends the connection if it is answered now."""
        return self.phase == Phase.BODY or (
            self.unskippable and self.phase == Phase.WAIT and self.handler is None
        )

    # -- answers ------------------------------------------------------------------

    def exchange_done(self, *, keep: bool) -> None:
        """The answer is written whole: go on with the next request, or close."""
        body_unread = self.phase == Phase.BODY
        self.handler = None
        if self.phase == Phase.CLOSED:
            return
        closing = not keep or self.close_after
        if body_unread or (closing and self.buf):
            self._begin_linger()
        elif closing:
            self.finish()
        elif self.poisoned:
            self.refuse(400, "no request ends within the bytes that were sent")
        else:
            self._become_idle()
            self._pump()

    def _become_idle(self) -> None:
        self.phase = Phase.IDLE
        self.head = None
        self.deadline = self.listener.now() + self.listener.settings.keepalive_timeout_s
        if self.listener.draining and not self.buf:
            self.finish()

    def refuse(self, status: int, reason: str, fields: bytes = b"") -> None:
        """Answer bytes that are no request, then close."""
        if self.phase == Phase.CLOSED:
            return
        more, body = self.listener.service.refuse_wire(self, status, reason)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\n%b%bContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status, reason_phrase(status), fields, more, len(body), body)
        )
        self._begin_linger()

    def _begin_linger(self) -> None:
        """Close so that the answer arrives although the client is still sending."""
        if self.phase == Phase.CLOSED:
            return
        self.phase = Phase.LINGER
        self.handler = None
        self.decoder = None
        self.body_parts = []
        self.buf = b""
        self.lingered = 0
        self.stall_left = FOREVER
        self.deadline = self.listener.now() + LINGER_S
        self.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _linger(self, data: bytes) -> None:
        self.lingered += len(data)
        if self.lingered > LINGER_BYTES:
            self.transport.abort()

    def finish(self) -> None:
        """Close when what was written has left; not later than it stops moving."""
        if self.phase == Phase.CLOSED:
            return
        self.phase = Phase.LINGER
        self.buf = b""
        self.listener.paused.discard(self)
        self.stall_left = FOREVER
        self.deadline = self.listener.now() + self.listener.settings.write_timeout_s
        self.transport.close()

    def abort(self, *, reset: bool = False) -> None:
        """Break the connection: the client must see that the answer is not whole.

        ``reset``: only the close says where the answer ends, so it must not look like
        an ordinary one.
        """
        self.handler = None
        if self.phase == Phase.CLOSED:
            return
        if reset:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def close_if_idle(self) -> None:
        if self.phase <= Phase.IDLE and not self.buf:
            self.finish()

    # -- time ---------------------------------------------------------------------

    def on_deadline(self, now: float) -> None:
        """Act on a time limit that has passed; called by the listener's sweep."""
        phase = self.phase
        if self.stall_at and now >= self.stall_at and not self._moves(now):
            self.listener.count("write_stalled")
            self.transport.abort()
        elif phase in (Phase.WAIT, Phase.TUNNEL, Phase.BODY):
            self.deadline = self.stall_at or FOREVER
            if phase == Phase.BODY:
                self._check_body_rate(now)
            if self.handler is not None:
                self.handler.on_deadline(now)
        elif phase == Phase.HEAD or (phase <= Phase.IDLE and self.buf):
            self.refuse(408, "the head did not arrive in time")
        elif phase == Phase.LINGER:
            if self.deadline <= now and not self._moves(now):
                self.transport.abort()
        else:
            self.finish()

    def _moves(self, now: float) -> bool:
        """Whether the client has taken any of what waits for it since the last look."""
        left = self.transport.get_write_buffer_size()
        if not 0 < left < self.stall_left:
            return False
        self.stall_left = left
        self.deadline = now + self.listener.settings.write_timeout_s
        if self.stall_at:
            self.stall_at = self.deadline
        return True

    def _check_body_rate(self, now: float) -> None:
        rate = self.listener.settings.min_body_rate
        elapsed = now - self.body_started_at
        self.deadline = min(self.deadline, now + RATE_CHECK_S)
        if self.reading_paused or self.body_size >= rate * elapsed:
            return
        self.close_after = True
        if self.handler is not None:
            self.handler.on_body_refused(408, "the body arrives too slowly")
