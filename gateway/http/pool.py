"""The connection pool of one upstream: choosing a target, connecting, retiring.

A request gets the most recently used idle connection of a target, or a new one up to
the cap. Connections that were idle for too long or are too old are closed, so that DNS
changes take effect. A target that cannot be reached is skipped for ``EJECT_S``.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from gateway.http.upstream import UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.http.handler import AnswerSink, UpstreamSide
    from gateway.http.target import Target, UpstreamSettings

# A target that could not be reached is skipped for this long while another one is up.
EJECT_S = 5.0
# An egress proxy's answer to CONNECT may have at most this many bytes.
MAX_PROXY_HEAD_BYTES = 16 * 1024


class Pool:
    """The targets of one upstream."""

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
        self.rejected = 0
        self.retired = False  # replaced by a new configuration

    def acquire(self, sink: AnswerSink, *, fresh: bool = False) -> UpstreamSide | None:
        """Return an idle connection, or None and call ``sink`` later.

        The later call is ``on_connected`` or ``on_connect_failed``. ``fresh``: always
        open a new connection.
        """
        now = self.loop.time()
        target = self._choose(now)
        if not fresh:
            conn = target.take(now)
            if conn is not None:
                return conn
        if len(target.connections) + target.opening >= self.settings.max_connections:
            self.rejected += 1
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
        conn.reusable = not self.retired
        target.connections.add(conn)
        return conn

    async def _open_through_proxy(
        self, target: Target, proxy: str, context: ssl.SSLContext | None
    ) -> UpstreamConnection:
        """Connect through an egress proxy with CONNECT (RFC 9110 section 9.3.6)."""
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
        """Close connections that were idle for too long."""
        for target in self.targets:
            target.prune(now)

    def close_idle(self) -> None:
        """Close idle connections, and busy ones after their exchange (a reload)."""
        self.retired = True
        for target in self.targets:
            target.retire()

    def close(self) -> None:
        """Close everything, also connections being opened."""
        for task in self._tasks:
            task.cancel()
        for target in self.targets:
            for conn in list(target.connections):
                conn.transport.close()


class _ConnectProtocol(asyncio.Protocol):
    """Sends CONNECT to an egress proxy; ``ready`` is done when it answers 2xx."""

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
    import base64  # noqa: PLC0415 - only for proxies with a password

    plain = f"{unquote(user)}:{unquote(password or '')}"
    pair = base64.b64encode(plain.encode())
    return b"Proxy-Authorization: Basic %b\r\n" % pair


def _reason(error: Exception) -> str:
    """Short cause for the client, without internal addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError) and error.errno is None and error.args:
        return str(error.args[0])[:120]
    return type(error).__name__
