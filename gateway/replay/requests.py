"""One recorded request, for a draft policy and for the detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.model import ANONYMOUS_TENANT, Usage, UsageSource
from gateway.detect.event_mapping import event_from_fields, event_from_record
from gateway.detect.model import Event, EventError

# Recorded actions; ``enforced: false`` marks those of observe mode.
_REFUSING = frozenset({"throttle", "limit", "block"})
_ACTIONS = frozenset({"allow", "tag"}) | _REFUSING
_SOURCES: dict[str, UsageSource] = {
    "upstream": "upstream",
    "counted": "counted",
    "estimated": "estimated",
    "none": "none",
}
# Over 1,000 times the largest request of any model; larger values could overflow sums.
_MOST_TOKENS = 10**12
# Longest accepted duration of an exchange.
_LONGEST_S = 86_400.0


class Request(msgspec.Struct, array_like=True, gc=False):
    """One record. ``ts`` is epoch seconds, ``usd`` dollars at the prices of that time.

    ``misfit``: the gateway answered it itself because of a wrong key or path or an
    unreadable body, which no policy changes. ``assumed``: the request was refused when
    recorded and its usage is estimated.
    """

    ts: float
    duration_s: float
    tenant: str
    user: str
    client_ip: str
    model: str
    endpoint: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    source: UsageSource
    usd: float
    fingerprint: int | None
    action: str
    limit: str | None
    cls: str | None
    refused: bool
    misfit: bool
    assumed: bool = False
    key: str = ""

    @property
    def usage(self) -> Usage:
        """Its tokens as spend accounting counts them."""
        stated = self.prompt_tokens + self.completion_tokens
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            self.total_tokens or stated,
            self.cached_tokens,
            self.reasoning_tokens,
            0,
            self.source,
        )

    def event(self, usd: float, at: float) -> Event:
        """The request as an event at ``at`` (epoch seconds) that costs ``usd``."""
        return event_from_fields(self, ts=at, usd=usd)


def request_from_record(record: Mapping[str, Any]) -> Request:
    """Parse a record or an event. Raises EventError that names the field."""
    event = event_from_record(record)
    if event.tokens > _MOST_TOKENS:
        raise EventError("tokens: out of range")
    action = _action(record)
    outcome = record.get("outcome")
    refused = _was_refused(record, action)
    unknown = record.get("tenant") == ""  # of an unknown credential
    return Request(
        ts=event.ts,
        duration_s=min(_LONGEST_S, _number(record, "duration_ms") / 1e3),
        tenant=ANONYMOUS_TENANT if unknown else event.tenant,
        user=event.user,
        client_ip=event.client_ip,
        model=event.model,
        endpoint=event.endpoint,
        status=event.status,
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        total_tokens=event.total_tokens,
        cached_tokens=int(_number(record, "cached_tokens")),
        reasoning_tokens=int(_number(record, "reasoning_tokens")),
        source=_source(record, event),
        usd=event.usd,
        fingerprint=event.fingerprint,
        action=action,
        limit=_optional_text(record, "limit"),
        cls=_optional_text(record, "class"),
        refused=refused,
        misfit=outcome == "refused" and not refused,
        key=_optional_text(record, "key") or "",
    )


def request_of(event: Event) -> Request:
    """A request with only the fields of an event."""
    return Request(
        ts=event.ts,
        duration_s=0.0,
        tenant=event.tenant,
        user=event.user,
        client_ip=event.client_ip,
        model=event.model,
        endpoint=event.endpoint,
        status=event.status,
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        total_tokens=event.total_tokens,
        cached_tokens=0,
        reasoning_tokens=0,
        source="upstream" if event.tokens else "none",
        usd=event.usd,
        fingerprint=event.fingerprint,
        action="allow",
        limit=None,
        cls=None,
        refused=False,
        misfit=False,
    )


def _was_refused(record: Mapping[str, Any], action: str) -> bool:
    """Whether the recorded policy refused the request. Records without ``outcome`` are
    taken as enforced.
    """
    if action not in _REFUSING or record.get("enforced") is False:
        return False
    return record.get("outcome") in (None, "refused")


def _action(record: Mapping[str, Any]) -> str:
    value = record.get("action")
    if value is None:
        return "allow"
    if value not in _ACTIONS:
        raise EventError(f"action: one of {', '.join(sorted(_ACTIONS))} is expected")
    return str(value)


def _source(record: Mapping[str, Any], event: Event) -> UsageSource:
    """Events without ``usage_source``: tokens count as reported by the upstream."""
    value = record.get("usage_source")
    if value is None:
        return "upstream" if event.tokens else "none"
    if not isinstance(value, str) or value not in _SOURCES:
        raise EventError(f"usage_source: one of {', '.join(_SOURCES)} is expected")
    return _SOURCES[value]


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EventError(f"{name}: a number is expected, not {value!r:.60}")
    if not 0 <= value < _MOST_TOKENS:
        raise EventError(f"{name}: out of range")
    return float(value)


def _optional_text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise EventError(f"{name}: text is expected, not {value!r:.60}")
