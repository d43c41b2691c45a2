"""The listening sockets of one worker: accepting, time limits, draining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.client import ClientConnection
from gateway.http.shared import ServerState

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from gateway.http.handler import ExchangeFactory
    from gateway.http.shared import WireSettings

# Interval in seconds at which time limits are checked; each may be late by as much.
SWEEP_S = 0.2


class Listener:
    """Accepts connections, enforces their time limits, and drains them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchanges: ExchangeFactory,
        settings: WireSettings,
        *,
        is_trusted_proxy: Callable[[str], bool] = lambda _peer: False,
    ) -> None:
        self.loop = loop
        self.state = ServerState(loop, exchanges, settings, is_trusted_proxy)
        self.connections = self.state.connections
        self.counters = self.state.counters
        self._servers: list[asyncio.AbstractServer] = []
        self._sweep_handle: asyncio.TimerHandle | None = None

    async def start(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Listen with SO_REUSEPORT; returns the bound address."""
        timeout_s = self.state.settings.head_timeout_s
        server = await self.loop.create_server(
            lambda: ClientConnection(self.state),
            host,
            port,
            reuse_port=True,
            backlog=4096,
            ssl=ssl_context,
            ssl_handshake_timeout=timeout_s if ssl_context else None,
        )
        self._servers.append(server)
        if self._sweep_handle is None:
            self._sweep_handle = self.loop.call_later(SWEEP_S, self._sweep)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    def apply(
        self, settings: WireSettings, is_trusted_proxy: Callable[[str], bool]
    ) -> None:
        """Use new limits for later requests; cached heads are dropped."""
        self.state.apply(settings, is_trusted_proxy)

    def _sweep(self) -> None:
        self._sweep_handle = self.loop.call_later(SWEEP_S, self._sweep)
        now = self.state.now()
        for conn in [c for c in self.connections if c.deadline <= now]:
            conn.on_deadline(now)

    def begin_drain(self) -> None:
        """Stop accepting and close idle connections; open exchanges continue."""
        self.state.draining = True
        for server in self._servers:
            server.close()
        for conn in list(self.connections):
            conn.close_if_idle()

    @property
    def unsent(self) -> bool:
        """Whether any write buffer still holds bytes (a client that reads slowly)."""
        return any(conn.transport.get_write_buffer_size() for conn in self.connections)

    def abort_all(self) -> None:
        """Abort every open connection (the drain limit has passed)."""
        for conn in list(self.connections):
            conn.transport.abort()

    def close(self) -> None:
        """Stop the timers."""
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
            self._sweep_handle = None
        self.state.close()
