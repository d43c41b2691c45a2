"""A mock LLM API on loopback: OpenAI chat completions, plain and streamed.

The answer reports ``max_tokens`` of the request as its completion tokens and holds a
few fixed words; nothing is generated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from aiohttp import web

# English text has about four characters per token.
CHARS_PER_TOKEN = 4
# Completion tokens of a request without ``max_tokens``.
DEFAULT_COMPLETION = 200
# Latency of an answer, seconds.
LATENCY_S = 0.05
# Chunks of a streamed answer, at least.
CHUNKS = 4
WORDS = "the tide comes in and the gate stands where it stood"


class MockModel:
    """Serves until ``close``; ``tokens`` are all tokens reported in ``usage``."""

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.url = ""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        usage = _usage(body)
        self.requests += 1
        self.tokens += usage["total_tokens"]
        await asyncio.sleep(LATENCY_S)
        if body.get("stream"):
            return await _stream(request, body, usage)
        message = {"role": "assistant", "content": WORDS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {
                "id": "chatcmpl-demo",
                "object": "chat.completion",
                "model": body.get("model", ""),
                "choices": [choice],
                "usage": usage,
            }
        )


def _usage(body: dict[str, Any]) -> dict[str, int]:
    chars = sum(len(str(one.get("content", ""))) for one in body["messages"])
    prompt = max(1, chars // CHARS_PER_TOKEN)
    answer = int(body.get("max_tokens") or DEFAULT_COMPLETION)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


async def _stream(
    request: web.Request, body: dict[str, Any], usage: dict[str, int]
) -> web.StreamResponse:
    """Answer the request with JSON ``body`` as server-sent events."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    with contextlib.suppress(ConnectionError):  # the client has disconnected
        await _send_chunks(request, answer, body, usage)
    return answer


async def _send_chunks(
    request: web.Request,
    answer: web.StreamResponse,
    body: dict[str, Any],
    usage: dict[str, int],
) -> None:
    await answer.prepare(request)
    words = WORDS.split()
    share = max(1, len(words) // CHUNKS)
    for start in range(0, len(words), share):
        part = " ".join(words[start : start + share]) + " "
        delta = {"index": 0, "delta": {"content": part}, "finish_reason": None}
        await answer.write(_event(body, [delta]))
    if (body.get("stream_options") or {}).get("include_usage"):
        await answer.write(_event(body, [], usage=usage))
    await answer.write(b"data: [DONE]\n\n")


def _event(body: dict[str, Any], choices: list[Any], **more: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "model": body.get("model", ""),
        "choices": choices,
    }
    return b"data: " + json.dumps(chunk | more).encode() + b"\n\n"
