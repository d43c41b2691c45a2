"""Sessions over WebSocket: which one a path opens, and the model that its query names."""

from __future__ import annotations

from urllib.parse import parse_qsl

from gateway.metering.dialects.match import Match
from gateway.metering.dialects.paths import other_spellings
from gateway.metering.dialects.routes import GEMINI, OPENAI, PASSTHROUGH

_MODEL_CHARS = 200
# Query members that name a model: OpenAI's, Azure's.
_MODEL_NAMES = ("model", "deployment")


def session_match(path: str) -> Match:
    """The session that an upgrade to WebSocket opens at this path.

    Servers differ in which spellings of a path they take, so all lead to one session.
    """
    for spelling in (path, *other_spellings(path)):
        segments = [part for part in spelling.split("/") if part]
        last = segments[-1] if segments else ""
        if "bidigeneratecontent" in last.lower():
            return Match(GEMINI, "bidi_generate_content")
        if last == "responses":
            return Match(OPENAI, "responses")
        if "realtime" in segments[-2:]:
            return Match(OPENAI, "realtime")
    return Match(PASSTHROUGH, "other")


def session_model(query: str) -> str:
    """The model that the query names; "" if none, or if two differ."""
    try:
        members = parse_qsl(query, max_num_fields=100)
    except ValueError:
        return ""
    named = {value[:_MODEL_CHARS] for name, value in members if name in _MODEL_NAMES}
    return named.pop() if len(named) == 1 else ""
