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

# About four letters make a token of English text.
LETTERS_PER_TOKEN = 4
USUAL_TOKENS = 200
THINKING_S = 0.05
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
        count = await request.json()
        usage = _usage(count)
        self.requests += 1
        self.tokens += usage["total_tokens"]
        await asyncio.sleep(THINKING_S)
        if count.get("stream"):
            return await _stream(request, count, usage)
        message = {"role": "assistant", "content": WORDS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {
                "id": "chatcmpl-demo",
                "object": "chat.completion",
                "model": count.get("model", ""),
                "choices": [choice],
                "usage": usage,
            }
        )


def _usage(count: dict[str, Any]) -> dict[str, int]:
    letters = sum(len(str(one.get("content", ""))) for one in count["messages"])
    prompt = max(1, letters // LETTERS_PER_TOKEN)
    answer = int(count.get("max_tokens") or USUAL_TOKENS)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


async def _stream(
    request: web.Request, count: dict[str, Any], usage: dict[str, int]
) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    with contextlib.suppress(ConnectionError):  # the client has disconnected
        await _send_chunks(request, answer, count, usage)
    return answer


async def _send_chunks(
    request: web.Request,
    answer: web.StreamResponse,
    count: dict[str, Any],
    usage: dict[str, int],
) -> None:
    await answer.prepare(request)
    words = WORDS.split()
    share = max(1, len(words) // CHUNKS)
    for start in range(0, len(words), share):
        part = " ".join(words[start : start + share]) + " "
        delta = {"index": 0, "delta": {"content": part}, "finish_reason": None}
        await answer.write(_event(count, [delta]))
    if (count.get("stream_options") or {}).get("include_usage"):
        await answer.write(_event(count, [], usage=usage))
    await answer.write(b"data: [DONE]\n\n")


def _event(count: dict[str, Any], choices: list[Any], **more: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "model": count.get("model", ""),
        "choices": choices,
    }
    return b"data: " + json.dumps(chunk | more).encode() + b"\n\n"
