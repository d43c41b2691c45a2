"""The text of answers and prompts, for counting."""

import json

import pytest

from gateway.metering.dialects.base import FRAMES, JSON, NDJSON, OPAQUE, SSE
from gateway.metering.dialects.texts import (
    answer_texts,
    generated,
    kept_texts,
    prompt_texts,
    raw_texts,
    sse_payload,
)

ANSWERS = {
    "chat": ({"choices": [{"message": {"content": "hi"}}]}, "hi"),
    "chat parts": (
        {"choices": [{"message": {"content": [{"type": "text", "text": "hi"}, 3]}}]},
        "hi",
    ),
    "completions": ({"choices": [{"text": "a"}, {"text": "b"}, 7]}, "ab"),
    "reasoning": (
        {"choices": [{"delta": {"reasoning_content": "r", "reasoning": "r"}}]},
        "r",
    ),
    "reasoning details": (
        {"choices": [{"delta": {"content": "", "reasoning_details": [{"text": "r"}]}}]},
        "r",
    ),
    "tools": (
        {
            "choices": [
                {
                    "delta": {
                        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
                        "function_call": {"name": "g", "arguments": {"a": 1}},
                        "audio": {"transcript": "t"},
                    }
                }
            ]
        },
        'f{}g{"a": 1}t',
    ),
    "responses delta": ({"type": "response.output_text.delta", "delta": "d"}, "d"),
    "responses done": ({"type": "response.output_text.done", "text": "d"}, ""),
    "responses body": (
        {
            "object": "response",
            "output": [
                {"summary": [{"text": "s"}]},
                {"content": [{"type": "output_text", "text": "t"}]},
                {"name": "f", "arguments": "{}"},
            ],
        },
        "stf{}",
    ),
    "anthropic delta": (
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "d"}},
        "d",
    ),
    "anthropic tool start": (
        {
            "type": "content_block_start",
            "content_block": {"type": "tool_use", "name": "f", "input": {}},
        },
        "f{}",
    ),
    "anthropic body": (
        {"type": "message", "content": [{"type": "text", "text": "t"}]},
        "t",
    ),
    "anthropic complete": ({"type": "completion", "completion": " Hi"}, " Hi"),
    "anthropic start": ({"type": "message_start", "message": {"content": []}}, ""),
    "gemini": (
        {
            "candidates": [
                {
                    "content": {
                        "parts": [
                            {"text": "t"},
                            {"functionCall": {"name": "f", "args": {"x": 1}}},
                        ]
                    }
                },
                {"finishReason": "STOP"},
            ]
        },
        'tf{"x": 1}',
    ),
    "ollama chat": ({"message": {"content": "c", "thinking": "k"}}, "ck"),
    "ollama generate": ({"response": "r", "done": False}, "r"),
    "cohere v1": ({"event_type": "text-generation", "text": "t"}, "t"),
    "cohere v1 end": ({"event_type": "stream-end", "response": {"text": "t"}}, ""),
    "cohere v2 delta": (
        {"type": "content-delta", "delta": {"message": {"content": {"text": "t"}}}},
        "t",
    ),
    "cohere v2 tool": (
        {
            "type": "tool-call-delta",
            "delta": {"message": {"tool_calls": {"function": {"arguments": "{}"}}}},
        },
        "{}",
    ),
    "cohere generations": ({"generations": [{"text": "g"}]}, "g"),
    "converse": ({"output": {"message": {"content": [{"text": "c"}]}}}, "c"),
    "converse, no message": ({"output": {"message": None}}, ""),
    "converse delta": ({"contentBlockIndex": 0, "delta": {"text": "d"}}, "d"),
    "converse tool delta": ({"delta": {"toolUse": {"input": "{}"}}}, "{}"),
    "converse start": ({"start": {"toolUse": {"name": "f"}}}, "f"),
    "converse reasoning": (
        {"delta": {"reasoningContent": {"text": "r"}}},
        "r",
    ),
    "converse reasoning body": (
        {
            "output": {
                "message": {
                    "content": [
                        {"reasoningContent": {"reasoningText": {"text": "r"}}},
                        {"toolUse": {"name": "f", "input": {"a": 1}}},
                    ]
                }
            }
        },
        'rf{"a": 1}',
    ),
    "assistants": (
        {"delta": {"content": [{"type": "text", "text": {"value": "v"}}]}},
        "v",
    ),
    "plain delta": ({"delta": "d"}, "d"),
    "titan": ({"results": [{"outputText": "o"}]}, "o"),
    "ai21": ({"completions": [{"data": {"text": "a"}}]}, "a"),
    "llama": ({"generation": "g"}, "g"),
    "tgi": ({"token": {"text": "x"}, "generated_text": None}, "x"),
    "odd token": ({"token": 1}, ""),
    "odd start": ({"start": 1}, ""),
    "odd message": ({"message": "not text of a model"}, ""),
    "odd candidates": ({"candidates": 3}, ""),
    "llama.cpp": ({"content": "c", "stop": False}, "c"),
    "writer": ({"value": "w"}, "w"),
    "nothing": ({"done": True}, ""),
    "no object": ([], ""),
}


@pytest.mark.parametrize(("answer", "text"), ANSWERS.values(), ids=ANSWERS)
def test_generated(answer, text):
    """The generated text of every dialect is found once."""
    assert "".join(generated(answer)) == text


def test_framings():
    """Events, lines, bodies and arrays of bodies are read; opaque ones are not."""
    one = b'{"choices":[{"text":"a"}]}'
    assert list(answer_texts(SSE, [b"data: " + one + b"\n\n: x\n\ndata:[DONE]\n"])) == [
        "a"
    ]
    assert list(answer_texts(NDJSON, [one + b"\n" + one])) == ["a", "a"]
    assert list(answer_texts(FRAMES, [one + b"\n"])) == ["a"]
    assert list(answer_texts(JSON, [one[:5], one[5:]])) == ["a"]
    assert list(answer_texts(JSON, [b"[" + one + b"]"])) == ["a"]
    assert list(answer_texts(OPAQUE, [one])) == []


def test_truncated_answers():
    """In truncated JSON the visible texts are read."""
    assert list(answer_texts(JSON, [b'{"content":[{"text":"a\\n"},{"text":"bc'])) == [
        "a\n",
        "bc",
    ]
    assert list(answer_texts(SSE, [b'data: {"text":"a\\'])) == ["a"]
    assert next(iter(answer_texts(SSE, [b'data: {"text":"a\\x",']))) == "a\\x"


def test_kept_text_is_the_inside_of_strings():
    """Reduced records keep the contents of JSON strings, which decode to the text."""
    content = b'data: {"choices":[{"delta":{"content":"a\\n\\"b"}}]}\n\n'
    other = b'{"type":"content_block_delta","delta":{"text":"c"}}'
    closing = b'{"type":"response.output_text.done","text":"all"}'
    kept = [raw_texts(content), raw_texts(other), raw_texts(closing), b"\\"]
    assert kept[2] == b""
    assert "".join(kept_texts(kept)) == 'a\n"bc\\'


def test_payload_of_several_lines():
    """Several data lines make one payload."""
    assert sse_payload(b"event: x\ndata: {\ndata:1}\n\n") == b"{\n1}"


def test_prompts():
    """The text of every prompt member and schema counts; payloads and ids do not."""
    body = {
        "model": "m",
        "system": "S",
        "messages": [
            {
                "role": "user",
                "content": [{"text": "T"}, {"image_url": {"url": "http"}}, None, ""],
            }
        ],
        "tools": [{"name": "f"}],
    }
    texts, messages = prompt_texts(json.dumps(body).encode())
    assert (texts, messages) == (["S", "user", "T", '[{"name":"f"}]'], 1)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{" * 100_000])
def test_prompts_that_cannot_be_read(body):
    """An unreadable body has no texts."""
    assert prompt_texts(body) == ([], 0)


def test_every_member_of_a_document_is_text():
    """A reranker may read any (Cohere's ``rank_fields``)."""
    body = b'{"query":"q","documents":[{"id":"a b","url":"c"}],"input":[{"id":"d"}]}'
    texts, _ = prompt_texts(body)
    assert sorted(texts) == ["a b", "c", "q"]
