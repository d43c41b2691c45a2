"""What the mock LLM API answers: each provider's JSON, and its streams as events.

An event is (name, payload); the name of an event that is no generated token begins with
"-".
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

WORD = " tide"
DEFAULT_TOKENS = 12
MESSAGE_TOKENS, REPLY_TOKENS = 3, 3
Event = tuple[str, dict[str, Any]]


class Request:
    """One received request, and its instructions for the mock."""

    def __init__(self) -> None:
        self.method = self.path = self.query = ""
        self.headers: dict[str, str] = {}
        self.fields: list[tuple[str, str]] = []
        self.raw = bytearray()
        self.body: dict[str, Any] = {}
        self.prompt = self.sent = 0
        self.whole = False

    def number(self, name: str, default: int) -> int:
        return int(self.headers.get(f"x-mock-{name}", default))

    @property
    def credential(self) -> str:
        headers = self.headers
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        key = parse_qs(self.query).get("key", ["-"])[0]
        named = headers.get("x-api-key") or headers.get("x-goog-api-key")
        return bearer or named or headers.get("api-key") or key

    @property
    def tokens(self) -> int:
        """Number of tokens to generate: the header's, at most the request's cap."""
        body = self.body
        caps = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        found = [int(float(body[name])) for name in caps if body.get(name)]
        return min([self.number("tokens", DEFAULT_TOKENS), *found])

    @property
    def states_usage(self) -> bool:
        return self.headers.get("x-mock-usage") != "none"


def words(value: Any) -> int:
    """Tokens of a prompt part: the words of all its strings."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(map(words, value))
    if isinstance(value, dict):
        return sum(words(value[k]) for k in ("text", "content", "parts") if k in value)
    return 0


def prompt_tokens(body: dict[str, Any]) -> int:
    """Prompt tokens by OpenAI's chat format: roles, and three tokens a message."""
    messages = body.get("messages", [])
    tokens = sum(1 + MESSAGE_TOKENS + words(m.get("content")) for m in messages)
    if messages:
        tokens += REPLY_TOKENS
    for name in ("input", "prompt", "contents", "system", "instructions"):
        tokens += words(body.get(name))
    return tokens


def openai_usage(request: Request, completion: int) -> dict[str, Any]:
    prompt = request.prompt
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": request.number("cached", 0)},
    }


def tool_call(index: int | None = None) -> dict[str, Any]:
    call: dict[str, Any] = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    return call if index is None else {"index": index, **call}


def chat_json(request: Request) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": WORD * request.tokens}
    if request.body.get("tools"):
        message = {"role": "assistant", "content": None, "tool_calls": [tool_call()]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = chat_head(request, "chat.completion")
    return head | {"choices": [choice], "usage": openai_usage(request, request.tokens)}


def chat_head(request: Request, kind: str) -> dict[str, Any]:
    model = request.body.get("model", "gpt-4o")
    return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000} | {
        "model": model
    }


def chat_events(request: Request) -> Iterator[Event]:
    head = chat_head(request, "chat.completion.chunk")
    asked = (request.body.get("stream_options") or {}).get("include_usage")
    for place in range(request.tokens):
        delta: dict[str, Any] = {"content": WORD}
        if request.body.get("tools"):
            delta = {"tool_calls": [tool_call(0)]} if place == 0 else {}
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield "", head | {"choices": [choice]}
    yield "-", head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    if asked and request.states_usage:
        usage = openai_usage(request, request.tokens)
        yield "-", head | {"choices": [], "usage": usage}
    yield "-", {"[DONE]": True}


def completions_json(request: Request) -> dict[str, Any]:
    choice = {"index": 0, "text": WORD * request.tokens, "finish_reason": "stop"}
    head = chat_head(request, "text_completion")
    return head | {"choices": [choice], "usage": openai_usage(request, request.tokens)}


def embeddings_json(request: Request) -> dict[str, Any]:
    vector: Any = [0.25, -0.5, 0.75, 1.0]
    if request.body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<4f", *vector)).decode()
    usage = {"prompt_tokens": request.prompt, "total_tokens": request.prompt}
    item = {"object": "embedding", "index": 0, "embedding": vector}
    return {"object": "list", "data": [item], "model": "e", "usage": usage}


def responses_json(request: Request, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": WORD * request.tokens, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant"} | {
        "status": status,
        "content": [part],
    }
    usage = {
        "input_tokens": request.prompt,
        "output_tokens": request.tokens,
        "total_tokens": request.prompt + request.tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    done = status == "completed"
    head = {"id": "resp_1", "object": "response", "created_at": 1_700_000_000}
    return head | {
        "status": status,
        "model": request.body.get("model", ""),
        "output": [message] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def responses_events(request: Request) -> Iterator[Event]:
    opened = responses_json(request, "in_progress")
    yield (
        "-response.created",
        {"type": "response.created", "sequence_number": 0, "response": opened},
    )
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    for number in range(request.tokens):
        kind = "response.output_text.delta"
        delta = {"delta": WORD, "sequence_number": number + 1, "logprobs": []}
        yield kind, {"type": kind} | place | delta
    kind = "response.completed"
    whole = {"response": responses_json(request), "sequence_number": 9999}
    yield f"-{kind}", {"type": kind} | whole


def messages_json(request: Request) -> dict[str, Any]:
    content: dict[str, Any] = {"type": "text", "text": WORD * request.tokens}
    reason = "end_turn"
    if request.body.get("tools"):
        content = {"type": "tool_use", "id": "toolu_1", "name": "get_weather"} | {
            "input": {"city": "Paris"}
        }
        reason = "tool_use"
    return messages_head(request) | {
        "content": [content],
        "stop_reason": reason,
        "usage": {"input_tokens": request.prompt, "output_tokens": request.tokens},
    }


def messages_head(request: Request) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model", ""),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": request.prompt, "output_tokens": 1},
    }


def messages_events(request: Request) -> Iterator[Event]:
    start = {"type": "message_start", "message": messages_head(request)}
    yield "-message_start", start
    block = {"type": "text", "text": ""}
    opened = {"type": "content_block_start", "index": 0, "content_block": block}
    yield "-content_block_start", opened
    for _ in range(request.tokens):
        kind = "content_block_delta"
        delta = {"type": "text_delta", "text": WORD}
        yield kind, {"type": kind, "index": 0, "delta": delta}
    yield "-content_block_stop", {"type": "content_block_stop", "index": 0}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"output_tokens": request.tokens}
    end = {"type": "message_delta", "delta": ended, "usage": usage}
    yield "-message_delta", end
    yield "-message_stop", {"type": "message_stop"}


def gemini_json(request: Request, tokens: int | None = None) -> dict[str, Any]:
    generated = request.tokens if tokens is None else tokens
    content = {"role": "model", "parts": [{"text": WORD * generated}]}
    usage = {
        "promptTokenCount": request.prompt,
        "candidatesTokenCount": request.tokens,
        "totalTokenCount": request.prompt + request.tokens,
    }
    return {"candidates": [{"content": content}], "usageMetadata": usage}


def gemini_events(request: Request) -> Iterator[Event]:
    for _ in range(request.tokens):
        yield "", gemini_json(request, 1)


JSON_ANSWERS = {
    "/chat/completions": chat_json,
    "/completions": completions_json,
    "/embeddings": embeddings_json,
    "/responses": responses_json,
    "/messages": messages_json,
    ":generateContent": gemini_json,
}
STREAM_ANSWERS = {
    "/chat/completions": chat_events,
    "/completions": chat_events,
    "/responses": responses_events,
    "/messages": messages_events,
    ":streamGenerateContent": gemini_events,
}


def encode_event(event: Event) -> bytes:
    name = event[0].removeprefix("-")
    payload = event[1]
    text = "[DONE]" if "[DONE]" in payload else json.dumps(payload)
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {text}\n\n".encode()
