"""What the console shows beyond sums: one place that records and outputs go through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.admin.incident_log import Stories
from gateway.admin.recent import Recent, Watched
from gateway.admin.spend import Ledger
from gateway.admin.stream import Feed
from gateway.admin.timeline import Timeline
from gateway.core.model import RequestRecord
from gateway.detect.model import Output

MOST_CHANGES = 500


class Change(msgspec.Struct, frozen=True):
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


class Lookout:
    """``counters`` is asked by the live stream once a second."""

    def __init__(self, born: int, counters: Callable[[], dict[str, Any]]) -> None:
        self.timeline = Timeline()
        self.recent = Recent()
        self.watched = Watched(self.recent)
        self.ledger = Ledger()
        self.feed = Feed(born, counters)
        self.changes: deque[Change] = deque(maxlen=MOST_CHANGES)
        self.stories = Stories()

    def observe(self, r: RequestRecord) -> None:
        """One finished exchange."""
        self.timeline.observe(r)
        self.recent.observe(r)
        self.ledger.observe(r)
        self.watched.observe(r)

    def take(self, output: Output) -> None:
        """Something that the detector said."""
        self.stories.take(output)
        if output.type == "incident.opened":
            self._watch(output)
        self.feed.publish("output", output)

    def _watch(self, output: Output) -> None:
        for subject in (output.subject, *output.subjects[:3]):
            tenant = "*" if subject.id == "*" else output.tenant
            self.watched.watch(subject.kind, tenant, subject.id)

    def about(self, kind: str, id_: str, most: int = 50) -> list[Output]:
        """What was said of one subject, newest first."""
        found = [
            output
            for output in self.stories.lines()
            if output.subject.kind == kind and output.subject.id == id_
        ]
        found.sort(key=lambda output: output.ts, reverse=True)
        return found[:most]

    def changed(self, change: Change) -> None:
        """An operator did something."""
        self.changes.append(change)
        self.feed.publish("change", change)
