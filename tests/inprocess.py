"""A data plane in the test's own loop, between plain sockets and a recording upstream.

Listener, service, pool and store are real; only the processes around them are missing. A
test fails if an exception reaches the loop's handler, or if anything is still open,
pooled or reserved at its end.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import msgspec
import psutil
import pytest
import uvloop

from gateway.config.load import load_config
from gateway.core.model import RequestRecord
from gateway.limits.gate import Gate
from gateway.limits.ports import Plan, Reserved, Store
from gateway.store.memory import MemoryStore
from gateway.worker.build import Builder
from gateway.worker.plane import Plane
from tests.doubles import RecordingUpstream

WAIT_S = 60.0
TURN_S = 0.005
SECRET = b"0" * 32
CHAT = b"/v1/chat/completions"
_decode = msgspec.msgpack.Decoder(RequestRecord).decode


class LateStore(MemoryStore):
    """Answers a reserve later, as a store behind a socket does (``let_go``)."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Reserved, Callable[[Reserved], None]]] = []

    def reserve(
        self,
        plan: Plan,
        costs: Any,
        done: Callable[[Reserved], None],
        least: Any = None,
    ) -> Reserved:
        reserved = Reserved(plan, costs, least)
        self._leases += 1
        reserved.lease = b"%d" % self._leases
        self.waiting.append((reserved, done))
        return reserved

    def let_go(self) -> None:
        """Answer every pending reserve."""
        waiting, self.waiting = self.waiting, []
        for reserved, done in waiting:
            self.decide(reserved)
            done(reserved)


class InProcess:
    """One data plane in front of one recording upstream (``upstream``)."""

    def __init__(
        self,
        upstream: RecordingUpstream,
        *,
        server: str = "",
        route: str = "",
        policy: str = "",
        more: str = "",
        store: Store | None = None,
        url: str | None = None,
    ) -> None:
        self.upstream = upstream
        self.text = _config(url or upstream.url, server, route, policy, more)
        self.store = store or MemoryStore()
        self.records: list[RequestRecord] = []
        self.faults: list[dict[str, Any]] = []
        self.clients: list[Client] = []
        self.address = ("", 0)
        self.plane: Plane

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, fault: self.faults.append(fault))
        self.plane = Plane(
            loop,
            builder=Builder(loop, b"tidegate-test"),
            config=load_config(None, text=self.text, env={}),
            secret=SECRET,
            store=self.store,
            gate=Gate(),
            append_record=self._append,
        )
        await self.store.start()
        await self.plane.listener.start("127.0.0.1", 0)
        server = self.plane.listener._servers[0]
        self.address = server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, kind: object, *_exc: object) -> None:
        if kind is not None:
            self.plane.listener.abort_all()
        await self.plane.drain()
        for client in self.clients:
            client.close()
        await asyncio.sleep(0)
        if kind is None:
            assert not self.faults
            await self.at_rest()

    def reload(self) -> None:
        """Apply the configuration in ``text``."""
        self.plane.apply(load_config(None, text=self.text, env={}))

    def _append(self, raw: bytes) -> bool:
        self.records.append(_decode(raw))
        return True

    async def at_rest(self) -> None:
        """Wait until no client connection and no exchange is open."""
        listener, service = self.plane.listener, self.plane.service
        await until(lambda: not listener.connections and not service.open_exchanges)
        assert not listener.state.per_ip
        for route in self.plane.shared.tables.routes:
            assert not route.draining
            for target in route.pool.targets:
                assert {c for c in target.connections if not c.sink} == set(
                    target.connections
                )

    async def client(self, held_bytes: int = 1 << 26) -> Client:
        """Open a plain connection; ``held_bytes``: size of its read buffer."""
        reader, writer = await asyncio.open_connection(*self.address, limit=held_bytes)
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    async def talk(self, raw: bytes) -> bytes:
        """Send ``raw`` and return all bytes until the gateway closes."""
        client = await self.client()
        client.send(raw)
        try:
            return await client.rest()
        finally:
            client.close()

    async def record(self) -> RequestRecord:
        """Wait for the only record and return it."""
        await until(lambda: self.records)
        (found,) = self.records
        return found


class Client:
    """A plain socket."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, raw: bytes) -> None:
        """Write without waiting."""
        self.writer.write(raw)

    async def until(self, mark: bytes) -> bytes:
        """Read up to and including ``mark``."""
        return await asyncio.wait_for(self.reader.readuntil(mark), WAIT_S)

    async def rest(self) -> bytes:
        """Read until the gateway closes. Raises ConnectionResetError."""
        return await asyncio.wait_for(self.reader.read(), WAIT_S)

    async def answer(self) -> bytes:
        """Read one answer with a Content-Length."""
        head = await self.until(b"\r\n\r\n")
        lower = head.lower()
        at = lower.find(b"content-length: ")
        size = int(lower[at + 16 : lower.index(b"\r", at)]) if at > 0 else 0
        body = await asyncio.wait_for(self.reader.readexactly(size), WAIT_S)
        return head + body

    def end(self) -> None:
        """Close the sending half only."""
        self.writer.write_eof()

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.transport.abort()


async def until(what: Callable[[], Any], longest_s: float = WAIT_S) -> None:
    """Wait until ``what`` is true, at most ``longest_s``."""
    loop = asyncio.get_running_loop()
    end = loop.time() + longest_s
    while not what():
        assert loop.time() < end, "not in time"
        await asyncio.sleep(TURN_S)


async def seconds_until(what: Callable[[], Any]) -> float:
    """Wait until ``what`` is true; return the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(what)
    return loop.time() - began


def request(
    method: bytes = b"GET",
    target: bytes = b"/x",
    fields: bytes = b"",
    body: bytes | None = None,
) -> bytes:
    """The bytes of an HTTP/1.1 request."""
    if body is not None:
        fields += b"Content-Length: %d\r\n" % len(body)
    head = b"%b %b HTTP/1.1\r\nHost: gateway.test\r\n%b\r\n" % (method, target, fields)
    return head + (body or b"")


def resident() -> int:
    """Resident memory of this process in bytes."""
    size: int = psutil.Process().memory_info().rss
    return size


def _config(url: str, server: str, route: str, policy: str, more: str) -> str:
    return f"""
[server]
listen = "127.0.0.1:0"
drain_timeout = "1s"
{server}
[store]
url = "memory:"
[[upstream]]
name = "recorder"
url = "{url}"
{route}
[policy.default]
mode = "enforce"
{policy}
{more}
"""


@pytest.fixture(name="event_loop_policy")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop that workers use; import it into the test module."""
    return uvloop.EventLoopPolicy()


@pytest.fixture(name="upstream")
async def upstream() -> AsyncIterator[RecordingUpstream]:
    """A recording upstream in the test's own loop."""
    async with RecordingUpstream() as recorder:
        yield recorder
