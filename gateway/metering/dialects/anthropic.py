"""Anthropic: messages and the legacy text completions, on any host."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Raw

from gateway.core.model import RequestFacts
from gateway.metering.dialects.base import PathMatch
from gateway.metering.dialects.dialect import (
    CapPaths,
    Dialect,
    ErrorWriter,
    cap_of,
    sum_sizes,
)
from gateway.metering.dialects.errors import anthropic_error
from gateway.metering.dialects.fallbacks import Routed, add_models, tool_models
from gateway.metering.dialects.openai import named_user
from gateway.metering.dialects.outside import add_outside
from gateway.metering.dialects.requests import EMPTY, BodyReader, Count, asked_tier


class MessagesBody(Routed):
    """Fields of ``/v1/messages`` and ``/v1/complete``."""

    model: str | None = None
    max_tokens: Count = None
    messages: Raw = EMPTY
    system: Raw = EMPTY
    tools: Raw = EMPTY
    stream: bool | None = None
    metadata: Raw = EMPTY
    prompt: Raw = EMPTY
    max_tokens_to_sample: Count = None
    speed: Raw = EMPTY
    service_tier: Raw = EMPTY
    mcp_servers: Raw = EMPTY
    container: Raw = EMPTY


_read = BodyReader(MessagesBody, longest="messages").read


class Anthropic(Dialect):
    """Answers with ``content`` blocks and a ``usage`` that excludes cached tokens."""

    name = "anthropic"
    cap_paths: ClassVar[CapPaths] = (("max_tokens",), ("max_tokens_to_sample",))
    error_writer: ClassVar[tuple[ErrorWriter]] = (anthropic_error,)

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """``max_tokens``; another name in the old completions call."""
        if facts.endpoint == "complete":
            return ("max_tokens_to_sample",)
        return ("max_tokens",)

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, outside = sum_sizes(
            given.tools, given.prompt, content=(given.messages, given.system)
        )
        stream = given.stream if match.stream is None else match.stream
        facts = RequestFacts(
            match.endpoint,
            match.model or given.model or "",
            bool(stream),
            cap_of(given.max_tokens, given.max_tokens_to_sample),
            1,
            named_user(None, given.metadata, None),
            prompt_bytes,
            known,
            match.billable,
            tier=asked_tier(given.speed, given.service_tier),
            outside=outside,
        )
        add_outside(facts, given.tools, given.mcp_servers, given.container)
        if given.tools is not EMPTY:
            facts.tools = tool_models(given.tools)
        return add_models(facts, given, given.model)
