"""What is part of a prompt and not text in the body."""

import json

import pytest
from msgspec import Raw

from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.outside import (
    IMAGE_TOKENS,
    SEARCHES,
    PromptReader,
    hosted_by_name,
    hosted_searches,
    is_text,
)

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GOOGLE = "/v1beta/models/gemini-2.5-pro:generateContent"
CONVERSE = "/model/amazon.nova-pro-v1:0/converse"
INVOKE = "/model/anthropic.claude-v2/invoke"
INTERACTIONS, COHERE = "/v1beta/interactions", "/v1/chat"
QUJD = "QUJD" * 1000


def read(path, body):
    match = find_endpoint("POST", path)
    return match.dialect.read_request(match, body, "", "application/json")


def content(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (RESPONSES, {"previous_response_id": "resp_1", "input": "hi"}),
        (RESPONSES, {"conversation": "conv_1", "input": "hi"}),
        (RESPONSES, {"conversation": {"id": "conv_1"}, "input": "hi"}),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}),
        (RESPONSES, {"input": [{"id": "msg_1"}]}),
        (RESPONSES, {"input": [{"content": [{"type": "input_file", "file_id": "f"}]}]}),
        (RESPONSES, {"input": [{"type": "input_file", "file_url": "https://x/a.pdf"}]}),
        (RESPONSES, {"tools": [{"type": "web_search"}], "input": "hi"}),
        (RESPONSES, {"tools": [{"type": "mcp", "server_url": "https://x"}]}),
        (RESPONSES, {"tools": [{"type": 5}]}),
        (RESPONSES, {"tools": "all"}),
        ("/v1/threads/t/runs", {"assistant_id": "a"}),
        ("/v1/threads/runs", {"assistant_id": "a"}),
        (CHAT, {"web_search_options": {"search_context_size": "low"}}),
        (CHAT, {"search_parameters": {"mode": "on"}}),
        (CHAT, {"data_sources": [{}]}),
        (CHAT, {"agent_id": "ag_1"}),
        (CHAT, {"vector_store_ids": ["vs_1"]}),
        (CHAT, {"prompt_id": "p"}),
        (CHAT, {"preset": "x"}),
        (CHAT, {"plugins": [{"id": "file-parser"}]}),
        (CHAT, {"extra_body": {"any": 1}}),
        (CHAT, {"model": "openai/gpt-4o:online"}),
        (CHAT, content({"type": "file", "file": {"file_id": "f"}})),
        (CHAT, content({"type": "document_url", "document_url": "https://x/a.pdf"})),
        (CHAT, content({"type": "video_url", "video_url": {"url": "https://x/a.mp4"}})),
        (MESSAGES, content({"type": "document", "source": {"url": "https://x/a.pdf"}})),
        (MESSAGES, content({"type": "document", "source": {"file_id": "file_1"}})),
        (MESSAGES, content({"type": "container_upload", "file_id": "file_1"})),
        (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        (MESSAGES, {"mcp_servers": [{"type": "url", "url": "https://x"}]}),
        (MESSAGES, {"container": "c_1"}),
        (GOOGLE, {"cachedContent": "cachedContents/1", "contents": []}),
        (GOOGLE, {"cached_content": "cachedContents/1"}),
        (GOOGLE, {"contents": [{"parts": [{"fileData": {"fileUri": "gs://x"}}]}]}),
        (GOOGLE, {"contents": {"parts": [{"file_data": {"file_uri": "gs://x"}}]}}),
        (GOOGLE, {"tools": [{"googleSearch": {}}]}),
        (GOOGLE, {"tools": [{"url_context": {}}, {"functionDeclarations": []}]}),
        (GOOGLE, {"tools": {}, "contents": [], "cachedContent": "c"}),
        (CONVERSE, content({"video": {"source": {"s3Location": {"uri": "s3://x"}}}})),
        (CONVERSE, content({"document": {"source": {"s3Location": {"uri": "s3://"}}}})),
        (CONVERSE, {"toolConfig": {"tools": [{"systemTool": {"name": "g"}}]}}),
        (CONVERSE, {"promptVariables": {"a": {"text": "b"}}}),
        (INVOKE, {"tools": [{"type": "tool_search_20251119"}]}),
        (INTERACTIONS, {"previous_interaction_id": "i", "input": "x"}),
        (INTERACTIONS, {"agent": "deep-research", "input": "x"}),
        (INTERACTIONS, {"input": [{"type": "video", "uri": "https://x"}]}),
        (INTERACTIONS, {"tools": [{"type": "google_search"}]}),
        (COHERE, {"connectors": [{"id": "web-search"}], "message": "x"}),
        (COHERE, {"conversation_id": "c", "message": "x"}),
    ],
)
def test_references_are_noticed(path, body):
    """Each makes the prompt one that no size bounds, also with escapes in names."""
    model = "" if path in {CONVERSE, INVOKE, GOOGLE} else "m"
    text = json.dumps({"model": model, **body})
    assert read(path, text.encode()).outside
    name = next(iter(body))
    if name not in {"model", "messages", "toolConfig"}:
        escaped = text.replace(name, f"\\u{ord(name[0]):04x}{name[1:]}", 1)
        assert read(path, escaped.encode()).outside


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, content({"type": "text", "text": "the file_id of a [document]"})),
        (CHAT, content({"type": "image_url", "image_url": "https://x/a.png"})),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "web_search"}}]}),
        (CHAT, {"web_search_options": None, "data_sources": []}),
        (CHAT, {"tools": None}),
        (RESPONSES, {"previous_response_id": None, "input": "x", "conversation": None}),
        (RESPONSES, {"input": [{"id": "msg_1", "role": "user", "content": "x"}]}),
        (RESPONSES, {"input": [{"type": "reasoning", "id": "r", "summary": []}]}),
        (RESPONSES, {"input": [{"type": "function_call", "id": "x", "name": "f"}]}),
        (RESPONSES, {"input": [{"type": "input_image", "file_id": "f"}]}),
        (RESPONSES, {"tools": [{"type": "custom"}, {"type": "apply_patch"}, None]}),
        (MESSAGES, {"tools": [{"name": "x", "input_schema": {"type": "object"}}]}),
        (MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        (MESSAGES, content({"type": "image", "source": {"url": "https://x/a.png"}})),
        (MESSAGES, content({"type": "search_result", "source": "https://x"})),
        (MESSAGES, content({"type": "tool_result", "content": [{"type": "text"}]})),
        (GOOGLE, {"contents": [{"parts": [{"text": "x"}, {"functionCall": {}}]}]}),
        (GOOGLE, {"tools": [{"functionDeclarations": [{"name": "x"}]}]}),
        (
            GOOGLE,
            {
                "contents": [
                    {"parts": [{"fileData": {"mimeType": "image/png", "fileUri": "x"}}]}
                ]
            },
        ),
        (
            CONVERSE,
            content({"text": "x"}, {"toolResult": {"content": [{"text": "x"}]}}),
        ),
        (CONVERSE, {"toolConfig": {"tools": [{"toolSpec": {"name": "x"}}]}}),
        ("/v1/embeddings", {"input": ["a", "b"]}),
    ],
)
def test_whole_prompts(path, body):
    """Text, pictures and tools of the client do not make a prompt unbounded."""
    body = {"model": "m", **body}
    assert not read(path, json.dumps(body).encode()).outside


def known(part):
    reader = PromptReader()
    reader.read(json.dumps([{"content": [part]}]).encode())
    return reader.payload, reader.tokens, reader.outside


def test_payloads_by_kind():
    """Sound, videos and PDFs have tokens by their size; other files count as text."""
    audio = {"type": "input_audio", "input_audio": {"data": QUJD, "format": "mp3"}}
    assert known(audio) == (4000, 51, False)
    inline = {"inlineData": {"mimeType": "video/mp4", "data": QUJD}}
    assert known(inline) == (4000, 41, False)
    pdf = {"type": "document", "source": {"data": "JVBERi" + QUJD}}
    assert known(pdf) == (4006, 134, False)
    docx = {"type": "file", "file": {"file_data": "UEsDB" + QUJD}}
    assert known(docx) == (0, 0, True)
    text = {"type": "file", "file": {"file_data": "data:text/csv;base64," + QUJD}}
    assert known(text) == (0, 0, False)
    # Called a picture, and none.
    url = "data:image/png;base64," + QUJD
    fake = {"type": "image_url", "image_url": {"url": url}}
    assert known(fake) == (4022, IMAGE_TOKENS + len(url) // 30, False)


def test_unreadable_messages():
    """Lone surrogates are read; other errors and endless nesting make no bound."""
    reader = PromptReader()
    reader.read(b'[{"content":[{"type":"text","x":1,"text":"\\ud83d"}]}]')
    assert not reader.outside
    reader.read(b'[{"content":[{"type":"text","x":NaN}]}]')
    assert reader.outside
    reader = PromptReader()
    reader.read(b'{"content":' * 30 + b"[]" + b"}" * 30)
    assert reader.outside
    reader = PromptReader()
    reader.read(b'[[["x"]], 5, {"images": [["x"]]}]')
    assert reader.outside
    assert not is_text(b"nothing")


def test_attachments():
    """Of an assistant's message."""
    reader = PromptReader()
    reader.read(b'[{"content":"x","attachments":[{"file_id":"f"}]}]')
    assert reader.outside


def test_searches():
    """As many as each tool says, or a number that is assumed."""
    web = b'{"type":"web_search_20250305","max_uses":%b}'
    assert hosted_searches(Raw(b"[" + web % b"100" + b"]")) == 100
    assert hosted_searches(Raw(b"[" + web % b"true" + b"]")) == 1
    assert hosted_searches(Raw(b"[" + web % b"1000000" + b"]")) == SEARCHES
    assert hosted_searches(Raw(b"[" + web % b"3" + b"," + web % b"0" + b"]")) == 23
    assert hosted_searches(Raw(b"null")) == hosted_by_name(Raw(b"null")) == 0
    assert hosted_by_name(Raw(b'[{"googleSearch":{}},{"urlContext":{}}]')) == 40
    assert hosted_by_name(Raw(b'"all"')) == SEARCHES


def test_pictures_of_embeddings():
    """Each has a flat number of tokens; a member of another kind has none."""
    body = b'{"model":"m","images":["data:image/png;base64,iVBORw0KGgo=","QUJD"]}'
    assert read("/v1/embed", body).prompt_tokens_known == 2 * IMAGE_TOKENS
    reader = PromptReader()
    reader.read(b"5")
    assert (reader.payload, reader.tokens, reader.outside) == (0, 0, False)
