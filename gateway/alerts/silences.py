"""Silences and maintenance windows: alerts that are not sent, and until when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from gateway.alerts.model import Payload
from gateway.alerts.weekly import Weekly
from gateway.detect.model import format_time

ANY = "*"
PENDING, ACTIVE, OVER = "pending", "active", "over"


class Silence(msgspec.Struct, frozen=True):
    """Suppresses alerts that match tenant, class and subject between ``since`` and
    ``until`` (epoch seconds). ``subject``: ``kind:id``; "*": any.

    With ``weekly`` both times are zero, so that a gateway of an older version, which does not
    know weekly windows, silences nothing.
    """

    id: str
    since: float
    until: float
    tenant: str = ANY
    cls: str = ANY
    subject: str = ANY
    reason: str = ""
    by: str = ""
    weekly: Weekly | None = None

    def matches(self, payload: Payload, now: float) -> bool:
        """Whether this alert is suppressed now."""
        if self.tenant not in (ANY, payload["tenant"]):
            return False
        if self.cls not in (ANY, payload.get("class")):
            return False
        subject = payload["subject"]
        if self.subject not in (ANY, f"{subject['kind']}:{subject['id']}"):
            return False
        return self.state(now) == ACTIVE

    def window(self, now: float) -> tuple[float, float] | None:
        """Start and end (epoch seconds) of the current or next window; None if all are
        over.
        """
        if self.weekly is not None:
            return self.weekly.window(now)
        return (self.since, self.until) if now < self.until else None

    def state(self, now: float) -> str:
        """``pending``, ``active`` or ``over``."""
        window = self.window(now)
        if window is None:
            return OVER
        return ACTIVE if window[0] <= now else PENDING

    def ended(self) -> float | None:
        """When its last window ends, epoch seconds; None: it recurs without end."""
        return self.until if self.weekly is None else self.weekly.last

    def public(self, now: float) -> dict[str, Any]:
        """In the form of the admin API, with the current or next window."""
        since, until = self.window(now) or (self.since, self.until)
        if self.weekly is not None and not until:  # no window is left
            since = self.weekly.first
            until = self.weekly.last or since
        return {
            "id": self.id,
            "tenant": self.tenant,
            "class": self.cls,
            "subject": self.subject,
            "from": format_time(since),
            "to": format_time(until),
            "repeat": None if self.weekly is None else _repeat(self.weekly),
            "state": self.state(now),
            "reason": self.reason,
            "by": self.by,
        }


def _repeat(weekly: Weekly) -> dict[str, Any]:
    last = weekly.last
    return {
        "days": list(weekly.days),
        "from": weekly.starts,
        "to": weekly.ends,
        "zone": weekly.zone,
        "until": None if last is None else format_time(last),
    }


def is_silenced(silences: Iterable[Silence], payload: Payload, now: float) -> bool:
    """Whether any silence matches the alert now."""
    return any(one.matches(payload, now) for one in silences)


def read_silences(stored: dict[str, bytes]) -> list[Silence]:
    """Decode silences of the store; entries of a newer version are skipped."""
    found = []
    for body in stored.values():
        try:
            found.append(msgspec.json.decode(body, type=Silence))
        except msgspec.DecodeError:
            continue
    return sorted(found, key=lambda one: (one.since, one.id))


def moment_of(value: datetime, zone: Any) -> float:
    """Epoch seconds of a configured time; in ``zone`` if it has no offset."""
    return (value if value.tzinfo else value.replace(tzinfo=zone)).timestamp()
