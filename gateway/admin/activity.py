"""The activity feed: fans records, detector outputs and operator actions out.

Records go to the timeline, the recent records, the spend and the pinned records;
detector outputs to the incident log; both outputs and actions to the live stream.
"""

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

MAX_AUDIT_ENTRIES = 500


class AuditEntry(msgspec.Struct, frozen=True):
    """One operator action in the audit log. ``at``: epoch seconds; ``what``: the action,
    on the subject ``kind`` and ``id``; ``status``: HTTP status of the response.
    """

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
    """State of the console. ``generation`` prefixes the event ids of the live stream;
    ``counters`` gives the data of its event of every second.
    """

    def __init__(self, generation: int, counters: Callable[[], dict[str, Any]]) -> None:
        self.timeline = TrafficTimeline()
        self.recent = RecentRecords()
        self.pinned = PinnedRecords(self.recent)
        self.spend = SpendHistory()
        self.live = LiveStream(generation, counters)
        self.audit_log: deque[AuditEntry] = deque(maxlen=MAX_AUDIT_ENTRIES)
        self.incident_log = IncidentLog()

    def observe(self, r: RequestRecord) -> None:
        """Add the record of a finished exchange."""
        self.timeline.observe(r)
        self.recent.observe(r)
        self.spend.observe(r)
        self.pinned.observe(r)

    def on_output(self, output: Output) -> None:
        """Log a detector output and send it to open consoles."""
        self.incident_log.on_output(output)
        if output.type == "incident.opened":
            self._pin(output)
        self.live.publish("output", output)

    def _pin(self, output: Output) -> None:
        for subject in (output.subject, *output.subjects[:3]):
            tenant = "*" if subject.id == "*" else output.tenant
            self.pinned.pin(subject.kind, tenant, subject.id)

    def outputs_about(self, kind: str, id_: str, most: int = 50) -> list[Output]:
        """Detector outputs about one subject, newest first."""
        found = [
            output
            for output in self.incident_log.outputs()
            if output.subject.kind == kind and output.subject.id == id_
        ]
        found.sort(key=lambda output: output.ts, reverse=True)
        return found[:most]

    def on_change(self, entry: AuditEntry) -> None:
        """Log an operator action and send it to open consoles."""
        self.audit_log.append(entry)
        self.live.publish("change", entry)
