"""Requests as detector events: the one place where a record becomes an ``Event``.

Live records (``RequestRecord``), stored records and bare events (JSON objects) and lines
of the usual types (``EventLine``) all follow the same two rules here: which refusals by
the gateway count as unanswered, and what replaces a missing field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import msgspec

from gateway.core.model import ANONYMOUS_TENANT, OPENED, RequestRecord
from gateway.detect.fingerprint import prompt_fingerprint
from gateway.detect.model import (
    REFUSED_STATUS,
    Event,
    EventError,
    finite_number,
    parse_time,
)
from gateway.identity.identify import ANONYMOUS
from gateway.metering.dialects.routes import find_endpoint

_FINGERPRINT_BITS = 64
# HTTP status of an event whose source states none.
_NO_STATUS = 200
_REFUSING = frozenset({"limit", "block"})
# Refusals by the gateway that say something about the client (malformed request, bad
# credential, unknown path or method). Their status is kept; others become REFUSED_STATUS.
_CLIENT_FAULTS = frozenset({400, 401, 404, 405})

Count = Annotated[int, msgspec.Meta(ge=0)]


class EventFields(Protocol):
    """Fields that a request of any source shares with ``Event``, under the same names."""

    client_ip: str
    user: str
    tenant: str
    model: str
    endpoint: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    status: int
    fingerprint: int | None


def event_from_fields(fields: EventFields, *, ts: float, usd: float) -> Event:
    """An Event at ``ts`` (epoch seconds) that costs ``usd`` dollars."""
    return Event(
        ts,
        fields.client_ip,
        fields.user,
        fields.tenant,
        fields.model,
        fields.endpoint,
        fields.prompt_tokens,
        fields.completion_tokens,
        fields.total_tokens,
        fields.status,
        usd,
        fields.fingerprint,
    )


def event_from_request(record: RequestRecord) -> Event:
    """A live record as an Event, dated when the record was made: records arrive in that
    order. A record of an exchange that is still open has not been answered yet.
    """
    status = _effective_status(record.status, record.outcome, record.action)
    print_ = record.fingerprint
    return Event(
        record.ts + record.duration_ms * 1e-3,
        record.client_ip,
        ANONYMOUS if record.unnamed else record.user,
        record.tenant or ANONYMOUS_TENANT,
        record.model,
        record.endpoint,
        record.prompt_tokens,
        record.completion_tokens,
        record.total_tokens,
        REFUSED_STATUS if record.phase == OPENED else status,
        record.usd,
        None if print_ is None else int(print_, 16),
    )


def unanswered(event: Event, ts: float) -> Event:
    """The same request at ``ts`` (epoch seconds), asked but not answered."""
    return msgspec.structs.replace(event, ts=ts, status=REFUSED_STATUS)


def event_from_record(record: Mapping[str, Any]) -> Event:
    """A record or a bare event (interfaces: Records) as an Event.

    Raises EventError that names the field which is missing or cannot be read.
    """
    total = _count(record, "total_tokens")
    prompt = _count(record, "prompt_tokens")
    return Event(
        ts=parse_time(_first(record, "ts", "timestamp")),
        client_ip=_text(record, "client_ip") or _missing("client_ip"),
        user=_text(record, "user", "user_id") or "anonymous",
        tenant=_text(record, "tenant") or "default",
        model=_text(record, "model", "model_name"),
        endpoint=_endpoint(_text(record, "endpoint", "path")),
        prompt_tokens=prompt,
        completion_tokens=_count(record, "completion_tokens"),
        total_tokens=total,
        status=_status(record),
        usd=_number(record, "usd"),
        fingerprint=_fingerprint(record),
    )


class EventLine(msgspec.Struct, gc=False):
    """What ``event_from_record`` reads of a record, where all of it is of the usual
    type: for decoders that skip the rest. Keys that are seldom used are not here.
    """

    ts: str | float | None = None
    timestamp: str | float | None = None
    client_ip: str | None = None
    user: str | None = None
    user_id: str | None = None
    tenant: str | None = None
    model: str | None = None
    model_name: str | None = None
    endpoint: str | None = None
    path: str | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    status: Count | None = None
    usd: float | None = None
    fingerprint: str | int | None = None
    prompt: Any = None
    outcome: Any = None
    action: Any = None


def event_from_line(line: EventLine) -> Event:
    """As ``event_from_record``, several times as fast. Raises EventError."""
    ts = line.timestamp if line.ts is None else line.ts
    endpoint = line.path if line.endpoint is None else line.endpoint
    status = line.status or _NO_STATUS
    if line.outcome != "ok":
        status = _effective_status(status, line.outcome, line.action)
    print_ = line.fingerprint
    if print_ is not None:
        print_ = _print(print_)
    elif isinstance(line.prompt, str):
        print_ = prompt_fingerprint(line.prompt)
    user = line.user_id if line.user is None else line.user
    return Event(
        parse_time(_missing("timestamp") if ts is None else ts),
        line.client_ip or _missing("client_ip"),
        user or "anonymous",
        line.tenant or "default",
        (line.model_name if line.model is None else line.model) or "",
        _endpoint(endpoint or ""),
        line.prompt_tokens or 0,
        line.completion_tokens or 0,
        line.total_tokens or 0,
        status,
        max(0.0, line.usd) if line.usd else 0.0,
        print_,
    )


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return 0.0 if value is None else max(0.0, finite_number(name, value))


def _count(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    if type(value) is int and value >= 0:
        return value
    return int(_number(record, name))


def _first(record: Mapping[str, Any], *names: str) -> object:
    for name in names:
        value = record.get(name)
        if value is not None:
            return value
    return _missing(names[-1])


def _missing(name: str) -> str:
    raise EventError(f"{name}: missing")


def _text(record: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = record.get(name)
        if isinstance(value, str):
            return value
        if value is not None:
            raise EventError(f"{name}: text is expected, not {value!r:.60}")
    return ""


def _status(record: Mapping[str, Any]) -> int:
    """The answer's status; REFUSED_STATUS where the gateway itself turned it away, by
    a limit, a block, or for lack of room. A wrong key or path is the client's doing.
    """
    status = _count(record, "status") or _NO_STATUS
    return _effective_status(status, record.get("outcome"), record.get("action"))


def _effective_status(status: int, outcome: object, action: object) -> int:
    if outcome is None and isinstance(action, str) and action in _REFUSING:
        return REFUSED_STATUS
    if outcome == "refused" and status not in _CLIENT_FAULTS:
        return REFUSED_STATUS
    return status


def _endpoint(name: str) -> str:
    if name.startswith("/"):
        return find_endpoint("POST", name.partition("?")[0]).endpoint
    return name or "other"


def _fingerprint(record: Mapping[str, Any]) -> int | None:
    value = record.get("fingerprint")
    if value is None:
        prompt = record.get("prompt")
        return prompt_fingerprint(prompt) if isinstance(prompt, str) else None
    return _print(value)


def _print(value: Any) -> int:
    if isinstance(value, int):
        number = value
    else:
        try:
            number = int(value, 16)
        except (TypeError, ValueError):
            raise EventError("fingerprint: 16 hex digits are expected") from None
    if number < 0 or number.bit_length() > _FINGERPRINT_BITS:
        raise EventError("fingerprint: 16 hex digits are expected")
    return number
