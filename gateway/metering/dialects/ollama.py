"""Ollama's native API: lines of JSON with token counts in the last one."""

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
    Search,
    other_model,
    sum_sizes,
)
from gateway.metering.dialects.errors import ollama_error
from gateway.metering.dialects.meters import OLLAMA_HIT
from gateway.metering.dialects.requests import EMPTY, BodyReader, member, to_count
from gateway.metering.dialects.sizes import payload_size


class OllamaBody(msgspec.Struct):
    """Fields of chat, generate and embed."""

    model: str | None = None
    messages: Raw = EMPTY
    prompt: Raw = EMPTY
    system: Raw = EMPTY
    suffix: Raw = EMPTY
    input: Raw = EMPTY
    context: Raw = EMPTY
    tools: Raw = EMPTY
    images: Raw = EMPTY
    options: Raw = EMPTY
    stream: bool | None = None


_GENERATE = frozenset({"chat", "generate"})
_read = BodyReader(OllamaBody, fold_case=True).read


class Ollama(Dialect):
    """Streams by default; member names match in any case, as in Go."""

    name = "ollama"
    cap_paths: ClassVar[CapPaths] = (("options", "num_predict"),)
    fold_case = True
    searcher: ClassVar[tuple[Search]] = (OLLAMA_HIT,)
    error_writer: ClassVar[tuple[ErrorWriter]] = (ollama_error,)

    def cap_path(self, facts: RequestFacts) -> tuple[str, ...] | None:
        """``options.num_predict`` where text is generated."""
        return self.cap_paths[0] if facts.endpoint in _GENERATE else None

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        given = _read(body)
        prompt_bytes, known, outside = sum_sizes(
            given.prompt,
            given.system,
            given.suffix,
            given.input,
            given.context,
            given.tools,
            content=(given.messages,),
        )
        if given.images is not EMPTY:
            known += payload_size(given.images, "image").tokens
        cap = to_count(member(given.options, "num_predict"), "num_predict")
        stream = match.endpoint in _GENERATE and given.stream is not False
        return RequestFacts(
            match.endpoint,
            match.model or given.model or "",
            stream,
            cap,
            1,
            None,
            prompt_bytes,
            known,
            match.billable,
            body_model=other_model(match, given.model),
            outside=outside,
        )
