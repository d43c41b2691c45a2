"""Ollama requests."""

import pytest

from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.outside import IMAGE_TOKENS


def read(body: bytes, path: str = "/api/chat"):
    match = find_endpoint("POST", path)
    return match.dialect.read_request(match, body, "", "application/json")


def test_chat():
    """Member names are read in any case, the cap from the options."""
    facts = read(b'{"Model":"m","messages":[{}],"Options":{"num_predict":"9"}}')
    assert (facts.model, facts.max_tokens, facts.prompt_bytes) == ("m", 9, 4)


@pytest.mark.parametrize(
    ("stream", "path", "streams"),
    [
        (b"", "/api/chat", True),
        (b'"stream":null', "/api/generate", True),
        (b'"stream":false', "/api/generate", False),
        (b'"stream":true', "/api/embed", False),
    ],
)
def test_streams_by_default(stream, path, streams):
    """Chat and generate stream by default, embeddings never."""
    assert read(b"{%b}" % stream, path).stream is streams


def test_context_and_images():
    """Context tokens are counted, images have a flat number, -1 is no cap."""
    facts = read(
        b'{"prompt":"hi","context":[1,2,3],"images":["QUJD"],'
        b'"options":{"num_predict":-1}}',
        "/api/generate",
    )
    assert facts.prompt_tokens_known == 3 + IMAGE_TOKENS
    assert facts.max_tokens is None
