"""A client's connection below HTTP: back-pressure, time limits, refusals, closing."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from gateway.http.answer import status_line

if TYPE_CHECKING:
    from gateway.http.chunked import ChunkedDecoder
    from gateway.http.handler import ClientTunnel, Handler
    from gateway.http.shared import ServerState

# After a refusal bytes are still read and discarded, so that the answer is not lost to
# a reset (RFC 9112 section 9.6): at most this many, for at most so many seconds.
LINGER_BYTES = 64 << 20
LINGER_S = 2.0
# Interval in seconds at which the rate of an arriving body is checked.
RATE_CHECK_S = 2.0
FOREVER = float("inf")
# SO_LINGER with a timeout of zero makes the kernel send RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# ``tcpi_state`` (Linux, tcp.h): the peer has reset, or has sent FIN.
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8
OVERLOADED = (
    b"%bRetry-After: 1\r\nContent-Length: %d\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\n\r\n%b"
)


class Phase:
    """State of a connection.

    Plain integers: looking up a member of an enumeration takes 60 ns.
    """

    PREFACE: Final = 0  # a PROXY header is expected
    IDLE: Final = 1  # no byte of the next request has arrived
    HEAD: Final = 2
    BODY: Final = 3
    SKIP: Final = 4  # the body of a request that was already answered
    WAIT: Final = 5  # the request is read, its exchange is open
    TUNNEL: Final = 6
    LINGER: Final = 7
    CLOSED: Final = 8


class ClientSocket(asyncio.Protocol):
    """Base of ``ClientConnection``: what does not depend on a request's bytes."""

    __slots__ = (
        "body_parts",
        "body_size",
        "body_started_at",
        "buf",
        "close_after",
        "counted_as",
        "deadline",
        "decoder",
        "handler",
        "lingered",
        "paused_at",
        "peer_ip",
        "phase",
        "reading_paused",
        "stall_at",
        "stall_left",
        "state",
        "tls",
        "transport",
        "tunnel",
        "writable",
    )

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.tls = state.settings.tls
        self.peer_ip = ""
        self.counted_as = ""  # key under which the connection counts for its address
        self.buf = b""
        self.phase: int = Phase.IDLE
        self.handler: Handler | None = None
        self.tunnel: ClientTunnel | None = None
        self.decoder: ChunkedDecoder | None = None
        self.body_parts: list[bytes] = []  # of a body that is held
        self.body_size = 0  # bytes of the current body that have arrived
        self.body_started_at = 0.0
        self.deadline = FOREVER
        self.stall_at = 0.0  # when a write without progress times out; 0: none
        self.stall_left = FOREVER  # unsent bytes at the last check
        self.paused_at = 0.0
        self.lingered = 0
        self.writable = True
        self.reading_paused = False
        self.close_after = False

    @property
    def write_timeout_s(self) -> float:
        """Seconds for which a write may make no progress."""
        return self.state.settings.write_timeout_s

    # -- back-pressure ------------------------------------------------------------

    def pause_writing(self) -> None:
        self.writable = False
        self.stall_at = self.state.now() + self.write_timeout_s
        self.stall_left = self.transport.get_write_buffer_size()
        self.deadline = min(self.deadline, self.stall_at)
        self._notify_writable()

    def _notify_writable(self) -> None:
        if self.tunnel is not None:
            self.tunnel.client_writable(writable=self.writable)
        elif self.handler is not None:
            self.handler.on_client_writable(self.writable)

    def pause_reading(self) -> None:
        if not self.reading_paused and self.phase != Phase.CLOSED:
            self.reading_paused = True
            self.paused_at = self.state.now()
            self.transport.pause_reading()
            self.state.watch_paused(self)

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.reading_paused = False
            self.state.paused.discard(self)
            # Time in which we did not read does not count against the body's rate.
            self.body_started_at += self.state.now() - self.paused_at
            if self.phase != Phase.CLOSED:
                self.transport.resume_reading()

    def peer_closed(self) -> bool:
        """Whether the client closed its end while the socket is not being read."""
        sock = self.transport.get_extra_info("socket")
        try:
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:  # not TCP
            return False
        # In a tunnel a FIN ends one direction only.
        return state == TCP_CLOSE or (
            state == TCP_CLOSE_WAIT and self.phase != Phase.TUNNEL
        )

    # -- refusals and closing -----------------------------------------------------

    def refuse(self, status: int, reason: str, fields: bytes = b"") -> None:
        """Answer bytes that are not a request, then close."""
        if self.phase == Phase.CLOSED:
            return
        self.state.count(f"refused_{status}")
        more, body = self.state.exchanges.refuse_wire(status, reason)
        self.transport.write(
            b"%b%b%bContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status_line(status), fields, more, len(body), body)
        )
        self._begin_linger()

    def reject(self, reason: str) -> None:
        """Answer 503 and close: a cap on connections is exceeded."""
        body = b'{"error":{"message":"%b","type":"overloaded","param":null,' % (
            reason.encode()
        )
        body += b'"code":"overloaded"}}'
        self.transport.write(OVERLOADED % (status_line(503), len(body), body))
        self._begin_linger()

    def _begin_linger(self) -> None:
        """Half-close and go on reading, so that the client receives the answer."""
        if self.phase == Phase.CLOSED:
            return
        self.phase = Phase.LINGER
        self.handler = None
        self.decoder = None
        self.body_parts = []
        self.buf = b""
        self.lingered = 0
        self.stall_left = FOREVER
        self.deadline = self.state.now() + LINGER_S
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
        """Close once the write buffer has drained, or stops draining."""
        if self.phase == Phase.CLOSED:
            return
        self.phase = Phase.LINGER
        self.buf = b""
        self.state.paused.discard(self)
        self.stall_left = FOREVER
        self.deadline = self.state.now() + self.write_timeout_s
        self.transport.close()

    def abort(self, *, reset: bool = False) -> None:
        """Close at once, so that the client sees an incomplete answer.

        ``reset``: send RST, because the answer is delimited by the close alone and a
        FIN would make it look complete.
        """
        self.handler = None
        if self.phase == Phase.CLOSED:
            return
        if reset:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def close_if_idle(self) -> None:
        """Close a connection that has no request."""
        if self.phase <= Phase.IDLE and not self.buf:
            self.finish()

    # -- time limits --------------------------------------------------------------

    def on_deadline(self, now: float) -> None:
        """Enforce the time limits; the listener's sweep calls this after ``deadline``."""
        phase = self.phase
        if self.stall_at and now >= self.stall_at and not self._has_progress(now):
            self.state.count("write_stalled")
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
            if self.deadline <= now and not self._has_progress(now):
                self.transport.abort()
        else:
            self.finish()

    def _has_progress(self, now: float) -> bool:
        """Whether the client has read any unsent bytes since the last check."""
        left = self.transport.get_write_buffer_size()
        if not 0 < left < self.stall_left:
            return False
        self.stall_left = left
        self.deadline = now + self.write_timeout_s
        if self.stall_at:
            self.stall_at = self.deadline
        return True

    def _check_body_rate(self, now: float) -> None:
        rate = self.state.settings.min_body_rate
        elapsed = now - self.body_started_at
        self.deadline = min(self.deadline, now + RATE_CHECK_S)
        if self.reading_paused or self.body_size >= rate * elapsed:
            return
        self.close_after = True
        if self.handler is not None:
            self.handler.on_body_refused(408, "the body arrives too slowly")
