"""What the console shows beyond sums: one place that records and outputs go through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.admin.incident_log import IncidentLog
from gateway.admin.recent import PinnedRecords, RecentRecords
from gateway.admin.spend import SpendHistory
from gateway.admin.stream import LiveStream
from gateway.admin.timeline import TrafficTimeline
from gateway.core.model import RequestRecord
from gateway.detect.model import Output

MOST_AUDIT_ENTRIES = 500


class AuditEntry(msgspec.Struct, frozen=True):
    """What an operator did. ``at`` is epoch seconds."""

    at: float
    role: str
    remote: str
    method: str
    path: str
    status: int
    what: str = ""
    kind: str = ""
    id: str = ""


class ActivityFeed:
    """``counters`` is asked by the live stream once a second."""

    def __init__(self, born: int, counters: Callable[[], dict[str, Any]]) -> None:
        self.timeline = TrafficTimeline()
        self.recent = RecentRecords()
        self.pinned = PinnedRecords(self.recent)
        self.spend = SpendHistory()
        self.live = LiveStream(born, counters)
        self.audit_log: deque[AuditEntry] = deque(maxlen=MOST_AUDIT_ENTRIES)
        self.incident_log = IncidentLog()

    def observe(self, r: RequestRecord) -> None:
        """One finished exchange."""
        self.timeline.observe(r)
        self.recent.observe(r)
        self.spend.observe(r)
        self.pinned.observe(r)

    def on_output(self, output: Output) -> None:
        """Something that the detector said."""
        self.incident_log.on_output(output)
        if output.type == "incident.opened":
            self._pin(output)
        self.live.publish("output", output)

    def _pin(self, output: Output) -> None:
        for subject in (output.subject, *output.subjects[:3]):
            tenant = "*" if subject.id == "*" else output.tenant
            self.pinned.pin(subject.kind, tenant, subject.id)

    def outputs_about(self, kind: str, id_: str, most: int = 50) -> list[Output]:
        """What was said of one subject, newest first."""
        found = [
            output
            for output in self.incident_log.outputs()
            if output.subject.kind == kind and output.subject.id == id_
        ]
        found.sort(key=lambda output: output.ts, reverse=True)
        return found[:most]

    def on_change(self, entry: AuditEntry) -> None:
        """An operator did something."""
        self.audit_log.append(entry)
        self.live.publish("change", entry)
