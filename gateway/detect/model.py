"""What goes into the detector and what comes out of it, as plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import Literal

import msgspec

from gateway.core.model import Anomaly, AttackClass, Campaign, Ladder

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
ResponseAction = Literal["allow", "tag", "throttle", "block"]
ACTIONS: tuple[ResponseAction, ...] = ("allow", "tag", "throttle", "block")

# Numbers below are epoch seconds, milliseconds or microseconds by their size: seconds
# stay under 1e11 until the year 5138, and 1e11 ms is 1973.
_SECONDS_END = 1e11
_MILLIS_END = 1e14
_LAST_TIME = 253_402_300_800.0  # end of the year 9999: what dates can express
# An event that the gateway itself refused: it was asked, but nothing was answered.
REFUSED_STATUS = 0


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


class EvidenceWindow(msgspec.Struct, frozen=True, gc=False, rename={"since": "from"}):
    """Start and end of the evidence, RFC 3339."""

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
    action: ResponseAction
    until: str | None
    window: EvidenceWindow
    observed: dict[str, float]
    expected: dict[str, float]
    reasons: tuple[str, ...]
    subjects: tuple[Ref, ...] = ()

    @property
    def at(self) -> float:
        """``ts`` as epoch seconds."""
        return datetime.fromisoformat(self.ts).timestamp()


# Built-in values of a policy's anomaly settings.
_DEFAULTS = Anomaly()


class DetectSettings(msgspec.Struct, frozen=True):
    """Everything that the detector can be told; defaults are the product's."""

    warning: float = _DEFAULTS.warning
    critical: float = _DEFAULTS.critical
    ladder: Ladder = _DEFAULTS.ladder
    # Ladders of some classes, in place of ``ladder``.
    class_ladders: dict[str, Ladder] = {}
    campaigns: tuple[Campaign, ...] = ()
    # No more than this share of a tenant's recently active users may be blocked at
    # once without a human; strangers (first seen in the attack) do not count.
    max_blocked_share: float = _DEFAULTS.max_blocked_share
    # Own history from which volume against oneself counts fully, seconds.
    grace_s: float = _DEFAULTS.grace_s
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


def parse_time(value: object) -> float:
    """Epoch seconds of RFC 3339 text (no zone: UTC) or of a number of seconds,
    milliseconds or microseconds. Raises EventError.
    """
    ts = _moment(value) if isinstance(value, str) else None
    if ts is None:
        ts = _epoch(finite_number("timestamp", value))
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


def finite_number(name: str, value: object) -> float:
    """``value`` as a float. Raises EventError, which names the field ``name``."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise EventError(f"{name}: a number is expected, not {value!r:.60}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise EventError(f"{name}: a number is expected, not {value!r:.60}") from None
    if not isfinite(number):
        raise EventError(f"{name}: not a finite number")
    return number
