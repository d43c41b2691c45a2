"""What the client connections of one worker share: settings, clock, counters, caps.

A connection knows this object and not the listener, so that neither module needs the
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.http.heads import HeadCache
from gateway.identity.cidr import parse_address, subject_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.http.handler import ExchangeFactory, ServerConnection

# Connections beyond the cap that get a 503 answer; further ones are reset unanswered,
# because each answer holds a socket until the client has read it.
MAX_503_ANSWERS = 256
# A socket that is not read does not report that its client left, so its state is
# queried: every PAUSED_CHECK_S, or less often where that would mean more than one
# query (a system call) per PAUSED_QUERY_S.
PAUSED_CHECK_S = 0.04
PAUSED_QUERY_S = 1e-4


class WireSettings(msgspec.Struct, frozen=True):
    """Limits of the client's side in seconds, bytes, and bytes per second."""

    head_timeout_s: float
    keepalive_timeout_s: float
    write_timeout_s: float
    min_body_rate: float
    max_header_bytes: int
    max_headers: int
    max_target_bytes: int
    max_connections: int
    max_connections_per_ip: int
    proxy_protocol: bool
    tls: bool


class ServerState:
    """Shared state of a listener and its connections.

    ``is_trusted_proxy`` says whether a peer's address may name the client in a PROXY
    header. Counters are by reason, for the metric ``tidegate_turned_away_total``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchanges: ExchangeFactory,
        settings: WireSettings,
        is_trusted_proxy: Callable[[str], bool],
    ) -> None:
        self.loop = loop
        self.now = loop.time
        self.exchanges = exchanges
        self.settings = settings
        self.is_trusted_proxy = is_trusted_proxy
        self.heads = HeadCache(settings.max_headers, settings.max_target_bytes)
        self.connections: set[ServerConnection] = set()
        self.paused: set[ServerConnection] = (
            set()
        )  # connections that are not being read
        self.per_ip: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.accepted = 0
        self.draining = False
        self._paused_check: asyncio.TimerHandle | None = None

    def apply(
        self, settings: WireSettings, is_trusted_proxy: Callable[[str], bool]
    ) -> None:
        """Replace the limits, and drop all cached heads."""
        self.settings = settings
        self.is_trusted_proxy = is_trusted_proxy
        self.heads = HeadCache(settings.max_headers, settings.max_target_bytes)

    def count(self, reason: str) -> None:
        """Count one refusal."""
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def add(self, conn: ServerConnection) -> None:
        """Count a new connection; reject it where a cap is exceeded."""
        self.accepted += 1
        self.connections.add(conn)
        conn.counted_as = address_key(conn.peer_ip)
        same_ip = self._count_ip(conn.counted_as)
        total, cap = len(self.connections), self.settings.max_connections
        if total > cap + MAX_503_ANSWERS:
            self.count("connections")
            conn.transport.abort()
        elif total > cap:
            self.count("connections")
            conn.reject("too many connections")
        else:
            self._check_ip(conn, same_ip)

    def remove(self, conn: ServerConnection) -> None:
        """Forget a closed connection."""
        self.connections.discard(conn)
        self.paused.discard(conn)
        self._uncount_ip(conn.counted_as)

    def watch_paused(self, conn: ServerConnection) -> None:
        """Detect that a client leaves while its socket is not being read."""
        self.paused.add(conn)
        if self._paused_check is None:
            self._paused_check = self.loop.call_later(
                PAUSED_CHECK_S, self._check_paused
            )

    def _check_paused(self) -> None:
        for conn in list(self.paused):
            if conn.peer_closed():
                conn.transport.abort()
        self._paused_check = None
        if self.paused:
            wait_s = max(PAUSED_CHECK_S, PAUSED_QUERY_S * len(self.paused))
            self._paused_check = self.loop.call_later(wait_s, self._check_paused)

    def close(self) -> None:
        """Stop the timer."""
        if self._paused_check is not None:
            self._paused_check.cancel()
            self._paused_check = None

    def set_source(self, conn: ServerConnection, source: str) -> None:
        """Count a connection for the client that a trusted PROXY header named."""
        if not self.is_trusted_proxy(conn.peer_ip):
            return
        self._uncount_ip(conn.counted_as)
        conn.peer_ip = source
        conn.counted_as = address_key(source)
        self._check_ip(conn, self._count_ip(conn.counted_as))

    def _check_ip(self, conn: ServerConnection, same_ip: int) -> None:
        if same_ip > self.settings.max_connections_per_ip:
            self.count("connections_per_ip")
            conn.reject("too many connections from this address")

    def _count_ip(self, key: str) -> int:
        self.per_ip[key] = count = self.per_ip.get(key, 0) + 1
        return count

    def _uncount_ip(self, key: str) -> None:
        left = self.per_ip.get(key, 0) - 1
        if left > 0:
            self.per_ip[key] = left
        else:
            self.per_ip.pop(key, None)


def address_key(ip: str) -> str:
    """Key under which an address counts: IPv6 by its /64, which one host often owns."""
    if ":" not in ip:
        return ip
    address = parse_address(ip)
    return ip if address is None else subject_of(address)
