"""Prompt sizes without counting: text, token arrays, content that is not text."""

import json

import pytest
from msgspec import Raw

from gateway.metering.dialects.outside import IMAGE_TOKENS
from gateway.metering.dialects.sizes import content_size, payload_size, text_size

# Words without blanks: each character might be one of base64.
WORDS = "tell-me-about_the/tides+and=" * 4000
PNG = "iVBORw0KGgo" + "QUJD" * 5000


def size(value, **how):
    """The size of a member with this content, and its length."""
    text = json.dumps(value).encode()
    return content_size(Raw(text), **how), len(text)


@pytest.mark.parametrize("empty", [b"", b"null", b'""', b"[]", b"{}"])
def test_nothing(empty):
    """Absent and empty members have no size."""
    assert text_size(Raw(empty)) == content_size(Raw(empty)) == (0, 0, False)
    assert payload_size(Raw(empty), "image") == (0, 0, False)


def test_text():
    """Text counts by its bytes."""
    for read in (text_size, content_size):
        assert read(Raw(b'"abcdef"')) == (8, 0, False)
        assert read(Raw(b'["abcdef"]')) == (10, 0, False)
    assert content_size(Raw(b'[{"content":"x"}]')) == (17, 0, False)
    assert content_size(Raw(b'[{"content":"[x"}]')) == (18, 0, False)


@pytest.mark.parametrize(
    ("tokens", "count"), [(b"[1,2,3]", 3), (b"[[1,2],[3]]", 3), (b"[ 7 ]", 1)]
)
def test_token_arrays(tokens, count):
    """The tokens of an array are counted instead of its bytes."""
    assert text_size(Raw(tokens)) == content_size(Raw(tokens)) == (0, count, False)


def test_megabytes_of_tokens():
    """Of megabytes the head is counted."""
    tokens = b"[" + b"1234," * 400_000 + b"1234]"
    assert abs(text_size(Raw(tokens)).tokens - 400_001) < 10


@pytest.mark.parametrize(
    "value",
    [
        [{"content": WORDS}],
        [{"content": "data:" + WORDS}],
        [{"content": "data:image/png;base64," + PNG}],
        [{"content": [{"type": "text", "text": "data:image/png;base64," + PNG}]}],
        [{"content": [{"type": "text", "text": PNG, "data": PNG}]}],
        ["a", WORDS],
        ["a", "data:image/png;base64," + PNG],
        [{"content": [{"type": "tool_use", "input": {"data": PNG}}]}],
        [{"content": [{"type": "tool_use", "input": {"source": {"data": PNG}}}]}],
        [{"type": "function_call_output", "output": "data:image/png;base64," + PNG}],
        [{"content": [{"type": "document", "source": {"type": "text", "data": PNG}}]}],
        [{"content": [{"type": "image_url", "image_url": "data:" + WORDS}]}],
        [{"content": [{"type": "image_url", "image_url": "some words " + PNG}]}],
        [{"data": WORDS, "content": [{"type": "text", "x": [], "text": "a"}]}],
        [{"role": "user", "content": [], "x": [], "body": PNG}],
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_texts_are_texts_whatever_they_look_like(value, listed):
    """Only where an API takes a payload is one left out, and only if it is base64."""
    assert size(value, listed=listed) == (
        (len(json.dumps(value)), 0, False),
        size(value)[1],
    )


def test_payloads_are_left_out():
    """Base64 where the APIs take it does not count as text."""
    url = "data:image/png;base64," + PNG
    value = [
        {"content": [{"image_url": {"url": url}}, {"image_url": url}]},
        {"content": [{"type": "image", "source": {"data": PNG}}], "images": [PNG, PNG]},
        {"parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]},
    ]
    found, length = size(value)
    assert found == (length - 2 * len(url) - 4 * len(PNG), 6 * IMAGE_TOKENS, False)
    pictures = json.dumps([PNG, url]).encode()
    assert payload_size(Raw(pictures), "image") == (8, 2 * IMAGE_TOKENS, False)


def test_long_prompts_are_read_to_their_end():
    """Pictures after a megabyte of text count as those before it."""
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    text = {"type": "text", "text": "some words " * 100_000}
    assert size([{"content": [text, *[picture] * 10]}])[0].tokens == 7650
