"""One host and port behind an upstream, and the connections to it."""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.http.handler import UpstreamSide


class UpstreamSettings(msgspec.Struct, frozen=True):
    """How one upstream is reached; times in seconds."""

    connect_s: float
    keepalive_s: float
    max_connections: int
    proxy: str | None


class Target:
    """One address of an upstream, with its open and idle connections.

    ``authority`` is the value of the Host field; ``base_path`` precedes the path of
    every request and has no trailing slash. The pool sets ``keepalive_s`` and
    ``clock``.
    """

    __slots__ = (
        "authority",
        "base_path",
        "clock",
        "connections",
        "ejected_until",
        "host",
        "idle",
        "keepalive_s",
        "opening",
        "port",
        "tls",
    )

    def __init__(
        self, host: str, port: int, *, tls: bool, authority: bytes, base_path: bytes
    ) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.authority = authority
        self.base_path = base_path
        self.keepalive_s = 0.0
        # In the order in which they became idle.
        self.idle: OrderedDict[UpstreamSide, None] = OrderedDict()
        self.connections: set[UpstreamSide] = set()
        self.opening = 0  # being opened, not in ``connections`` yet
        self.ejected_until = 0.0
        # The loop's clock: ``get_running_loop`` would cost a system call each time.
        self.clock: Callable[[], float] = monotonic

    def put(self, conn: UpstreamSide) -> None:
        """Take a connection back after an exchange."""
        conn.idle_since = self.clock()
        self.idle[conn] = None

    def forget(self, conn: UpstreamSide) -> None:
        """Remove a closed connection."""
        self.connections.discard(conn)
        self.idle.pop(conn, None)

    def take(self, now: float) -> UpstreamSide | None:
        """Return the most recently used idle connection that is still usable."""
        idle = self.idle
        while idle:
            conn, _ = idle.popitem()
            if not conn.is_available():
                continue
            if not conn.has_expired(now, self.keepalive_s):
                return conn
            conn.close()
        return None

    def prune(self, now: float) -> None:
        """Close connections that were idle for too long (oldest first)."""
        while self.idle:
            conn = next(iter(self.idle))
            if now - conn.idle_since <= self.keepalive_s:
                return
            del self.idle[conn]
            conn.close()

    def retire(self) -> None:
        """Close idle connections, and busy ones after their exchange."""
        for conn in list(self.idle):
            conn.close()
        self.idle.clear()
        for conn in self.connections:
            conn.reusable = False
