"""A match: the facts of a path, with the dialect that reads the request."""

from gateway.metering.dialects.match import Match
from gateway.metering.dialects.routes import OPENAI


def test_repr_names_dialect_endpoint_and_model():
    """A match's repr names dialect, endpoint and model."""
    assert repr(Match(OPENAI, "chat", model="m")) == "Match(openai, chat, model='m')"
