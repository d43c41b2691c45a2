"""A minimal connection to the store: pipelined commands, answers by callback.

A call costs a few microseconds here, several times less than through a client library.
Rare operations (Sentinel, administration) use redis-py.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from gateway.store import wire
from gateway.store.url import RedisAddress

# A connection must answer its first commands within this time.
CONNECT_TIMEOUT_S = 1.0

Answered = Callable[[Any], None]
_NOTHING = object()


def pack_command(*parts: bytes | str | int) -> bytes:
    """Encode one command in RESP."""
    # hiredis's type stub allows only commands of one part.
    packed: bytes = cast("Any", hiredis).pack_command(parts)
    return packed


class StoreUnavailable(Exception):  # noqa: N818
    """The store cannot be reached or does not serve; the text is one sentence."""


class Channel(asyncio.Protocol):
    """One connection. ``on_lost`` is called once if it ends without ``abort``."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self.received = 0  # chunks of data received; the watchdog reads it
        self._on_lost: Callable[[str], None] | None = on_lost
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[Answered] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass each complete answer to the callback of its command."""
        self.received += 1
        reader = self._reader
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not _NOTHING and self._waiting:
                self._waiting.popleft()(answer)
        except hiredis.ProtocolError:
            self._lose("the store does not speak the Redis protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the waiting commands and notify the owner."""
        self._lose(str(exc) if exc else "the store closed the connection")

    def _lose(self, reason: str) -> None:
        on_lost = self._on_lost
        waiting, self._waiting = self._waiting, deque()
        self.abort()
        for answered in waiting:
            answered(hiredis.ReplyError(f"LOST {reason}"))
        if on_lost is not None:
            on_lost(reason)

    def abort(self) -> None:
        """Drop the connection without calling any callback."""
        self._on_lost = None
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def send(self, command: bytes, answered: Answered) -> None:
        """Send one packed command; call ``answered`` with its answer or a ReplyError."""
        if self._transport is None:
            answered(hiredis.ReplyError("LOST the connection is closed"))
            return
        self._waiting.append(answered)
        self._transport.write(command)

    async def ask(self, *command: bytes | str | int) -> Any:
        """Send one command and wait; raises StoreUnavailable for an error answer."""
        return await self.ask_framed(pack_command(*command))

    async def ask_framed(self, command: bytes) -> Any:
        """Like ``ask``, for a packed command."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(answer: object) -> None:
            if not future.done():
                future.set_result(answer)

        self.send(command, answered)
        answer = await future
        if isinstance(answer, hiredis.ReplyError):
            raise StoreUnavailable(str(answer))
        return answer


class GateCall:
    """Frames script calls: all but the argument is constant."""

    __slots__ = ("_head",)

    def __init__(self, stream_key: bytes) -> None:
        self._head = b"*5\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$%d\r\n%b\r\n" % (
            wire.SCRIPT_SHA,
            len(stream_key),
            stream_key,
        )

    def frame(self, argument: bytes) -> bytes:
        """The complete command for one packed argument."""
        return b"%b$%d\r\n%b\r\n" % (self._head, len(argument), argument)


async def connect(url: RedisAddress, on_lost: Callable[[str], None]) -> Channel:
    """Open a connection, authenticate, select the database and load the script.

    Raises StoreUnavailable within CONNECT_TIMEOUT_S.
    """
    channel = Channel(on_lost)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await _open_transport(url, channel)
            await _handshake(url, channel)
    except TimeoutError:
        channel.abort()
        msg = f"no answer from the store within {CONNECT_TIMEOUT_S:g} s"
        raise StoreUnavailable(msg) from None
    except (OSError, StoreUnavailable) as error:
        channel.abort()
        raise StoreUnavailable(str(error)) from error
    except asyncio.CancelledError:
        channel.abort()
        raise
    return channel


async def _open_transport(url: RedisAddress, channel: Channel) -> None:
    loop = asyncio.get_running_loop()
    if url.kind == "unix":
        await loop.create_unix_connection(lambda: channel, url.path)
        return
    host, port = url.host, url.port
    if url.kind == "sentinel":
        host, port = await _find_master(url)
    context = tls_context(url) if url.tls else None
    await loop.create_connection(lambda: channel, host, port, ssl=context)


async def _handshake(url: RedisAddress, channel: Channel) -> None:
    if url.password:
        user = (url.username,) if url.username else ()
        await channel.ask("AUTH", *user, url.password)
    if url.db:
        await channel.ask("SELECT", url.db)
    await channel.ask("SCRIPT", "LOAD", wire.SCRIPT)


async def _find_master(url: RedisAddress) -> tuple[str, int]:
    # Lazy import: redis-py costs 50 ms and 10 MB, and only Sentinel needs it.
    from redis.asyncio.sentinel import Sentinel  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        list(url.sentinels), sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT_S / 2}
    )
    try:
        host, port = await sentinel.discover_master(url.service)
    except RedisError as error:
        raise StoreUnavailable(str(error)) from error
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
    return str(host), int(port)


def tls_context(url: RedisAddress) -> ssl.SSLContext:
    """TLS settings from the address's options, which have redis-py's names."""
    options = url.options
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.get("ssl_check_hostname", "true").lower() in ("false", "0", "no"):
        context.check_hostname = False
    if options.get("ssl_cert_reqs", "required").lower() == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
