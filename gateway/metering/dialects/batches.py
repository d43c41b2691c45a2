"""Batches whose requests are in the body: Anthropic's, and Gemini's inline ones.

A batch counts as its requests. The answer that accepts it states no usage, so it reserves
what its requests may cost, their prompts and their caps, until a later answer states what
they used (``results.py``).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from gateway.core.model import RequestFacts, Usage
from gateway.metering.dialects.anthropic import Anthropic
from gateway.metering.dialects.base import (
    CountTask,
    DialectError,
    HeaderLookup,
    PathMatch,
    UsageMeter,
)
from gateway.metering.dialects.gemini import Gemini
from gateway.metering.dialects.meters import NullMeter
from gateway.metering.dialects.outside import OUTSIDE_TOKENS
from gateway.metering.dialects.requests import EMPTY, BodyReader
from gateway.metering.dialects.results import GoogleBatchMeter, ResultsMeter

# Requests read of one batch: about 10 us each, and other clients wait meanwhile.
MAX_REQUESTS = 5000
# Completion tokens assumed of a request without a cap.
ASSUMED_COMPLETION = 4096
_BYTES_PER_TOKEN = 4
_NO_COMPLETION = frozenset({"batch_embed_content"})
_ACCEPTED = range(200, 300)


class _Batch(msgspec.Struct):
    requests: Raw = EMPTY
    batch: Raw = EMPTY


_read = BodyReader(_Batch).read
_list = msgspec.json.Decoder(list[Raw]).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode


class BatchMeter(NullMeter):
    """Charges an accepted batch at what its requests may cost."""

    __slots__ = ("_facts",)

    def __init__(self, facts: RequestFacts) -> None:
        super().__init__()
        self._facts = facts

    def finish(self, complete: bool) -> Usage | None:  # noqa: FBT001
        """The assumed usage; none for a batch whose requests are elsewhere."""
        facts = self._facts
        if not facts.parts:
            return Usage()
        prompt = facts.prompt_tokens_known + -(-facts.prompt_bytes // _BYTES_PER_TOKEN)
        completion = facts.max_tokens or 0
        return Usage(
            prompt,
            completion,
            prompt + completion,
            source="estimated",
            batch=True,
            answers=len(facts.parts),
        )

    def unstated(self) -> CountTask | None:
        """None: nothing to count."""
        return None


class AnthropicBatches(Anthropic):
    """``/v1/messages/batches``."""

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        read = super()._read_body
        params = [_member(one, "params") for one in _items(_read(body).requests)]
        return _sum(match, [read(match, bytes(one)) for one in params])

    def open_meter(
        self,
        match: PathMatch,
        facts: RequestFacts,
        status: int,
        headers: HeaderLookup,
        content_type: bytes,
    ) -> UsageMeter:
        """A meter that assumes the usage; of results, one that reads it."""
        if match.endpoint == "messages.batches.results" and status in _ACCEPTED:
            common = (match, facts, status, headers, b"application/json")
            return ResultsMeter(partial(super().open_meter, *common))
        return _open_meter(facts, status)


class GeminiBatches(Gemini):
    """``:batchGenerateContent`` and ``:asyncBatchEmbedContent``."""

    def _read_body(self, match: PathMatch, body: bytes) -> RequestFacts:
        read = super()._read_body
        batch = _read(body).batch
        source = _member(batch, "inputConfig", "input_config")
        inline = _member(source, "requests")
        items = _items(_member(inline, "requests")) if inline is not EMPTY else []
        parts = [read(match, bytes(_member(one, "request"))) for one in items]
        return _sum(match, parts)

    def open_meter(
        self,
        match: PathMatch,
        facts: RequestFacts,
        status: int,
        headers: HeaderLookup,
        content_type: bytes,
    ) -> UsageMeter:
        """A meter that assumes the usage; of a poll, one that reads it."""
        if match.polled and status in _ACCEPTED:
            common = (match, facts, status, headers, b"application/json")
            return GoogleBatchMeter(partial(super().open_meter, *common))
        return _open_meter(facts, status)


def _open_meter(facts: RequestFacts, status: int) -> UsageMeter:
    return BatchMeter(facts) if status in _ACCEPTED else NullMeter()


def _items(raw: Raw) -> list[Raw]:
    try:
        found = _list(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DialectError("'requests' must be a list", "requests") from None
    if len(found) > MAX_REQUESTS:
        message = f"a batch may have at most {MAX_REQUESTS} requests here"
        raise DialectError(message, "requests")
    return found


def _member(raw: Raw, *names: str) -> Raw:
    """The one of ``names`` that an object has; EMPTY if it is absent. Two are refused:
    servers differ in which they use.
    """
    if raw is EMPTY:
        return EMPTY
    try:
        members: dict[str, Any] = _members(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DialectError(f"the object with '{names[0]}' cannot be read") from None
    found = [members[name] for name in names if name in members]
    if len(found) > 1:
        raise DialectError(f"'{names[0]}' is given twice", names[0])
    return found[0] if found else EMPTY


def _sum(match: PathMatch, parts: list[RequestFacts]) -> RequestFacts:
    """One request that stands for all of a batch."""
    models = {part.model.strip().lower() for part in parts}
    if len(models) > 1:
        raise DialectError(
            "a batch of several models cannot be metered: send one for each", "model"
        )
    if any(part.models for part in parts):
        raise DialectError("a batch with lists of models cannot be metered", "models")
    facts = RequestFacts(
        match.endpoint,
        parts[0].model if parts else match.model,
        billable=match.billable,
        parts=tuple(parts),
        batch=True,
    )
    for part in parts:
        if part.max_tokens is not None and part.max_tokens <= 0:
            part.max_tokens, part.endless = None, True
        facts.prompt_bytes += part.prompt_bytes
        facts.prompt_tokens_known += part.prompt_tokens_known
        if part.outside:
            facts.prompt_tokens_known += OUTSIDE_TOKENS
            facts.searches += part.searches
            facts.outside = True
    if match.endpoint not in _NO_COMPLETION:
        facts.max_tokens = sum(
            (part.max_tokens or ASSUMED_COMPLETION) * part.n for part in parts
        )
    return facts


ANTHROPIC_BATCHES = AnthropicBatches()
GEMINI_BATCHES = GeminiBatches()
