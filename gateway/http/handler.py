"""Interfaces between the two sides of the wire and the exchange.

``ClientSide`` and ``UpstreamSide`` are what an exchange may use of its connections.
``ExchangeFactory``, ``Handler`` and ``AnswerSink`` are what the connections call; the
``proxy`` package implements them. The two tunnel protocols are what a connection calls
after an upgrade. They are structural types, so that neither side imports the other, and
another implementation of a side (an HTTP/2 upstream) needs no change outside ``http``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from gateway.http.heads import CachedHead, RequestFields
    from gateway.http.request_writer import OutgoingRequest
    from gateway.http.response import AnswerHead


class ExchangeFactory(Protocol):
    """Opens an exchange for every request head."""

    def open(
        self, conn: ClientSide, cached: CachedHead, own: RequestFields
    ) -> Handler | None:
        """Start an exchange. None: already answered, the body is not needed."""
        ...

    def refuse_wire(self, status: int, reason: str) -> tuple[bytes, bytes]:
        """Header lines and body of the answer to bytes that are not a request."""
        ...


class Handler(Protocol):
    """One exchange, as seen from the client's connection."""

    # Largest body in bytes that is buffered and passed whole to ``on_body``; 0: pass
    # each piece on as it arrives.
    buffer_limit: int

    def on_body(self, body: bytes) -> None:
        """Handle the whole body (``buffer_limit`` > 0), or one piece of it."""
        ...

    def on_body_end(self) -> None:
        """Handle the end of a body that was passed in pieces."""
        ...

    def on_body_refused(self, status: int, reason: str) -> None:
        """End the exchange: the body is too large, too slow, or malformed."""
        ...

    def on_client_gone(self) -> None:
        """Handle the loss of the client's connection."""
        ...

    def on_client_writable(self, writable: bool) -> None:
        """Handle the client's write buffer falling below or exceeding its limit."""
        ...

    def on_deadline(self, now: float) -> None:
        """Check the time limits; ``now`` is the loop's clock in seconds."""
        ...


class AnswerSink(Protocol):
    """One exchange, as seen from the upstream's connection."""

    def on_connected(self, up: UpstreamSide) -> None: ...

    def on_connect_failed(self, status: int, reason: str) -> None: ...

    def on_interim(self, status: int, lines: bytes) -> None:
        """Handle an interim answer (103); ``lines`` are complete header lines."""
        ...

    def on_answer_head(self, answer: AnswerHead) -> None: ...

    def on_answer_body(self, data: bytes) -> None: ...

    def on_answer_end(self, complete: bool) -> None: ...

    def on_answer_flush(self) -> None:
        """Write what was collected: one read from the upstream is fully parsed."""
        ...

    def on_upgraded(self, leftover: bytes) -> None: ...

    def on_upstream_lost(self, status: int, reason: str, *, retry: bool) -> None:
        """Handle the loss of the connection before the answer's head was complete."""
        ...

    def on_upstream_writable(self, writable: bool) -> None: ...


class ServerConnection(Protocol):
    """A client's connection, as seen from the listener and its shared state."""

    transport: asyncio.Transport
    peer_ip: str
    counted_as: str  # key under which the connection counts for its address
    deadline: float  # next check of the time limits, on the loop's clock

    def on_deadline(self, now: float) -> None:
        """Enforce the time limits; ``now`` is the loop's clock in seconds."""
        ...

    def reject(self, reason: str) -> None:
        """Answer 503 and close: a cap on connections is exceeded."""
        ...

    def peer_closed(self) -> bool:
        """Whether the client closed its end while the socket is not being read."""
        ...

    def close_if_idle(self) -> None:
        """Close a connection that has no request."""
        ...


class ClientSide(Protocol):
    """A client's connection, as seen from an exchange or a tunnel."""

    transport: asyncio.Transport
    peer_ip: str
    tls: bool
    writable: bool  # the write buffer is below its high-water mark
    close_after: bool  # close once the current answer is written
    deadline: float  # next check of the time limits, on the loop's clock

    @property
    def body_pending(self) -> bool:
        """Whether answering now leaves an unread body, so that the connection ends."""
        ...

    @property
    def write_timeout_s(self) -> float:
        """Seconds for which a write may make no progress."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def exchange_done(self, *, keep: bool) -> None:
        """Go on with the next request, or close: the answer is written whole."""
        ...

    def begin_tunnel(self, tunnel: ClientTunnel, handler: Handler) -> bytes:
        """Pass all later bytes to ``tunnel``; returns those already received.

        ``handler`` gets only the time limits from now on.
        """
        ...

    def finish(self) -> None:
        """Close once the write buffer has drained."""
        ...

    def abort(self, *, reset: bool = False) -> None:
        """Close at once, so that the client sees an incomplete answer."""
        ...


class UpstreamAddress(Protocol):
    """What a request head needs of the host that it is sent to."""

    @property
    def authority(self) -> bytes:
        """Value of the Host field."""
        ...

    @property
    def base_path(self) -> bytes:
        """Prefix of every request's path, without a trailing slash."""
        ...


class UpstreamSide(Protocol):
    """A connection to an upstream."""

    transport: asyncio.Transport
    writable: bool  # the write buffer is below its high-water mark
    reusable: bool  # may carry another exchange after this one
    idle_since: float  # when it became idle, on the loop's clock

    @property
    def target(self) -> UpstreamAddress:
        """The address that it is connected to."""
        ...

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
        ...

    def write_body(self, data: bytes) -> None:
        """Send one piece of a streamed body."""
        ...

    def end_body(self) -> None:
        """Send the end of a streamed body."""
        ...

    def release(self) -> None:
        """Give the connection back after a whole answer."""
        ...

    def abandon(self) -> None:
        """Close at once: the exchange ended before its answer did."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def begin_tunnel(self, tunnel: UpstreamTunnel) -> None:
        """Pass all later bytes to ``tunnel``."""
        ...

    def close(self) -> None:
        """Close; the connection carries no further exchange."""
        ...

    def is_available(self) -> bool:
        """Whether an idle connection can carry an exchange."""
        ...

    def has_expired(self, now: float, keepalive_s: float) -> bool:
        """Whether it was idle for longer than ``keepalive_s``, or is too old."""
        ...


class ClientTunnel(Protocol):
    """A tunnel, as seen from the client's connection."""

    def from_client(self, data: bytes) -> None: ...

    def client_writable(self, *, writable: bool) -> None: ...

    def client_eof(self) -> bool: ...

    def client_lost(self) -> None: ...


class UpstreamTunnel(Protocol):
    """A tunnel, as seen from the upstream's connection."""

    def from_upstream(self, data: bytes) -> None: ...

    def upstream_writable(self, *, writable: bool) -> None: ...

    def upstream_eof(self) -> bool: ...

    def upstream_lost(self) -> None: ...
