"""Cohere v1 and v2, and compatible rerankers."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.base import PathMatch
from gateway.metering.dialects.dialect import (
    CapPaths,
    Dialect,
    ErrorWriter,
    Search,
    cap_of,
    sum_sizes,
)
from gateway.metering.dialects.errors import cohere_error
from gateway.metering.dialects.fallbacks import Routed, add_models
from gateway.metering.dialects.meters import META_HIT
from gateway.metering.dialects.outside import add_outside
from gateway.metering.dialects.requests import EMPTY, BodyReader, Count, count_items
from gateway.metering.dialects.sizes import payload_size


class CohereBody(Routed):
    """Fields of chat, generate, embed and rerank, both versions."""

    model: str | None = None
    message: Raw = EMPTY
    messages: Raw = EMPTY
    chat_history: Raw = EMPTY
    preamble: Raw = EMPTY
    prompt: Raw = EMPTY
    texts: Raw = EMPTY
    inputs: Raw = EMPTY
    images: Raw = EMPTY
    text: Raw = EMPTY
    query: Raw = EMPTY
    documents: Raw = EMPTY
    tools: Raw = EMPTY
    connectors: Raw = EMPTY
    conversation_id: Raw = EMPTY
    stream: bool | None = None
    max_tokens: Count = None
    num_generations: Count = None


_GENERATE = frozenset({"chat", "generate"})
# Documents of one search; long ones count as several, which only the answer states.
_SEARCH_DOCUMENTS = 100
_read = BodyReader(CohereBody).read


def _searches(documents: Raw) -> tuple[tuple[str, float], ...]:
    """The search units of a rerank request, at least."""
    count = count_items(documents) if documents is not EMPTY else 1
    return (("search_units", -(-count // _SEARCH_DOCUMENTS)),)


class Cohere(Dialect):
    """Answers with ``meta`` (v1) or ``usage`` (v2) of ``tokens``, ``billed_units``."""

    name = "cohere"
    cap_paths: ClassVar[CapPaths] = (("max_tokens",),)
    n_paths: ClassVar[CapPaths] = (("num_generations",),)
    searcher: ClassVar[tuple[Search]] = (META_HIT,)
    error_writer: ClassVar[tuple[ErrorWriter]] = (cohere_error,)

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """``max_tokens`` where text is generated."""
        return ("max_tokens",) if facts.endpoint in _GENERATE else None

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, outside = sum_sizes(
            given.message,
            given.preamble,
            given.prompt,
            given.texts,
            given.text,
            given.query,
            given.documents,
            given.tools,
            content=(given.messages, given.chat_history),
            items=(given.inputs,),
        )
        if given.images is not EMPTY:
            known += payload_size(given.images, "image").tokens
        facts = RequestFacts(
            match.endpoint,
            match.model or given.model or "",
            bool(given.stream),
            cap_of(given.max_tokens),
            max(1, given.num_generations or 1),
            None,
            prompt_bytes,
            known,
            match.billable,
            units=_searches(given.documents) if match.endpoint == "rerank" else (),
            outside=outside,
        )
        add_outside(facts, given.tools, given.connectors, given.conversation_id)
        return add_models(facts, given, given.model)
