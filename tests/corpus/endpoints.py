"""One request to each endpoint of the providers, with an answer as the provider gives it."""

from __future__ import annotations

from tests.corpus.calls import Call
from tests.corpus.endpoints_openai import ANTHROPIC, AZURE, OPENAI
from tests.corpus.endpoints_other import (
    BEDROCK,
    COHERE,
    COMPATIBLE,
    GOOGLE,
    OLLAMA,
    SERVERS,
    VERTEX,
)

CALLS: list[Call] = [
    *OPENAI,
    *AZURE,
    *ANTHROPIC,
    *GOOGLE,
    *VERTEX,
    *OLLAMA,
    *COHERE,
    *BEDROCK,
    *SERVERS,
    *COMPATIBLE,
]

__all__ = ["CALLS", "Call"]
