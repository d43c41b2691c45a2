"""The least that Python needs for the job: a measuring stick, not a proxy.

usage: python floor.py PORT UPSTREAM_PORT STORE_SOCKET

Both protocols by hand on uvloop, the body decoded, four sliding windows in the store
(all operations of a loop turn in one packed call, decided before the upstream is
called), settled by the answer's own usage, a record. It trusts its input, refuses
nothing, and knows no failure; whatever costs more than this is paid for the rest.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections.abc import Callable

import httptools
import msgspec
import uvloop
from redis.asyncio import Redis

LIMIT = 1_000_000_000
CELLS = 4
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade")
)
# For each packed operation (key, weight, limit): a window of 60 buckets of a second,
# with its sum and the second it was last brought up to date.
SCRIPT = """
local now = tonumber(redis.call('TIME')[1])
local packed, sums, at = ARGV[1], {}, 1
while at <= #packed do
  local size, weight, limit
  size, weight, limit, at = struct.unpack('<Bi4i4', packed, at)
  local key = string.sub(packed, at, at + size - 1)
  at = at + size
  local found = redis.call('HMGET', key, 'sum', 'at', now % 60)
  local sum, seen = tonumber(found[1]) or 0, tonumber(found[2]) or now
  local bucket = seen == now and tonumber(found[3]) or 0
  if now - seen >= 60 then
    redis.call('DEL', key)
    sum = 0
  else
    for second = seen + 1, now do
      sum = sum - (tonumber(redis.call('HGET', key, second % 60)) or 0)
      redis.call('HDEL', key, second % 60)
    end
  end
  if sum + weight <= limit then
    sum = sum + weight
    redis.call('HSET', key, 'sum', sum, 'at', now, now % 60, bucket + weight)
    redis.call('EXPIRE', key, 61)
    sums[#sums + 1] = sum
  else
    sums[#sums + 1] = -1
  end
end
return sums
"""


class Body(msgspec.Struct):
    """What is read of a request."""

    model: str = ""
    stream: bool = False
    max_tokens: int = 256


class Usage(msgspec.Struct):
    """What an answer states."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


decode_body = msgspec.json.Decoder(Body).decode
decode_usage = msgspec.json.Decoder(Usage).decode
encode_record = msgspec.json.Encoder().encode


def packed(key: bytes, weight: int) -> bytes:
    """One operation of the script."""
    return struct.pack("<Bii", len(key), weight, LIMIT) + key


class Limiter:
    """Operations that come while a call is under way go together in the next."""

    def __init__(self, redis: Redis, sha: str) -> None:
        self.redis = redis
        self.sha = sha
        self.queue: list[tuple[bytes, Callable[[], None] | None]] = []
        self.sender: asyncio.Task[None] | None = None

    def add(self, operations: bytes, done: Callable[[], None] | None) -> None:
        self.queue.append((operations, done))
        if self.sender is None:
            self.sender = loop.create_task(self._send())

    async def _send(self) -> None:
        while self.queue:
            queue, self.queue = self.queue, []
            await self.redis.evalsha(self.sha, 0, b"".join(op for op, _ in queue))
            for _, done in queue:
                if done is not None:
                    done()
        self.sender = None


class Client(asyncio.Protocol):
    """The client's side."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.parser = httptools.HttpRequestParser(self)
        self.ip = transport.get_extra_info("peername")[0].encode()

    def data_received(self, chunk: bytes) -> None:
        self.parser.feed_data(chunk)

    def on_message_begin(self) -> None:
        self.lines: list[bytes] = []
        self.parts: list[bytes] = []
        self.credential = b""

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"authorization":
            self.credential = value
        if lower not in HOP_BY_HOP:
            self.lines.append(name + b": " + value + b"\r\n")

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.started = time.time()
        self.body = b"".join(self.parts)
        self.asked = decode_body(self.body)
        self.user = self.credential[-16:]
        self.estimate = len(self.body) // 4 + min(self.asked.max_tokens, 100)
        limiter.add(
            packed(b"ip:" + self.ip, 1)
            + packed(b"requests:" + self.user, 1)
            + packed(b"tokens:" + self.user, self.estimate)
            + packed(b"tenant", self.estimate),
            self.forward,
        )

    def forward(self) -> None:
        head = (
            b"POST %s HTTP/1.1\r\n%sX-Forwarded-For: %s\r\nVia: 1.1 floor\r\n\r\n"
            % (
                self.url,
                b"".join(self.lines),
                self.ip,
            )
        )
        if idle:
            idle.pop().start(self, head)
        else:
            opening.add(loop.create_task(connect(self, head)))

    def settle(self, usage: Usage) -> None:
        """What it really cost, and the record."""
        total = usage.prompt_tokens + usage.completion_tokens
        beyond = total - self.estimate
        limiter.add(
            packed(b"tokens:" + self.user, beyond) + packed(b"tenant", beyond), None
        )
        records.append(
            {
                "ts": self.started,
                "user": self.user.decode(),
                "client_ip": self.ip.decode(),
                "model": self.asked.model,
                "stream": self.asked.stream,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "duration_ms": (time.time() - self.started) * 1000,
            }
        )


class Upstream(asyncio.Protocol):
    """The API's side: bytes go to the client first, then they are looked at."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.parser = httptools.HttpResponseParser(self)

    def start(self, client: Client, head: bytes) -> None:
        self.client = client
        self.tail = b""
        self.ended = False
        self.transport.writelines((head, client.body))

    def data_received(self, chunk: bytes) -> None:
        self.parser.feed_data(chunk)
        self.client.transport.write(chunk)
        if self.ended:
            client = self.client
            self.parser = httptools.HttpResponseParser(self)
            idle.append(self)
            client.settle(self._usage())

    def on_body(self, part: bytes) -> None:
        self.tail = (self.tail + part)[-600:]

    def on_message_complete(self) -> None:
        self.ended = True

    def _usage(self) -> Usage:
        at = self.tail.rfind(b'"usage"')
        if at < 0:
            return Usage()
        start = self.tail.index(b"{", at)
        return decode_usage(self.tail[start : self.tail.index(b"}", start) + 1])


async def connect(client: Client, head: bytes) -> None:
    """A new connection, and the request on it."""
    _, upstream = await loop.create_connection(Upstream, "127.0.0.1", upstream_port)
    upstream.start(client, head)


async def write_records() -> None:
    """Ten times a second, as lines into nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    while True:
        await asyncio.sleep(0.1)
        batch = records[:]
        records.clear()
        os.write(nowhere, b"\n".join(map(encode_record, batch)))


async def serve(port: int, socket: str) -> None:
    """Until it is ended."""
    global limiter, loop  # noqa: PLW0603 - a script of one process
    loop = asyncio.get_running_loop()
    redis = Redis(unix_socket_path=socket)
    limiter = Limiter(redis, await redis.script_load(SCRIPT))
    server = await loop.create_server(Client, "127.0.0.1", port)
    await asyncio.gather(server.serve_forever(), write_records())


limiter: Limiter
loop: asyncio.AbstractEventLoop
records: list[dict[str, object]] = []
idle: list[Upstream] = []
opening: set[asyncio.Task[None]] = set()
upstream_port = 0

if __name__ == "__main__":
    upstream_port = int(sys.argv[2])
    uvloop.run(serve(int(sys.argv[1]), sys.argv[3]))
