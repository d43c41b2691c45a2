"""Silences and maintenance windows: what is not told, and until when."""

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
    """Alerts that match all of it are not sent between ``since`` and ``until`` (epoch
    seconds). ``cls`` and ``subject`` (``kind:id``) "*": any.

    With ``weekly`` the two say nothing, and are zero: a gateway that does not know of
    such windows silences nobody.
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
        """Whether this alert is not to be sent now."""
        if self.tenant not in (ANY, payload["tenant"]):
            return False
        if self.cls not in (ANY, payload.get("class")):
            return False
        subject = payload["subject"]
        if self.subject not in (ANY, f"{subject['kind']}:{subject['id']}"):
            return False
        return self.state(now) == ACTIVE

    def window(self, now: float) -> tuple[float, float] | None:
        """From when until when: now, else the next time; None: never again."""
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
        """When it is over for good; None: never."""
        return self.until if self.weekly is None else self.weekly.last

    def public(self, now: float) -> dict[str, Any]:
        """As the admin API shows it: the window that it is in, or the next."""
        since, until = self.window(now) or (self.since, self.until)
        if self.weekly is not None and not until:  # none comes any more
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
    """Whether any of them holds."""
    return any(one.matches(payload, now) for one in silences)


def read_silences(stored: dict[str, bytes]) -> list[Silence]:
    """Those of the store; what a newer version wrote is passed over."""
    found = []
    for body in stored.values():
        try:
            found.append(msgspec.json.decode(body, type=Silence))
        except msgspec.DecodeError:
            continue
    return sorted(found, key=lambda one: (one.since, one.id))


def moment_of(value: datetime, zone: Any) -> float:
    """Epoch seconds of a configured time; without an offset in ``zone``."""
    return (value if value.tzinfo else value.replace(tzinfo=zone)).timestamp()
