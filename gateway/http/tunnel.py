"""After an upgrade: bytes both ways, back-pressure both ways, until either side ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.http.client import ClientConnection
    from gateway.http.upstream import UpstreamConnection


class Tunnel:
    """Joins a client's connection to an upstream's.

    ``watch_client`` and ``watch_upstream`` see every piece of bytes after it has been
    passed on (metering by frames); ``on_end`` is called once, when either side is gone.
    """

    __slots__ = (
        "bytes_down",
        "bytes_up",
        "client",
        "halves",
        "on_end",
        "open",
        "upstream",
        "watch_client",
        "watch_upstream",
    )

    def __init__(
        self,
        client: ClientConnection,
        upstream: UpstreamConnection,
        on_end: Callable[[], None],
    ) -> None:
        self.client = client
        self.upstream = upstream
        self.on_end = on_end
        self.open = True
        self.halves = 0  # sides that said that they will send no more
        self.bytes_up = 0
        self.bytes_down = 0
        self.watch_client: Callable[[bytes], None] | None = None
        self.watch_upstream: Callable[[bytes], None] | None = None

    def from_client(self, data: bytes) -> None:
        self.bytes_up += len(data)
        if self.open:
            self.upstream.transport.write(data)
        if self.watch_client is not None:
            self.watch_client(data)

    def from_upstream(self, data: bytes) -> None:
        self.bytes_down += len(data)
        if self.open:
            self.client.transport.write(data)
        if self.watch_upstream is not None:
            self.watch_upstream(data)

    def client_writable(self, *, writable: bool) -> None:
        transport = self.upstream.transport
        if self.open and not transport.is_closing():
            transport.resume_reading() if writable else transport.pause_reading()

    def upstream_writable(self, *, writable: bool) -> None:
        client = self.client
        if self.open and not client.transport.is_closing():
            client.resume_reading() if writable else client.pause_reading()

    def client_eof(self) -> bool:
        return self._half_closed(self.client.transport, self.upstream.transport)

    def upstream_eof(self) -> bool:
        return self._half_closed(self.upstream.transport, self.client.transport)

    def _half_closed(self, own: asyncio.Transport, other: asyncio.Transport) -> bool:
        """Pass a half-close on where the transport can; True keeps the other half.

        The second one ends the tunnel: no side would close it otherwise.
        """
        self.halves += 1
        if not (self.open and own.can_write_eof() and other.can_write_eof()):
            return False  # TLS knows no half-close
        other.write_eof()
        if self.halves == 1:
            return True
        self.upstream.transport.close()
        self.client.finish()
        self._end()
        return False

    def client_lost(self) -> None:
        if self.open:
            self.upstream.transport.abort()
            self._end()

    def upstream_lost(self) -> None:
        if self.open:
            self.client.finish()
            self._end()

    def break_off(self) -> None:
        """End both sides now (time limit, drain)."""
        if self.open:
            self.upstream.transport.abort()
            self.client.finish()
            self._end()

    def _end(self) -> None:
        self.open = False
        self.on_end()
