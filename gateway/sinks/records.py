"""The public record: one JSON object per line."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from gateway.core.model import (
    Action,
    Metering,
    Outcome,
    PriceSource,
    RequestRecord,
    UsageSource,
)

_decode_record = msgspec.msgpack.Decoder(RequestRecord).decode
_encode_json = msgspec.json.Encoder().encode
_NEVER = float("-inf")


class PublicRecord(msgspec.Struct, gc=False):
    """The documented keys in their order (``docs/operations.md``, Records)."""

    ts: str
    request_id: str
    tenant: str
    user: str
    client_ip: str
    method: str
    path: str
    endpoint: str
    model: str
    stream: bool
    status: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    usage_source: UsageSource
    usd: float
    duration_ms: float
    ttfb_ms: float | None
    overhead_ms: float
    action: Action
    limit: str | None
    score: float
    cls: str | None = msgspec.field(name="class")
    reasons: tuple[str, ...]
    fingerprint: str | None
    outcome: Outcome
    # False: observe mode decided ``action`` but let the request pass.
    enforced: bool
    metering: Metering
    price_source: PriceSource
    key: str
    tags: tuple[str, ...]


def decode_record(entry: bytes) -> RequestRecord:
    """Decode a record from a worker's ring. Raises msgspec.DecodeError."""
    return _decode_record(entry)


class RecordWriter:
    """Encode records as lines. Caches the text of the last second, shared by a batch."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = _NEVER
        self._text = ""

    def timestamp(self, ts: float) -> str:
        """Epoch seconds as RFC 3339, always with microseconds and ``Z``."""
        micros = round(ts * 1_000_000)
        second, micro = divmod(micros, 1_000_000)
        if second != self._second:
            moment = datetime.fromtimestamp(second, UTC)
            self._text = moment.strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second
        return f"{self._text}.{micro:06d}Z"

    def line(self, r: RequestRecord) -> bytes:
        """The public record as one JSON object, without the line end."""
        # Positional arguments for speed: this runs once per request.
        return _encode_json(
            PublicRecord(
                self.timestamp(r.ts),
                r.request_id,
                r.tenant,
                r.user,
                r.client_ip,
                r.method,
                r.path,
                r.endpoint,
                r.model,
                r.stream,
                r.status,
                r.prompt_tokens,
                r.completion_tokens,
                r.total_tokens,
                r.cached_tokens,
                r.reasoning_tokens,
                r.usage_source,
                r.usd,
                r.duration_ms,
                r.ttfb_ms,
                r.overhead_ms,
                r.action,
                r.limit,
                r.score,
                r.cls,
                r.reasons,
                r.fingerprint,
                r.outcome,
                not r.would,
                r.metering,
                r.price_source,
                r.key,
                r.tags,
            )
        )
