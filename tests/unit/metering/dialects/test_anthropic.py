"""Anthropic requests."""

from gateway.metering.dialects import find_endpoint


def read(body: bytes, path: str):
    match = find_endpoint("POST", path)
    return match.dialect.read_request(match, body, "", "application/json")


def test_messages():
    """Model, cap, user and size of a messages request are read."""
    facts = read(
        b'{"model":"c","max_tokens":5,"messages":[{}],"system":"abc","stream":true,'
        b'"metadata":{"user_id":"u"}}',
        "/v1/messages",
    )
    assert (facts.model, facts.max_tokens, facts.user) == ("c", 5, "u")
    assert (facts.prompt_bytes, facts.stream) == (9, True)


def test_vertex():
    """On Vertex, model and stream come from the path."""
    path = "/v1/projects/p/locations/l/publishers/anthropic/models/claude@1:"
    facts = read(b'{"messages":[{}],"max_tokens":5}', path + "streamRawPredict")
    assert (facts.model, facts.stream) == ("claude@1", True)


def test_complete():
    """The legacy endpoint's cap has its own name."""
    facts = read(b'{"prompt":"Human:","max_tokens_to_sample":7}', "/v1/complete")
    assert (facts.max_tokens, facts.prompt_bytes, facts.stream) == (7, 8, False)
