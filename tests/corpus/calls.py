"""Requests and answers as providers write them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

FORM = "multipart/form-data; boundary=XX"
SSE = "text/event-stream"


class Call(NamedTuple):
    """A request and its answer; ``fields``: header fields of the answer."""

    provider: str
    call: str  # method and path
    body: bytes = b""
    answer: bytes = b"{}"
    kind: str = "application/json"
    fields: str = ""

    @property
    def content_type(self) -> str:
        """Of the request."""
        return FORM if self.body.startswith(b"--XX") else "application/json"


def form(**fields: Any) -> bytes:
    """A form of these fields; ``file`` and ``image`` are uploads."""
    body = b""
    for name, value in fields.items():
        upload = '; filename="a.wav"' if name in ("file", "image") else ""
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{upload}\r\n\r\n'
        data = value if isinstance(value, bytes) else str(value).encode()
        body += head.encode() + data + b"\r\n"
    return body + b"--XX--\r\n"


def events(*values: Any) -> bytes:
    """Server-sent events."""
    return b"".join(b"data: " + encode(value) + b"\n\n" for value in values)


def encode(value: Any) -> bytes:
    """A body: bytes as they are, all else as JSON."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def post(
    provider: str,
    path: str,
    body: Any,
    answer: Any,
    kind: str = "application/json",
    fields: str = "",
) -> Call:
    """A POST."""
    return Call(provider, f"POST {path}", encode(body), encode(answer), kind, fields)


def other(provider: str, *calls: str) -> list[Call]:
    """Calls whose bodies say nothing about a cost."""
    return [
        Call(provider, call, b"{}" if call.startswith("POST") else b"", b'{"id":"x"}')
        for call in calls
    ]


HELLO = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
TOKENS = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
ANTHROPIC_USAGE = {"input_tokens": 9, "output_tokens": 3}
META = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}


def chat(model: str, **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": model, "messages": HELLO, **more}


def chatted(model: str, **more: Any) -> dict[str, Any]:
    """The answer to it."""
    message = {"role": "assistant", "content": "Hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"model": model, "choices": [choice], "usage": {**USAGE, **more}}


def embedded(model: str) -> dict[str, Any]:
    """An answer with an embedding."""
    return {
        "model": model,
        "data": [{"embedding": [0.1]}],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


CLAUDE = "claude-sonnet-4-5"
SAID = {"type": "text", "text": "Hi"}
CONTENTS = {"contents": [{"parts": [{"text": "Hello"}]}]}
GEMINI = "gemini-2.5-flash"
CANDIDATES = {
    "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": META,
    "modelVersion": GEMINI,
}
MESSAGE = {
    "model": CLAUDE,
    "type": "message",
    "content": [SAID],
    "usage": ANTHROPIC_USAGE,
}
CONVERSED = {
    "output": {"message": {"content": [{"text": "Hi"}]}},
    "usage": {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12},
}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}
IMAGE = {"model": "dall-e-3", "prompt": "a cat", "size": "1024x1792", "quality": "hd"}
GPT = "gpt-4.1"
NOVA = "amazon.nova-lite-v1:0"
BATCH = {
    "requests": [
        {"custom_id": "1", "params": {**chat(CLAUDE), "max_tokens": 100}},
        {"custom_id": "2", "params": {**chat(CLAUDE), "max_tokens": 100}},
    ]
}
