"""A tunnel that meters the frames of a realtime session.

The request was admitted like any other. The usage stated by the session's responses is
settled when the tunnel ends; until then its lease is renewed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Usage
from gateway.http.tunnel import Tunnel
from gateway.metering.realtime import RealtimeMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.http.handler import ClientSide, Handler, UpstreamSide
    from gateway.http.response import AnswerHead


class MeteredTunnel:
    """Bytes both ways, and the usage that their frames state.

    ``now`` is the loop's clock; ``on_end`` gets the usage when both sides are closed.
    """

    __slots__ = ("_meter", "_now", "_on_end", "_tunnel", "last_activity")

    def __init__(
        self,
        conn: ClientSide,
        up: UpstreamSide,
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
        """Pass the 101 on, then bytes both ways. ``leftover`` followed the head;
        ``handler`` enforces the time limits.
        """
        self._tunnel.start(answer, handler, leftover)

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
