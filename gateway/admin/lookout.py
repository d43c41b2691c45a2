"""What the console shows beyond sums: one place that records and outputs go through."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.admin.recent import Recent, Watched
from gateway.admin.spend import Ledger
from gateway.admin.stream import Feed
from gateway.admin.timeline import Timeline
from gateway.core.model import RequestRecord
from gateway.detect.model import Output

MOST_STORIES = 1000
MOST_STEPS = 100
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
        self._stories: OrderedDict[str, list[Output]] = OrderedDict()

    def observe(self, r: RequestRecord) -> None:
        """One finished exchange."""
        self.timeline.observe(r)
        self.recent.observe(r)
        self.ledger.observe(r)
        self.watched.observe(r)

    def take(self, output: Output) -> None:
        """Something that the detector said."""
        story = self._stories.get(output.id)
        if story is None:
            story = self._stories[output.id] = []
            if len(self._stories) > MOST_STORIES:
                self._stories.popitem(last=False)
        if len(story) >= MOST_STEPS:
            del story[1]  # how it began is kept
        story.append(output)
        if output.type == "incident.opened":
            self._watch(output)
        self.feed.publish("output", output)

    def _watch(self, output: Output) -> None:
        for subject in (output.subject, *output.subjects[:3]):
            tenant = "*" if subject.id == "*" else output.tenant
            self.watched.watch(subject.kind, tenant, subject.id)

    def story(self, incident: str) -> list[Output]:
        """All that was said of an incident and of the clients in it, oldest first."""
        return list(self._stories.get(incident, ()))

    def about(self, kind: str, id_: str, most: int = 50) -> list[Output]:
        """What was said of one subject, newest first."""
        found = [
            output
            for story in self._stories.values()
            for output in story
            if output.subject.kind == kind and output.subject.id == id_
        ]
        found.sort(key=lambda output: output.ts, reverse=True)
        return found[:most]

    def changed(self, change: Change) -> None:
        """An operator did something."""
        self.changes.append(change)
        self.feed.publish("change", change)
