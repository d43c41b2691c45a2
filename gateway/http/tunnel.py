"""After an upgrade: bytes and back-pressure both ways, until either side ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.answer import status_line

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.http.handler import ClientSide, Handler, UpstreamSide
    from gateway.http.response import AnswerHead


class Tunnel:
    """Joins a client's connection to an upstream's.

    ``watch_client`` gets every piece of bytes instead of the upstream, and calls
    ``pass_up``; ``watch_upstream`` gets it after the client. ``on_end`` is called once, when either side is
    closed.
    """

    __slots__ = (
        "active",
        "bytes_down",
        "bytes_up",
        "client",
        "client_ended",
        "client_held",
        "halves",
        "on_end",
        "upstream",
        "upstream_takes",
        "watch_client",
        "watch_upstream",
    )

    def __init__(
        self,
        client: ClientSide,
        upstream: UpstreamSide,
        on_end: Callable[[], None],
    ) -> None:
        self.client = client
        self.upstream = upstream
        self.on_end = on_end
        self.active = True
        self.halves = 0  # sides that sent FIN
        self.client_ended = False  # the client did
        # The client is read while it is not held, and the upstream takes bytes.
        self.client_held = False
        self.upstream_takes = True
        self.bytes_up = 0
        self.bytes_down = 0
        self.watch_client: Callable[[bytes], None] | None = None
        self.watch_upstream: Callable[[bytes], None] | None = None

    def start(self, answer: AnswerHead, handler: Handler, leftover: bytes) -> None:
        """Pass the 101 answer on and join both sides.

        ``leftover``: bytes of the new protocol that arrived with the answer.
        """
        self.upstream.begin_tunnel(self)
        early = self.client.begin_tunnel(self, handler)
        self.client.transport.write(
            b"%b%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
            % (status_line(101), answer.forward, answer.upgrade)
        )
        if leftover:
            self.from_upstream(leftover)
        if early:
            self.from_client(early)

    def from_client(self, data: bytes) -> None:
        self.bytes_up += len(data)
        if self.watch_client is None:
            self.pass_up(data)
        else:
            self.watch_client(data)

    def pass_up(self, data: bytes) -> None:
        """Send bytes to the upstream."""
        if self.active and not self.client_ended:
            self.upstream.transport.write(data)

    def hold_client(self, held: bool) -> None:
        """Stop or continue reading the client."""
        if held != self.client_held:
            self.client_held = held
            self._read_client()

    def from_upstream(self, data: bytes) -> None:
        self.bytes_down += len(data)
        if self.active:
            self.client.transport.write(data)
        if self.watch_upstream is not None:
            self.watch_upstream(data)

    def client_writable(self, *, writable: bool) -> None:
        transport = self.upstream.transport
        if self.active and not transport.is_closing():
            transport.resume_reading() if writable else transport.pause_reading()

    def upstream_writable(self, *, writable: bool) -> None:
        self.upstream_takes = writable
        self._read_client()

    def _read_client(self) -> None:
        client = self.client
        if self.active and not client.transport.is_closing():
            if self.upstream_takes and not self.client_held:
                client.resume_reading()
            else:
                client.pause_reading()

    def client_eof(self) -> bool:
        self.client_ended = True
        return self._half_closed(self.client.transport, self.upstream.transport)

    def upstream_eof(self) -> bool:
        return self._half_closed(self.upstream.transport, self.client.transport)

    def _half_closed(self, own: asyncio.Transport, other: asyncio.Transport) -> bool:
        """Pass a half-close on where both transports can; True keeps the other half.

        The second half-close ends the tunnel: neither side would close it otherwise.
        """
        self.halves += 1
        if not (self.active and own.can_write_eof() and other.can_write_eof()):
            return False  # TLS has no half-close
        other.write_eof()
        if self.halves == 1:
            return True
        self.upstream.transport.close()
        self.client.finish()
        self._end()
        return False

    def client_lost(self) -> None:
        if self.active:
            self.upstream.transport.abort()
            self._end()

    def upstream_lost(self) -> None:
        if self.active:
            self.client.finish()
            self._end()

    def break_off(self) -> None:
        """Close both sides at once (time limit, drain)."""
        if self.active:
            self.upstream.transport.abort()
            self.client.finish()
            self._end()

    def _end(self) -> None:
        self.active = False
        self.on_end()
