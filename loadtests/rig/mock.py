"""A mock chat API that costs as little as it can, for side-by-side measurements.

usage: python mock.py PORT [PAUSE_MS]

A body with ``"stream":true`` is answered by 50 events PAUSE_MS apart, a usage event and
``[DONE]``; every other body by one JSON answer of 0.7 KB. It trusts its input: heads
carry a Content-Length or the last chunk of a chunked body.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

EVENTS = 50
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_STREAMS = (b'"stream":true', b'"stream": true')
_USAGE = {"prompt_tokens": 350, "completion_tokens": EVENTS, "total_tokens": 400}


def _json_answer() -> bytes:
    message = {"role": "assistant", "content": "tide " * 90}
    answer = {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
    body = json.dumps(answer).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def _event(choices: list[object], usage: object) -> bytes:
    chunk = {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": choices,
        "usage": usage,
    }
    text = b"data: %s\n\n" % json.dumps(chunk).encode()
    return b"%x\r\n%s\r\n" % (len(text), text)


ANSWER = _json_answer()
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
EVENT = _event([{"index": 0, "delta": {"content": "tide "}}], None)
STREAM_END = _event([], _USAGE) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Server(asyncio.Protocol):
    """One connection; requests are answered one after the other."""

    pause_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.streaming = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.buffer = b""

    def data_received(self, chunk: bytes) -> None:
        self.buffer = self.buffer + chunk if self.buffer else chunk
        self._serve()

    def _serve(self) -> None:
        while self.buffer and not self.streaming:
            size = self._request_size()
            if size is None:
                return
            request, self.buffer = self.buffer[:size], self.buffer[size:]
            if any(mark in request for mark in _STREAMS):
                self.streaming = True
                self.transport.write(STREAM_HEAD)
                self._stream(EVENTS)
            else:
                self.transport.write(ANSWER)

    def _request_size(self) -> int | None:
        """Bytes of the first request in the buffer; None: it is not whole yet."""
        head_end = self.buffer.find(_HEAD_END)
        if head_end < 0:
            return None
        head = self.buffer[: head_end + 2].lower()
        start = head.find(b"content-length:")
        if start >= 0:
            length = int(head[start + 15 : head.index(b"\r\n", start)])
            size = head_end + 4 + length
            return size if len(self.buffer) >= size else None
        if b"chunked" not in head:
            return head_end + 4
        last = self.buffer.find(_LAST_CHUNK, head_end)
        return None if last < 0 else last + len(_LAST_CHUNK)

    def _stream(self, left: int) -> None:
        if self.transport.is_closing():
            return
        if left:
            self.transport.write(EVENT)
            self.loop.call_later(self.pause_s, self._stream, left - 1)
            return
        self.transport.write(STREAM_END)
        self.streaming = False
        self._serve()


async def serve(port: int) -> None:
    """Until it is ended."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    Server.pause_s = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0
    uvloop.run(serve(int(sys.argv[1])))
