"""Cohere requests."""

from gateway.metering.dialects import find_endpoint


def test_chat():
    """Model, cap, number of generations and size are read."""
    match = find_endpoint("POST", "/v1/chat")
    body = b'{"model":"c","message":"hello","max_tokens":8,"num_generations":3}'
    facts = match.dialect.read_request(match, body, "", "application/json")
    assert (facts.model, facts.max_tokens, facts.n, facts.prompt_bytes) == (
        "c",
        8,
        3,
        7,
    )
    assert not facts.stream
