"""The beginning of the newest prompt, found in any request body."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.prompt import HEAD_BYTES, prompt_head
from gateway.detect.fingerprint import fingerprint_bytes, prompt_fingerprint

PART = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "system", "content": "No."}, {"content": "Ask me"}]},
        {"messages": [{"content": [PART, {"type": "text", "text": "Ask me"}]}]},
        {"contents": [{"parts": [{"text": "Ask me"}]}]},
        {"model": "m", "prompt": "Ask me"},
        {"model": "m", "input": ["Ask me", "and me"]},
        {"inputText": "Ask me"},
    ],
)
def test_the_newest_text_is_found(body):
    """The last message of a chat, or the prompt member of other bodies, is found."""
    for separators in ((",", ":"), (", ", " : ")):
        assert (
            prompt_head(json.dumps(body, separators=separators).encode()) == b"Ask me"
        )


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"not json", b'{"content":null}', b'{"content": 5', b"\xff\xfe"],
)
def test_nothing_is_found_where_nothing_is(body):
    """Bodies without text, or without JSON, give an empty result."""
    assert prompt_head(body) == b""


def test_only_the_head_counts_and_the_end_is_searched_first():
    """Only 1 KiB of the last message counts, however long the conversation is."""
    history = [{"role": "user", "content": "old " * 100_000}]
    body = json.dumps({"messages": [*history, {"content": "new " * 9000}]}).encode()
    assert prompt_head(body) == b"new " * (HEAD_BYTES // 4)
    alone = json.dumps({"messages": [{"content": "x" * 300_000}]}).encode()
    assert prompt_head(alone) == b"x" * HEAD_BYTES


@given(st.text(max_size=900))
def test_it_is_hashed_like_the_text_itself(text):
    """The fingerprint of a body equals that of its prompt text, unless an escape is cut
    in two at the end of the head.
    """
    for ascii_only in (True, False):
        body = json.dumps({"content": text}, ensure_ascii=ascii_only)
        raw = body.encode("utf-8", "replace")
        if len(raw) <= HEAD_BYTES and not set(text) & set("\b\f\ud800"):
            plain = text.encode("utf-8", "replace")
            assert fingerprint_bytes(prompt_head(raw)) == fingerprint_bytes(plain)


def test_an_escape_may_be_cut_anywhere():
    """An escape that is cut off at the end of the head is left out."""
    for padding in range(12):
        text = "a" * (HEAD_BYTES - 6 - padding) + "\u00e9" * 9
        found = prompt_head(json.dumps({"content": text}).encode())
        assert found.startswith(b"a" * (HEAD_BYTES - 6 - padding))
        assert b"u00" not in found
    assert prompt_fingerprint("\u00e9") == fingerprint_bytes(
        prompt_head(b'{"content":"\\u00e9"}')
    )


def test_what_cannot_be_decoded_counts_as_it_is():
    """Text with an invalid escape counts undecoded."""
    assert prompt_head(b'{"content":"\\ud800 words"}') == b"\\ud800 words"
