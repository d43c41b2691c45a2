"""Connections to upstreams: targets of one upstream, and a pool for each target.

A pool hands out the connection that was used last (the warmest), opens new ones up to
its cap, and forgets those that sat idle or lived too long, so that a change of DNS is
followed. A target that cannot be reached is passed over for a few seconds.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.http.upstream import UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.http.handler import AnswerSink

# Connections older than this are not used again: DNS changes are followed.
MAX_AGE_S = 300.0
# A target that could not be reached is passed over this long if another one can be.
EJECT_S = 5.0
MAX_PROXY_HEAD_BYTES = 16 * 1024


class UpstreamSettings(msgspec.Struct, frozen=True):
    """How one upstream is reached; seconds."""

    connect_s: float = 5.0
    keepalive_s: float = 30.0
    max_connections: int = 10_000
    proxy: str | None = None


class Target:
    """One host and port behind an upstream.

    ``authority`` is what its Host field says; ``base_path`` comes before the path of
    every request and has no slash at its end.
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
        self.keepalive_s = UpstreamSettings().keepalive_s
        # In the order in which they became idle.
        self.idle: OrderedDict[UpstreamConnection, None] = OrderedDict()
        self.connections: set[UpstreamConnection] = set()
        self.opening = 0  # under way, not among the connections yet
        self.ejected_until = 0.0
        # The pool's loop; asking for the running one costs a system call.
        self.clock: Callable[[], float] = monotonic

    def put(self, conn: UpstreamConnection) -> None:
        conn.idle_since = self.clock()
        self.idle[conn] = None

    def forget(self, conn: UpstreamConnection) -> None:
        self.connections.discard(conn)
        self.idle.pop(conn, None)

    def take(self, now: float) -> UpstreamConnection | None:
        """Warmest idle connection that is still good."""
        idle = self.idle
        while idle:
            conn, _ = idle.popitem()
            if conn.spent or conn.transport.is_closing():
                continue
            if (
                now - conn.idle_since > self.keepalive_s
                or now - conn.born_at > MAX_AGE_S
            ):
                conn.spent = True
                conn.transport.close()
                continue
            return conn
        return None

    def prune(self, now: float) -> None:
        """Close connections idle for too long (oldest first)."""
        while self.idle:
            conn = next(iter(self.idle))
            if now - conn.idle_since <= self.keepalive_s:
                return
            del self.idle[conn]
            conn.spent = True
            conn.transport.close()


class Pool:
    """All targets of one upstream."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: UpstreamSettings,
        targets: Sequence[Target],
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.ssl_context = ssl_context
        self.targets = targets
        for target in targets:
            target.keepalive_s = settings.keepalive_s
            target.clock = loop.time
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.connect_failures = 0
        self.turned_away = 0
        self.retired = False  # by a new configuration

    def acquire(
        self, sink: AnswerSink, *, fresh: bool = False
    ) -> UpstreamConnection | None:
        """A connection at once, or None: then ``sink.on_connected`` or
        ``on_connect_failed`` is called later. ``fresh``: not a pooled one.
        """
        now = self.loop.time()
        target = self._choose(now)
        if not fresh:
            conn = target.take(now)
            if conn is not None:
                return conn
        if len(target.connections) + target.opening >= self.settings.max_connections:
            self.turned_away += 1
            self.loop.call_soon(
                sink.on_connect_failed, 503, "too many upstream connections are open"
            )
            return None
        target.opening += 1
        task = self.loop.create_task(self._connect(target, sink))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._connect_ended(done, target))
        return None

    def _connect_ended(self, task: asyncio.Task[None], target: Target) -> None:
        self._tasks.discard(task)
        target.opening -= 1

    def _choose(self, now: float) -> Target:
        targets = self.targets
        if len(targets) == 1:
            return targets[0]
        self._turn += 1
        count = len(targets)
        order = [targets[(self._turn + i) % count] for i in range(count)]
        healthy = [t for t in order if t.ejected_until <= now] or order
        return min(healthy, key=lambda t: len(t.connections) - len(t.idle))

    async def _connect(self, target: Target, sink: AnswerSink) -> None:
        tried: list[Target] = []
        while True:
            try:
                async with asyncio.timeout(self.settings.connect_s):
                    conn = await self._open(target)
            except TimeoutError:
                failure = (504, "connecting to the upstream took too long")
            except (OSError, ssl.SSLError, ValueError) as error:
                failure = (502, f"the upstream cannot be reached: {_reason(error)}")
            else:
                sink.on_connected(conn)
                return
            self.connect_failures += 1
            now = self.loop.time()
            target.ejected_until = now + EJECT_S
            tried.append(target)
            rest = [t for t in self.targets if t not in tried]
            if not rest:
                sink.on_connect_failed(*failure)
                return
            target = rest[0]

    async def _open(self, target: Target) -> UpstreamConnection:
        loop = self.loop
        context = self.ssl_context if target.tls else None
        if self.settings.proxy is not None:
            conn = await self._open_through_proxy(target, self.settings.proxy, context)
        else:
            _, conn = await loop.create_connection(
                lambda: UpstreamConnection(target, loop.time()),
                target.host,
                target.port,
                ssl=context,
                server_hostname=target.host if context else None,
            )
        if conn.lost or conn.transport.is_closing():
            msg = "it closed the connection at once"
            raise OSError(msg)
        conn.spent = self.retired
        target.connections.add(conn)
        return conn

    async def _open_through_proxy(
        self, target: Target, proxy: str, context: ssl.SSLContext | None
    ) -> UpstreamConnection:
        """Open a tunnel with CONNECT (RFC 9110 9.3.6) for any target."""
        parts = urlsplit(proxy)
        ready: asyncio.Future[None] = self.loop.create_future()
        host = target.host.encode("idna")
        host = b"[%b]" % host if b":" in host else host
        authority = b"%b:%d" % (host, target.port)
        login = _basic(parts.username, parts.password)
        transport, _ = await self.loop.create_connection(
            lambda: _ConnectProtocol(ready, authority, login),
            parts.hostname or "",
            parts.port or 3128,
        )
        try:
            await ready
            if transport.is_closing():
                msg = "the egress proxy closed the connection"
                raise OSError(msg)  # noqa: TRY301 - one way out
            conn = UpstreamConnection(target, self.loop.time())
            transport.set_protocol(conn)
            if context is None:
                conn.connection_made(transport)
                return conn
            secured = await self.loop.start_tls(
                transport, conn, context, server_hostname=target.host
            )
        except BaseException:
            transport.abort()
            raise
        if secured is None:
            msg = "the TLS handshake through the proxy failed"
            raise OSError(msg)
        conn.connection_made(secured)
        return conn

    def prune(self, now: float) -> None:
        for target in self.targets:
            target.prune(now)

    def close_idle(self) -> None:
        """No new exchange comes here: let the open ones end."""
        self.retired = True
        for target in self.targets:
            for conn in list(target.idle):
                conn.spent = True
                conn.transport.close()
            target.idle.clear()
            for conn in target.connections:
                conn.spent = True

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for target in self.targets:
            for conn in list(target.connections):
                conn.transport.close()


class _ConnectProtocol(asyncio.Protocol):
    """Asks an egress proxy for a tunnel; done when it answered 2xx."""

    def __init__(
        self, ready: asyncio.Future[None], authority: bytes, login: bytes
    ) -> None:
        self._ready = ready
        self._authority = authority
        self._login = login
        self._buf = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(
            b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n"
            % (self._authority, self._authority, self._login)
        )

    def data_received(self, data: bytes) -> None:
        self._buf += data
        if self._ready.done():
            return
        head, end, more = self._buf.partition(b"\r\n\r\n")
        if end:
            words = head.split(b"\r\n", 1)[0].split(b" ")
            if more:
                self._fail("the egress proxy sent more than its answer")
            elif len(words) > 1 and words[1].startswith(b"2"):
                self._ready.set_result(None)
            else:
                self._fail("the egress proxy refused the tunnel")
        elif len(self._buf) > MAX_PROXY_HEAD_BYTES:
            self._fail("the egress proxy's answer has no end")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._fail("the egress proxy closed the connection")

    def _fail(self, why: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(OSError(why))


def _basic(user: str | None, password: str | None) -> bytes:
    if user is None:
        return b""
    import base64  # noqa: PLC0415 - only where a proxy wants a password

    plain = f"{unquote(user)}:{unquote(password or '')}"
    pair = base64.b64encode(plain.encode())
    return b"Proxy-Authorization: Basic %b\r\n" % pair


def _reason(error: Exception) -> str:
    """Short cause, without addresses of the inside."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError) and error.errno is None and error.args:
        return str(error.args[0])[:120]
    return type(error).__name__
