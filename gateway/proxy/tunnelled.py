"""Exchanges that became tunnels: joined sides, metered by frames where they are known.

The request was admitted like any other. A realtime session is charged as it goes: what
its responses state is settled at the end, when the lease ends too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Usage
from gateway.http.client import Phase
from gateway.http.tunnel import Tunnel
from gateway.metering.realtime import RealtimeMeter

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange


def open_tunnel(exchange: Exchange, leftover: bytes) -> None:
    """101 from the upstream: pass the head on, then bytes both ways."""
    up, conn, answer = exchange.up, exchange.conn, exchange.answer
    if up is None or conn is None or answer is None:
        exchange.leave_upstream()
        return
    exchange.status = 101
    exchange.last_rx = exchange.service.now()
    up.sink = None
    tunnel = MeteredTunnel(exchange)
    exchange.tunnel = tunnel
    up.tunnel = conn.tunnel = tunnel.tunnel
    conn.handler = exchange  # for its time limits
    conn.phase = Phase.TUNNEL
    conn.deadline = exchange.service.now() + 1.0
    conn.transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\n%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
        % (answer.forward, answer.upgrade)
    )
    early, conn.buf = conn.buf, b""
    if leftover:
        tunnel.tunnel.from_upstream(leftover)
    if early:
        tunnel.tunnel.from_client(early)


class MeteredTunnel:
    """A tunnel and what its frames said."""

    __slots__ = ("exchange", "meter", "tunnel")

    def __init__(self, exchange: Exchange) -> None:
        up, conn = exchange.up, exchange.conn
        assert up is not None
        assert conn is not None
        self.exchange = exchange
        self.tunnel = Tunnel(conn, up, self._ended)
        self.meter: RealtimeMeter | None = None
        match = exchange.prepared.match
        if match is not None and match.endpoint == "realtime":
            self.meter = RealtimeMeter()
        self.tunnel.watch_client = self._from_client
        self.tunnel.watch_upstream = self._from_upstream

    def _from_client(self, data: bytes) -> None:
        self.exchange.last_rx = self.exchange.service.now()
        if self.meter is not None:
            self.meter.feed_client(data)

    def _from_upstream(self, data: bytes) -> None:
        self.exchange.last_rx = self.exchange.service.now()
        if self.meter is not None:
            self.meter.feed_upstream(data)

    def break_off(self) -> None:
        self.tunnel.break_off()

    def _ended(self) -> None:
        usage = Usage() if self.meter is None else self.meter.total
        self.exchange.up = None
        self.exchange.settle_tunnel(usage)
