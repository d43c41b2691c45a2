"""Which session a path opens, and the model that its query names."""

import pytest

from gateway.metering.dialects import session_match, session_model


@pytest.mark.parametrize(
    ("path", "dialect", "endpoint"),
    [
        ("/v1/realtime", "openai", "realtime"),
        ("/v1/realtim%65", "openai", "realtime"),
        ("/v1/realtim%2565", "openai", "realtime"),
        ("/V1/Realtime", "openai", "realtime"),
        ("/v1/realtime;a", "openai", "realtime"),
        ("/v1/realtime/.", "openai", "realtime"),
        ("/v1//realtime//", "openai", "realtime"),
        ("/v1%2Frealtime", "openai", "realtime"),
        ("/v1/realtime%20", "openai", "realtime"),
        ("/v1/realtime/translations", "openai", "realtime"),
        ("/openai/v1/realtime", "openai", "realtime"),
        ("/v1/responses", "openai", "responses"),
        ("/ws/g.v1beta.S.BidiGenerateContent", "gemini", "bidi_generate_content"),
        (
            "/ws/g.v1alpha.S.BidiGenerateContentConstrained",
            "gemini",
            "bidi_generate_content",
        ),
        ("/ws/g.LlmBidiService/BidiGenerateContent", "gemini", "bidi_generate_content"),
        ("/v1/listen", "passthrough", "other"),
        ("/", "passthrough", "other"),
    ],
)
def test_paths(path, dialect, endpoint):
    """Every spelling that some server takes opens the same session."""
    match = session_match(path)
    assert (match.dialect.name, match.endpoint) == (dialect, endpoint)
    assert match.billable
    assert not match.metered


@pytest.mark.parametrize(
    ("query", "model"),
    [
        ("", ""),
        ("model=m", "m"),
        ("a=b&deployment=d", "d"),
        ("model=a%2Fb", "a/b"),
        ("model=m&deployment=m", "m"),
        ("model=a&model=b", ""),
        ("model=", ""),
    ],
)
def test_queries(query, model):
    """One model is named, or none."""
    assert session_model(query) == model


def test_long_queries():
    """A query with too many members names no model."""
    assert session_model("&".join("model=m" for _ in range(200))) == ""
