"""Prompt sizes without parsing: text, token arrays, images, base64 excluded."""

import json

import pytest
from msgspec import Raw

from gateway.metering.dialects.sizes import IMAGE_TOKENS, payload_bytes, text_size


@pytest.mark.parametrize("empty", [b"", b"null", b'""', b"[]", b"{}"])
def test_nothing(empty):
    """Absent and empty members have no size."""
    assert text_size(Raw(empty)) == (0, 0)


def test_text():
    """Text counts by its bytes."""
    assert text_size(Raw(b'"abcdef"')) == (8, 0)
    assert text_size(Raw(b'["abcdef"]')) == (10, 0)


@pytest.mark.parametrize(
    ("tokens", "count"), [(b"[1,2,3]", 3), (b"[[1,2],[3]]", 3), (b"[ 7 ]", 1)]
)
def test_token_arrays(tokens, count):
    """The tokens of an array are counted instead of its bytes."""
    assert text_size(Raw(tokens)) == (0, count)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x"}},
        {"type": "input_image", "image_url": "https://x"},
        {"type": "image", "source": {"type": "url"}},
        {"inlineData": {"mimeType": "image/png", "data": "x"}},
    ],
)
def test_images(part):
    """Each image has a flat number of tokens."""
    messages = json.dumps([{"content": [{"type": "text"}, part, part]}]).encode()
    assert text_size(Raw(messages))[1] == 2 * IMAGE_TOKENS


def test_payloads_are_left_out():
    """Base64 in data URLs and data members does not count as text."""
    url = "data:image/png;base64," + "QUJD" * 10_000
    data = "QUJD" * 5_000
    value = [{"image_url": {"url": url}}, {"data": data}, {"images": [data, data]}]
    text = json.dumps(value).encode()
    size, _ = text_size(Raw(text))
    assert size == len(text) - len(url) - 3 * len(data)


def test_long_words_are_text():
    """A long word without a payload's member name counts in full."""
    text = json.dumps({"content": "a" * 50_000}).encode()
    assert payload_bytes(text) == 0
    assert payload_bytes(b'"' + "ä".encode() * 20_000 + b'"') == 0
    assert payload_bytes(b"word " * 20_000) == 0


def test_megabytes():
    """Of megabytes the head is read and the rest probed."""
    text = b'[{"content":"' + b"some words " * 200_000 + b'"}]'
    assert text_size(Raw(text)) == (len(text), 0)
    image = b'[{"content":[{"type":"image","data":"' + b"QUJD" * 900_000 + b'"}]}]'
    size, known = text_size(Raw(image))
    assert (size, known) == (len(image) - 3_600_000, IMAGE_TOKENS)
    tokens = b"[" + b"1234," * 400_000 + b"1234]"
    assert abs(text_size(Raw(tokens))[1] - 400_001) < 10


def test_a_payload_without_end():
    """A payload whose string never ends extends to the end."""
    text = b'{"data":"' + b"A" * 20_000
    assert payload_bytes(text) == 20_000
    assert payload_bytes(b"A" * 200_000) == 0
