"""Errors that refuse a member which the gateway has written in."""

from __future__ import annotations

import json

import pytest

from gateway.core.model import RequestFacts
from gateway.metering.dialects.anthropic import Anthropic
from gateway.metering.dialects.openai import OpenAI
from gateway.metering.dialects.refused import names_stream_options, refuses_member

NAME, NEW = "max_tokens", "max_completion_tokens"
AZURE = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "type": "invalid_request_error",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}
OLD = "Unrecognized request argument supplied: max_tokens"
EXTRA = {"type": "extra_forbidden", "loc": ["body", "max_tokens"]}


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        ({"error": AZURE}, True),
        ({"error": AZURE | {"code": "unknown_parameter"}}, True),
        ({"error": {"message": OLD, "param": None}}, True),
        ({"detail": [{"type": "missing", "loc": ["body", "x"]}, EXTRA]}, True),
        ({"error": AZURE | {"param": "max_completion_tokens"}}, False),
        ({"error": AZURE | {"code": "invalid_value"}}, False),
        ({"error": AZURE | {"code": ["unsupported_parameter"]}}, False),
        ({"error": {"message": f"no model 'x'. {OLD}"}}, False),
        ({"error": {"message": f"{OLD} and more"}}, False),
        ({"error": "max_tokens"}, False),
        ({"detail": "max_tokens"}, False),
        ({"detail": ["max_tokens"]}, False),
        ({"detail": [EXTRA | {"loc": ["body", "tools", "max_tokens"]}]}, False),
        ({"detail": [EXTRA | {"type": "missing"}]}, False),
        ([AZURE], False),
        ({}, False),
    ],
)
def test_only_fields_that_name_the_member_refuse_it(error, refused):
    """A text may quote the client's own words, so it proves nothing."""
    assert refuses_member(json.dumps(error).encode(), NAME) is refused


@pytest.mark.parametrize("error", [b"", b"max_tokens", b"\xff", b"[" * 10_000])
def test_errors_that_cannot_be_read_refuse_nothing(error):
    """They pass on to the client."""
    assert not refuses_member(error, NAME)


@pytest.mark.parametrize(
    ("dialect", "endpoint", "model", "names"),
    [
        (OpenAI(), "chat.completions", "gpt-4o", [NAME, NEW]),
        (OpenAI(), "chat.completions", "openai/O3-mini", [NEW, NAME]),
        (OpenAI(), "completions", "gpt-4o", [NAME, ""]),
        (OpenAI(), "responses", "gpt-4o", ["max_output_tokens", ""]),
        (Anthropic(), "messages", "claude", [NAME, ""]),
    ],
)
def test_the_other_name_of_a_cap(dialect, endpoint, model, names):
    """Chat has two, and either may be chosen; other endpoints have one."""
    facts = RequestFacts(endpoint, model=model)
    assert [*dialect.cap_path(facts), dialect.other_cap_name(facts)] == names
    if names[1]:
        facts.cap_name = names[1]
        found = [*dialect.cap_path(facts), dialect.other_cap_name(facts)]
        assert found == names[::-1]


@pytest.mark.parametrize(
    ("error", "body", "refused"),
    [
        (b"Unknown parameter: 'stream_options'", b"{}", True),
        (b"Unknown parameter: 'stream_options'", b'{"model":"stream_options"}', False),
        (b"https://x.example/stream_options.png", b"{}", False),
    ],
)
def test_an_error_that_names_the_request_for_usage(error, body, refused):
    """Not one that quotes the client."""
    assert names_stream_options(error, body) is refused


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        ({"error": {"param": "stream_options"}}, True),
        ({"error": {"param": "stream_options.include_usage"}}, True),
        ({"error": {"param": None, "message": "404, 'stream_options'"}}, False),
        ({"error": {"param": "messages", "message": "stream_options"}}, False),
        ({"detail": [{"loc": ["body", "stream_options"]}]}, True),
        ({"detail": [{"loc": ["body", "messages"], "msg": "stream_options"}]}, False),
        ({"detail": ["stream_options", {"loc": "stream_options"}]}, False),
        ({"detail": "Unknown argument stream_options"}, False),
        ({"error": "stream_options"}, False),
    ],
)
def test_a_request_that_refers_to_text_elsewhere(error, refused):
    """Only a field that names the member counts, as the error may quote that text."""
    body = b'{"model":"m","image_url":{"url":"https://a.example/x.png"}}'
    assert names_stream_options(json.dumps(error).encode(), body) is refused
