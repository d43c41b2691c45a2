"""Gemini's Interactions: one endpoint for models and agents, with state on the server."""

from __future__ import annotations

from typing import ClassVar

import msgspec
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
from gateway.metering.dialects.errors import gemini_error
from gateway.metering.dialects.outside import add_outside
from gateway.metering.dialects.requests import (
    EMPTY,
    BodyReader,
    member_values,
    to_count,
)

_CAPS = ("max_output_tokens", "maxOutputTokens")


class InteractionBody(msgspec.Struct):
    """Fields of ``/v1beta/interactions``."""

    model: str | None = None
    agent: str | None = None
    input: Raw = EMPTY
    system_instruction: Raw = EMPTY
    tools: Raw = EMPTY
    response_format: Raw = EMPTY
    generation_config: Raw = EMPTY
    stream: bool | None = None
    background: bool | None = None
    previous_interaction_id: Raw = EMPTY


_read = BodyReader(InteractionBody).read


class Interactions(Dialect):
    """Answers with ``steps`` and a ``usage`` of totals."""

    name = "gemini"
    cap_paths: ClassVar[CapPaths] = tuple(("generation_config", one) for one in _CAPS)
    error_writer: ClassVar[tuple[ErrorWriter]] = (gemini_error,)

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, outside = sum_sizes(
            given.system_instruction,
            given.tools,
            given.response_format,
            items=(given.input,),
        )
        caps = member_values(given.generation_config, _CAPS)
        facts = RequestFacts(
            match.endpoint,
            given.model or given.agent or "",
            bool(given.stream),
            cap_of(*(to_count(cap, _CAPS[0]) for cap in caps)),
            1,
            None,
            prompt_bytes,
            known,
            match.billable,
            background=bool(given.background),
            outside=outside or bool(given.agent),
        )
        return add_outside(facts, given.tools, given.previous_interaction_id)

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """``generation_config.max_output_tokens``."""
        return self.cap_paths[0]


INTERACTIONS = Interactions()
