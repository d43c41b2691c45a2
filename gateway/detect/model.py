"""What goes into the detector and what comes out of it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Literal

import msgspec

from gateway.core.model import Campaign
from gateway.detect.fingerprint import prompt_fingerprint
from gateway.metering.dialects.routes import find_endpoint

AttackClass = Literal[
    "cost_spike",
    "ddos",
    "scraping",
    "credential_abuse",
    "probing",
    "surge",
    "outage",
    "volume",
]
# Nobody's fault: information, never acted on.
HARMLESS: frozenset[str] = frozenset({"surge", "outage"})
OutputType = Literal[
    "incident.opened",
    "incident.updated",
    "incident.resolved",
    "client.tagged",
    "client.throttled",
    "client.blocked",
    "client.unblocked",
]
Severity = Literal["info", "warning", "critical"]
Rung = Literal["allow", "tag", "throttle", "block"]
RUNGS: tuple[Rung, ...] = ("allow", "tag", "throttle", "block")

# Numbers below are epoch seconds, milliseconds or microseconds by their size: seconds
# stay under 1e11 until the year 5138, and 1e11 ms is 1973.
_SECONDS_END = 1e11
_MILLIS_END = 1e14
_LAST_TIME = 253_402_300_800.0  # end of the year 9999: what dates can express
_FINGERPRINT_BITS = 64
_NO_STATUS = 200  # where the source does not say
_REFUSING = frozenset({"limit", "block"})
# Refusals of the gateway that say something about the client.
_OWN_DOING = frozenset({400, 401, 404, 405})
# An event that the gateway itself refused: it was asked, but nothing was answered.
REFUSED_STATUS = 0


Count = Annotated[int, msgspec.Meta(ge=0)]


class EventError(ValueError):
    """A record that cannot be read as an event; the text names the field."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One finished request. ``ts`` is epoch seconds, ``usd`` dollars.

    ``fingerprint`` is the similarity hash of the prompt (``fingerprint.py``), None when
    unknown. ``status`` is the answer's; 200 where the source does not say.
    """

    ts: float
    client_ip: str
    user: str = "anonymous"
    tenant: str = "default"
    model: str = ""
    endpoint: str = "other"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    status: int = 200
    usd: float = 0.0
    fingerprint: int | None = None
    # How many requests of one client it stands for; tokens and money are their sums.
    times: int = 1

    @property
    def tokens(self) -> int:
        """The provider's own total, else prompt + completion."""
        return self.total_tokens or self.prompt_tokens + self.completion_tokens


class Ref(msgspec.Struct, frozen=True, gc=False):
    """A subject by kind (``client_ip``, ``user``, ``tenant``) and id."""

    kind: str
    id: str


class Window(msgspec.Struct, frozen=True, gc=False, rename={"since": "from"}):
    """From when to when the evidence was seen, RFC 3339."""

    since: str
    to: str


class Output(msgspec.Struct, frozen=True, rename={"cls": "class"}):
    """One line of ``watch --json`` and one alert payload (interfaces: Verdicts)."""

    type: OutputType
    id: str
    ts: str
    severity: Severity
    cls: AttackClass
    score: float
    subject: Ref
    tenant: str
    action: Rung
    until: str | None
    window: Window
    observed: dict[str, float]
    expected: dict[str, float]
    reasons: tuple[str, ...]
    subjects: tuple[Ref, ...] = ()

    @property
    def at(self) -> float:
        """``ts`` as epoch seconds."""
        return datetime.fromisoformat(self.ts).timestamp()


class LadderSettings(msgspec.Struct, frozen=True, gc=False):
    """Sigma from which a subject is tagged, throttled, blocked, and for how long.

    A block starts at ``block_ttl_s`` and doubles with every return up to
    ``max_ttl_s``; a tag or throttle ends ``calm_s`` after its last evidence, and
    ``forgive_s`` of good conduct takes one doubling back.
    """

    tag: float = 3.0
    throttle: float = 4.0
    block: float = 5.0
    block_ttl_s: float = 600.0
    max_ttl_s: float = 86_400.0
    calm_s: float = 300.0
    forgive_s: float = 21_600.0


class DetectSettings(msgspec.Struct, frozen=True):
    """Everything that the detector can be told; defaults are the product's."""

    warning: float = 3.0
    critical: float = 5.0
    ladder: LadderSettings = LadderSettings()
    # Ladders of some classes, in place of ``ladder``.
    class_ladders: dict[str, LadderSettings] = {}
    campaigns: tuple[Campaign, ...] = ()
    # No more than this share of a tenant's recently active users may be blocked at
    # once without a human; strangers (first seen in the attack) do not count.
    max_blocked_share: float = 0.2
    # Own history from which volume against oneself counts fully, seconds.
    grace_s: float = 86_400.0
    # Subjects never acted on, "kind:id" as policies write them, also "network:CIDR".
    allow: frozenset[str] = frozenset()
    # Observe: verdicts and incidents as ever, but every action is ``allow``.
    observe: bool = False
    # Events are held this long to be put into order; 0 handles them as they come
    # (late ones are then counted into the windows they belong to).
    reorder_s: float = 0.0
    # Subjects of each kind that a tenant remembers exactly (about 2 KB each); beyond
    # them the least recently seen are forgotten.
    max_subjects: int = 20_000
    # Tenants; a quarter of them, not seen for longest, makes room when there are more.
    max_tenants: int = 2_000
    # Subjects with a week of history.
    max_baselines: int = 12_000


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
        status = _refused(status, line.outcome, line.action)
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


def parse_time(value: object) -> float:
    """Epoch seconds of RFC 3339 text (no zone: UTC) or of a number of seconds,
    milliseconds or microseconds. Raises EventError.
    """
    ts = _moment(value) if isinstance(value, str) else None
    if ts is None:
        ts = _epoch(_float("timestamp", value))
    if not 0 <= ts < _LAST_TIME:
        raise EventError(f"timestamp: out of range: {value!r:.60}")
    return ts


def format_time(ts: float) -> str:
    """Epoch seconds as RFC 3339 with milliseconds, UTC."""
    moment = datetime.fromtimestamp(ts, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _epoch(number: float) -> float:
    size = abs(number)
    if size < _SECONDS_END:
        return number
    return number / 1e3 if size < _MILLIS_END else number / 1e6


def _float(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise EventError(f"{name}: a number is expected, not {value!r:.60}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise EventError(f"{name}: a number is expected, not {value!r:.60}") from None
    if not isfinite(number):
        raise EventError(f"{name}: not a finite number")
    return number


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return 0.0 if value is None else max(0.0, _float(name, value))


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
    return _refused(status, record.get("outcome"), record.get("action"))


def _refused(status: int, outcome: object, action: object) -> int:
    if outcome is None and isinstance(action, str) and action in _REFUSING:
        return REFUSED_STATUS
    if outcome == "refused" and status not in _OWN_DOING:
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
