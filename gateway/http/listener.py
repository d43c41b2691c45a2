"""All connections of one worker: admission, time limits, counters, draining."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from gateway.http.client import ClientConnection
from gateway.http.heads import HeadCache
from gateway.identity.cidr import parse_address, subject_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from gateway.http.handler import Service

# Time limits are looked at this often: a limit may be late by as much.
SWEEP_S = 0.2
# A socket that is not read does not show that its client left, so it is asked: every
# one this often, but not more than one in the time that is given here.
LOOK_S = 0.04
LOOK_ONE_S = 1e-4
# So many connections beyond the cap are told so; the others are just closed.
TURNED_AWAY_MAX = 256
OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: %d\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\n\r\n%b"
)


class WireSettings(msgspec.Struct, frozen=True):
    """Limits of the client's side; seconds, bytes, bytes a second."""

    head_timeout_s: float = 10.0
    keepalive_timeout_s: float = 75.0
    write_timeout_s: float = 30.0
    min_body_rate: float = 1024.0
    max_header_bytes: int = 64 * 1024
    max_headers: int = 100
    max_target_bytes: int = 16 * 1024
    max_connections: int = 20_000
    max_connections_per_ip: int = 20_000
    proxy_protocol: bool = False
    tls: bool = False


class Listener:
    """Accepts connections and keeps watch over them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        service: Service,
        settings: WireSettings,
        *,
        believes: Callable[[str], bool] = lambda _peer: False,
    ) -> None:
        self.loop = loop
        self.service = service
        self.settings = settings
        self.believes = believes
        self.heads = HeadCache(settings.max_headers, settings.max_target_bytes)
        self.now = loop.time
        self.connections: set[ClientConnection] = set()
        # Those that are not read at the moment.
        self.paused: set[ClientConnection] = set()
        self.per_ip: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.accepted = 0
        self.draining = False
        self._servers: list[asyncio.AbstractServer] = []
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._look_handle: asyncio.TimerHandle | None = None

    async def start(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Listen with SO_REUSEPORT; returns the bound address."""
        server = await self.loop.create_server(
            lambda: ClientConnection(self),
            host,
            port,
            reuse_port=True,
            backlog=4096,
            ssl=ssl_context,
            ssl_handshake_timeout=self.settings.head_timeout_s if ssl_context else None,
        )
        self._servers.append(server)
        if self._sweep_handle is None:
            self._sweep_handle = self.loop.call_later(SWEEP_S, self._sweep)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    def admit(self, conn: ClientConnection) -> None:
        """Register a new connection, or answer 503 and close where a cap is hit."""
        self.accepted += 1
        self.connections.add(conn)
        conn.counted_as = _subject(conn.peer_ip)
        count = self._count_ip(conn.counted_as)
        total, longest = len(self.connections), self.settings.max_connections
        if total > longest + TURNED_AWAY_MAX:
            # Not even an answer: those who get one hold a socket until they left.
            self.count("connections")
            conn.transport.abort()
        elif total > longest:
            self._turn_away(conn, "connections", "too many connections")
        elif count > self.settings.max_connections_per_ip:
            self._turn_away_ip(conn)

    def _count_ip(self, ip: str) -> int:
        self.per_ip[ip] = count = self.per_ip.get(ip, 0) + 1
        return count

    def _turn_away_ip(self, conn: ClientConnection) -> None:
        self._turn_away(
            conn, "connections_per_ip", "too many connections from this address"
        )

    def _turn_away(self, conn: ClientConnection, counter: str, why: str) -> None:
        self.count(counter)
        body = b'{"error":{"message":"%b","type":"overloaded","param":null,' % (
            why.encode()
        )
        body += b'"code":"overloaded"}}'
        conn.transport.write(OVERLOADED % (len(body), body))
        conn._begin_linger()  # noqa: SLF001 - the two are one mechanism

    def forget(self, conn: ClientConnection) -> None:
        self.connections.discard(conn)
        self.paused.discard(conn)
        self._uncount(conn.counted_as)

    def _uncount(self, ip: str) -> None:
        left = self.per_ip.get(ip, 0) - 1
        if left > 0:
            self.per_ip[ip] = left
        else:
            self.per_ip.pop(ip, None)

    def take_proxied(self, conn: ClientConnection, source: str) -> None:
        """A PROXY header named the client: count for it, if its sender is believed."""
        if not self.believes(conn.peer_ip):
            return
        self._uncount(conn.counted_as)
        conn.peer_ip = source
        conn.counted_as = _subject(source)
        if self._count_ip(conn.counted_as) > self.settings.max_connections_per_ip:
            self._turn_away_ip(conn)

    def count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    def _sweep(self) -> None:
        self._sweep_handle = self.loop.call_later(SWEEP_S, self._sweep)
        now = self.now()
        for conn in [c for c in self.connections if c.deadline <= now]:
            conn.on_deadline(now)

    def watch(self, conn: ClientConnection) -> None:
        """Look whether this client leaves while its socket is not read."""
        self.paused.add(conn)
        if self._look_handle is None:
            self._look_handle = self.loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        for conn in list(self.paused):
            if conn.has_left():
                conn.transport.abort()
        self._look_handle = None
        if self.paused:
            wait_s = max(LOOK_S, LOOK_ONE_S * len(self.paused))
            self._look_handle = self.loop.call_later(wait_s, self._look)

    def apply(self, settings: WireSettings, believes: Callable[[str], bool]) -> None:
        """Take new limits; what hangs on known heads is made anew."""
        self.settings = settings
        self.believes = believes
        self.heads = HeadCache(settings.max_headers, settings.max_target_bytes)

    # -- draining -----------------------------------------------------------------

    def begin_drain(self) -> None:
        """Accept nothing more; idle connections close, open exchanges run on."""
        self.draining = True
        for server in self._servers:
            server.close()
        for conn in list(self.connections):
            conn.close_if_idle()

    @property
    def unsent(self) -> bool:
        """Whether answers are still on their way to clients that read slowly."""
        return any(conn.transport.get_write_buffer_size() for conn in self.connections)

    def abort_all(self) -> None:
        """Break whatever is still open (the drain limit has passed)."""
        for conn in list(self.connections):
            conn.transport.abort()

    def close(self) -> None:
        for handle in (self._sweep_handle, self._look_handle):
            if handle is not None:
                handle.cancel()
        self._sweep_handle = self._look_handle = None


def _subject(ip: str) -> str:
    """IPv6 counts as its /64: whoever has one address has all of them."""
    if ":" not in ip:
        return ip
    address = parse_address(ip)
    return ip if address is None else subject_of(address)
