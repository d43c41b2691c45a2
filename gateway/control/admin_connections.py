"""Bounds on the connections of the admin port: silent ones make room for others.

A server without them runs out of file descriptors, which control needs for its files and
the store. There is no bound per address: behind a port-forward all clients have one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from gateway.admin.auth import ROLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

# Connections at a time. A console has up to six, Prometheus one.
CONNECTIONS_MAX = 512
# Longest wait for the head of the first request, as at the proxy's port.
HEAD_S = 10.0
_END = b"\r\n\r\n"


class AdminConnections:
    """Makes the protocols of a server's connections. Beyond CONNECTIONS_MAX the oldest one
    without an authorized request is closed, or else the new one. ``closed`` counts them,
    and those without a request after HEAD_S.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        """``make``: the server's own factory."""
        self._make = make
        self._loop = asyncio.get_running_loop()
        # By transport, in the order of arrival.
        self._unproven: dict[object, Connection] = {}
        self._proven: set[object] = set()
        self.closed = 0

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return Connection(self, self._make(), self._loop)

    async def prove(self, request: web.Request, _answer: web.StreamResponse) -> None:
        """Keep the connection of an authorized request."""
        transport = request.transport
        if ROLE in request and self._unproven.pop(transport, None) is not None:
            self._proven.add(transport)

    def admit(self, transport: asyncio.Transport, connection: Connection) -> bool:
        """Make room for a connection; False: there is none."""
        if len(self._unproven) + len(self._proven) >= CONNECTIONS_MAX:
            if not self._unproven:
                self.closed += 1
                return False
            self._unproven[next(iter(self._unproven))].close()
        self._unproven[transport] = connection
        return True

    def forget(self, transport: object) -> None:
        """The connection has ended."""
        self._unproven.pop(transport, None)
        self._proven.discard(transport)


class Connection(asyncio.Protocol):
    """Passes everything on to the server's protocol, once it is admitted."""

    def __init__(
        self,
        owner: AdminConnections,
        inner: asyncio.Protocol,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._owner = owner
        self._inner = inner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tail = b""
        self._admitted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        # uvloop's transports have no base in asyncio.
        self._transport = tcp = cast("asyncio.Transport", transport)
        self._admitted = self._owner.admit(tcp, self)
        if not self._admitted:
            tcp.abort()
            return
        self._timer = self._loop.call_later(HEAD_S, self.close)
        self._inner.connection_made(transport)

    def close(self) -> None:
        """Close it in favour of others."""
        self._owner.closed += 1
        if self._transport is not None:
            self._owner.forget(self._transport)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Stop the timer at the end of the first head."""
        if self._timer is not None:
            seen = self._tail + data
            if _END in seen:
                self._stop_timer()
            self._tail = seen[-3:]
        if self._admitted:
            self._inner.data_received(data)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        self._owner.forget(self._transport)
        if self._admitted:
            self._inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return self._inner.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        """The client is slow."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._inner.resume_writing()
