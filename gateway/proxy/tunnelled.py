"""A tunnel that meters the frames of a realtime session.

The request was admitted like any other. What the responses of the session state is
settled when the tunnel ends; until then its lease is renewed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Usage
from gateway.http.client import Phase
from gateway.http.tunnel import Tunnel
from gateway.metering.realtime import RealtimeMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.http.client import ClientConnection
    from gateway.http.handler import Handler
    from gateway.http.response import AnswerHead
    from gateway.http.upstream import UpstreamConnection


class MeteredTunnel:
    """Bytes both ways, and the usage that their frames state.

    ``now`` is the loop's clock; ``on_end`` gets the usage when both sides are closed.
    """

    __slots__ = ("_meter", "_now", "_on_end", "_tunnel", "last_activity")

    def __init__(
        self,
        conn: ClientConnection,
        up: UpstreamConnection,
        now: Callable[[], float],
        on_end: Callable[[Usage], None],
        *,
        metered: bool,
    ) -> None:
        self._now = now
        self._on_end = on_end
        self.last_activity = now()
        self._meter = RealtimeMeter() if metered else None
        self._tunnel = Tunnel(conn, up, self._ended)
        self._tunnel.watch_client = self._from_client
        self._tunnel.watch_upstream = self._from_upstream

    def start(self, handler: Handler, answer: AnswerHead, leftover: bytes) -> None:
        """Pass the 101 on, then bytes both ways. ``leftover`` came behind the head;
        ``handler`` enforces the time limits.
        """
        tunnel = self._tunnel
        conn, up = tunnel.client, tunnel.upstream
        up.sink = None
        up.tunnel = conn.tunnel = tunnel
        conn.handler = handler
        conn.phase = Phase.TUNNEL
        conn.deadline = self._now() + 1.0
        conn.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\n%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
            % (answer.forward, answer.upgrade)
        )
        early, conn.buf = conn.buf, b""
        if leftover:
            tunnel.from_upstream(leftover)
        if early:
            tunnel.from_client(early)

    def break_off(self) -> None:
        """Close both sides at once."""
        self._tunnel.break_off()

    def _from_client(self, data: bytes) -> None:
        self.last_activity = self._now()
        if self._meter is not None:
            self._meter.feed_client(data)

    def _from_upstream(self, data: bytes) -> None:
        self.last_activity = self._now()
        if self._meter is not None:
            self._meter.feed_upstream(data)

    def _ended(self) -> None:
        self._on_end(Usage() if self._meter is None else self._meter.total)
