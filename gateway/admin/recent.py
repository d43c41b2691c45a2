"""The last records, and pinned timelines of the subjects of incidents. Bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from gateway.admin.clients import moment
from gateway.admin.timeline import TrafficTimeline
from gateway.core.model import RequestRecord

# About 1 KB each: 5 MB.
MAX_RECORDS = 5000
MAX_PINNED = 64
# One hour of 10-second buckets.
PINNED_BUCKETS = 360

Key = tuple[str, str, str]  # kind, tenant, id
_FIELDS = (
    "request_id", "tenant", "user", "client_ip", "endpoint", "model", "stream",
    "status", "prompt_tokens", "completion_tokens", "total_tokens", "usd",
    "duration_ms", "overhead_ms", "action", "limit", "score", "outcome", "key",
)  # fmt: skip


class RecentRecords:
    """The last records of the whole gateway."""

    def __init__(self, capacity: int = MAX_RECORDS) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=capacity)
        self.observe = self._records.append

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self._records)

    def of_subject(
        self, kind: str, id_: str, tenant: str | None
    ) -> list[RequestRecord]:
        """Records of one subject, newest first."""
        field = {"client_ip": "client_ip", "user": "user"}.get(kind, "tenant")
        return [
            r
            for r in reversed(self._records)
            if getattr(r, field) == id_ and tenant in (None, r.tenant)
        ]


class PinnedRecords:
    """Timelines of the subjects of incidents, starting with their recent records."""

    def __init__(self, recent: RecentRecords, capacity: int = MAX_PINNED) -> None:
        self._recent = recent
        self._capacity = capacity
        self._lines: dict[Key, TrafficTimeline] = {}

    def pin(self, kind: str, tenant: str, id_: str) -> None:
        """Keep a timeline of a subject; evicts the one pinned the longest."""
        key = (kind, tenant, id_)
        line = self._lines.pop(key, None)
        if line is None:
            line = TrafficTimeline(PINNED_BUCKETS)
            for record in reversed(self._recent.of_subject(kind, id_, _where(tenant))):
                line.observe(record)
        self._lines[key] = line
        if len(self._lines) > self._capacity:
            del self._lines[next(iter(self._lines))]

    def observe(self, r: RequestRecord) -> None:
        """Count a record for the pinned subjects."""
        lines = self._lines
        if not lines:
            return
        tenant = r.tenant
        for key in (
            ("client_ip", tenant, r.client_ip),
            ("user", tenant, r.user),
            ("tenant", tenant, tenant),
            ("tenant", "*", "*"),
        ):
            line = lines.get(key)
            if line is not None:
                line.observe(r)

    def line(
        self, kind: str, tenant: str, id_: str, now: float
    ) -> dict[str, Any] | None:
        """The last hour of a pinned subject; None if it is not pinned."""
        line = self._lines.get((kind, tenant, id_))
        return None if line is None else line.public(now, 60)


def _where(tenant: str) -> str | None:
    return None if tenant == "*" else tenant


def public_record(r: RequestRecord) -> dict[str, Any]:
    """A record as the console shows it."""
    shown = {name: getattr(r, name) for name in _FIELDS}
    return {"ts": moment(r.ts)} | shown | {"class": r.cls, "enforced": not r.would}
