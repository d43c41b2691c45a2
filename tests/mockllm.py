"""A mock LLM API as a process, which counts the tokens it served.

    python -m tests.mockllm [--port 0] [--cert F --key F]

It speaks OpenAI (chat, completions, embeddings, responses), Anthropic and Gemini, JSON
and streams, tools included, and echoes anything else. Every word of its answers, and
every word that tests should put into prompts, is one token of o200k, so its own count
and a tokenizer's agree. Instructions by request header:

``x-mock-tokens``    tokens to generate (12), at most what the request's cap allows
``x-mock-delay-ms``  silence before the head
``x-mock-chunk-ms``  pause between the chunks of a stream
``x-mock-hold``      after this many chunks wait for ``x-mock-hold-ms`` (60,000)
``x-mock-reset``     after this many chunks (JSON: bytes) reset the connection
``x-mock-status``    answer with this status and an error body
``x-mock-usage``     ``none``: state no usage
``x-mock-cached``    state this many cached prompt tokens (OpenAI)
``x-mock-encoding``  ``gzip``
``x-mock-framing``   ``chunked`` or ``close`` for JSON answers
``x-mock-tag``       remember this request and its end: ``GET /__seen?tag=…``

``GET /__ledger`` returns the counts by credential, ``POST /__clear`` resets them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote

import httptools
import uvloop

from tests.mockanswers import (
    JSON_ANSWERS,
    STREAM_ANSWERS,
    Event,
    Request,
    encode_event,
    prompt_tokens,
)

# Seconds between the last chunk and the reset, so that the client has read the chunks.
RESET_AFTER_S = 1.0
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Books:
    """Served tokens by credential, and the requests with a tag."""

    def __init__(self) -> None:
        self.accounts: dict[str, dict[str, int]] = {}
        self.seen: dict[str, dict[str, Any]] = {}

    def add(self, credential: str, **amounts: int) -> None:
        account = self.accounts.setdefault(
            credential,
            {"requests": 0, "prompt": 0, "completion": 0, "total": 0, "cut": 0},
        )
        for name, amount in amounts.items():
            account[name] += amount


class Connection(asyncio.Protocol):
    """One connection: parses requests and answers them one at a time."""

    transport: asyncio.Transport

    def __init__(self, books: Books, tasks: set[asyncio.Task[None]]) -> None:
        self.books = books
        self.tasks = tasks
        self.task: asyncio.Task[None] | None = None
        self.parser = httptools.HttpRequestParser(self)
        self.request = Request()
        self.frames: WebSocketEcho | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, received: bytes) -> None:
        if self.frames is not None:
            self.frames.feed(received)
            return
        try:
            self.parser.feed_data(received)
        except httptools.HttpParserUpgrade:
            self.open_echo()
        except httptools.HttpParserError:
            self.transport.close()

    # httptools calls these
    def on_message_begin(self) -> None:
        self.request = Request()

    def on_url(self, url: bytes) -> None:
        self.request.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        pair = (name.decode("latin-1"), value.decode("latin-1"))
        self.request.fields.append(pair)
        self.request.headers[pair[0].lower()] = pair[1]

    def on_body(self, body: bytes) -> None:
        self.request.raw += body

    def on_message_complete(self) -> None:
        request = self.request
        request.method = self.parser.get_method().decode()
        request.path, _, request.query = request.path.partition("?")
        if self.parser.should_upgrade():
            return
        task = asyncio.get_running_loop().create_task(self.serve(request))
        self.task = task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def open_echo(self) -> None:
        key = self.request.headers.get("sec-websocket-key", "").encode()
        accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        self.frames = WebSocketEcho(self.transport)

    # -- one request ------------------------------------------------------------------

    async def serve(self, request: Request) -> None:
        seen = self.note(request)
        with contextlib.suppress(ValueError):
            body = json.loads(request.raw) if request.raw else {}
            request.body = body if isinstance(body, dict) else {}
        request.prompt = prompt_tokens(request.body)
        try:
            await self.answer(request)
        except asyncio.CancelledError:
            seen["closed_at"] = time.monotonic()
            raise
        finally:
            seen |= {"whole": request.whole, "prompt": request.prompt}
            seen["sent"] = request.sent
            self.settle(request)

    def note(self, request: Request) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "path": request.path,
            "query": request.query,
            "fields": request.fields,
            "body": request.raw.decode("latin-1"),
            "whole": False,
            "closed_at": None,
        }
        tag = request.headers.get("x-mock-tag")
        if tag:
            self.books.seen[tag] = seen
        return seen

    def settle(self, request: Request) -> None:
        """Add the prompt and generated tokens of the request to the books."""
        if request.method != "POST" or not _kind(
            request, JSON_ANSWERS | STREAM_ANSWERS
        ):
            return
        prompt = request.prompt if request.sent >= 0 else 0
        completion = max(0, request.sent)
        self.books.add(
            request.credential,
            requests=1,
            prompt=prompt,
            completion=completion,
            total=prompt + completion,
            cut=int(not request.whole),
        )

    async def answer(self, request: Request) -> None:
        if request.path.startswith("/__"):
            self.send_json(200, control(self.books, request))
            return
        delay_ms = request.number("delay-ms", 0)
        if delay_ms:
            await asyncio.sleep(delay_ms / 1000)
        status = request.number("status", 0)
        if request.path.startswith("/status/"):
            status = int(request.path.removeprefix("/status/"))
        streaming = request.body.get("stream") or ":stream" in request.path
        events = _kind(request, STREAM_ANSWERS)
        if status:
            await self.fail(request, status)
        elif request.method == "POST" and streaming and events:
            await self.stream(request, events(request))
        else:
            await self.whole(request)

    async def fail(self, request: Request, status: int) -> None:
        request.sent, request.whole = -1, True
        if status in (204, 304):
            self.transport.write(b'HTTP/1.1 %d Empty\r\nETag: "t"\r\n\r\n' % status)
            return
        error = {"message": "as asked", "type": "mock_error", "code": "mock"}
        self.send_json(status, {"type": "error", "error": error})

    async def whole(self, request: Request) -> None:
        make = _kind(request, JSON_ANSWERS)
        if request.method != "POST" or make is None:
            request.whole = True
            self.send_json(200, echo(request), head_only=request.method == "HEAD")
            return
        value = make(request)
        if not request.states_usage:
            value.pop("usage", None)
        cut = request.number("reset", 0)
        if cut:
            body = json.dumps(value).encode()
            self.transport.write(json_head(200, len(body)) + body[:cut])
            await self.reset(request)
            return
        request.sent = 0 if "/embeddings" in request.path else request.tokens
        request.whole = True
        framing = request.headers.get("x-mock-framing", "length")
        gzipped = request.headers.get("x-mock-encoding") == "gzip"
        self.send_json(200, value, framing=framing, gzipped=gzipped)

    async def reset(self, request: Request) -> None:
        await asyncio.sleep(RESET_AFTER_S)
        raw = self.transport.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.task = None
        self.transport.abort()

    async def stream(self, request: Request, events: Iterator[Event]) -> None:
        gzipped = request.headers.get("x-mock-encoding") == "gzip"
        packer = zlib.compressobj(wbits=31) if gzipped else None
        array = ":stream" in request.path and "alt=sse" not in request.query
        kind = b"application/json" if array else b"text/event-stream; charset=utf-8"
        coding = b"Content-Encoding: gzip\r\n" if gzipped else b""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nRequest-Id: req_mock\r\n%b"
            b"Transfer-Encoding: chunked\r\n\r\n" % (kind, coding)
        )
        reset = request.number("reset", 0)
        async for event in self.paced(request, events):
            if array:
                data = (b"[" if request.sent <= 1 else b",") + json.dumps(
                    event[1]
                ).encode()
            else:
                data = encode_event(event)
            if packer is not None:
                data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            if reset and request.sent >= reset:
                await self.reset(request)
                return
        tail = b"]" if array else b""
        tail = tail if packer is None else packer.flush()
        last = b"%x\r\n%b\r\n" % (len(tail), tail) if tail else b""
        request.whole = True
        self.transport.write(last + b"0\r\n\r\n")

    async def paced(
        self, request: Request, events: Iterator[Event]
    ) -> AsyncIterator[Event]:
        """Events with the requested pauses; counts generated tokens."""
        pause_s = request.number("chunk-ms", 0) / 1000
        hold = request.number("hold", 0)
        for event in events:
            if not event[0].startswith("-"):
                request.sent += 1
            yield event
            if hold and request.sent == hold:
                hold = 0
                await asyncio.sleep(request.number("hold-ms", 60_000) / 1000)
            elif pause_s:
                await asyncio.sleep(pause_s)

    def send_json(
        self,
        status: int,
        value: Any,
        *,
        framing: str = "length",
        gzipped: bool = False,
        head_only: bool = False,
    ) -> None:
        body = json.dumps(value).encode()
        more = b""
        if gzipped:
            packer = zlib.compressobj(wbits=31)
            body = packer.compress(body) + packer.flush()
            more = b"Content-Encoding: gzip\r\n"
        if framing == "chunked":
            half = len(body) // 2
            pieces = [b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:half], body[half:])]
            more += b"Transfer-Encoding: chunked\r\n"
            self.transport.write(json_head(status, None, more) + b"".join(pieces))
            self.transport.write(b"0\r\n\r\n")
        elif framing == "close":
            more += b"Connection: close\r\n"
            self.transport.write(json_head(status, None, more) + body)
            self.transport.close()
        else:
            head = json_head(status, len(body), more)
            self.transport.write(head if head_only else head + body)


def json_head(status: int, length: int | None, more: bytes = b"") -> bytes:
    size = b"" if length is None else b"Content-Length: %d\r\n" % length
    return (
        b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nRequest-Id: req_mock\r\n"
        b"%b%b\r\n" % (status, size, more)
    )


def _kind(request: Request, answers: dict[str, Any]) -> Any:
    for ending, answer in answers.items():
        if request.path.endswith(ending):
            return answer
    return None


def control(books: Books, request: Request) -> dict[str, Any]:
    if request.path == "/__clear":
        books.accounts.clear()
        return {}
    if request.path == "/__seen":
        tag = parse_qs(request.query).get("tag", [""])[0]
        return books.seen.get(unquote(tag), {})
    return books.accounts


def echo(request: Request) -> dict[str, Any]:
    if request.path.endswith("/count_tokens"):
        return {"input_tokens": request.prompt}
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "fields": request.fields,
        "bytes": len(request.raw),
        "sha256": hashlib.sha256(request.raw).hexdigest(),
    }


class WebSocketEcho:
    """Returns each masked frame unmasked, and closes on a close frame."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.held = bytearray()

    def feed(self, received: bytes) -> None:
        self.held += received
        while (frame := self.take()) is not None:
            first, payload = frame
            size = len(payload)
            length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
            self.transport.write(bytes([first]) + length + payload)
            if first & 0x0F == 8:
                self.transport.close()

    def take(self) -> tuple[int, bytes] | None:
        """The next whole frame: first byte, payload."""
        held = self.held
        if len(held) < 2:
            return None
        size, at = held[1] & 0x7F, 2
        if size == 126:
            if len(held) < 4:
                return None
            size, at = struct.unpack_from(">H", held, 2)[0], 4
        if len(held) < at + 4 + size:
            return None
        mask = held[at : at + 4]
        masked = held[at + 4 : at + 4 + size]
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(masked))
        first = held[0]
        del held[: at + 4 + size]
        return first, payload


async def run(port: int, cert: str | None, key: str | None) -> None:
    books = Books()
    tasks: set[asyncio.Task[None]] = set()
    context = None
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(books, tasks), "127.0.0.1", port, ssl=context, backlog=1024
    )
    print("mock ready", server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="mock LLM API")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    chosen = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(run(chosen.port, chosen.cert, chosen.key))


if __name__ == "__main__":
    sys.exit(main())
