"""Incidents of this gateway: what is open, and what was lately.

What the detector says of an incident, in the order in which it says it; the newest
stands for all. Bounded: resolved incidents make room first, then the oldest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gateway.detect.model import Output, OutputType, format_time

MAX_INCIDENTS = 1000
_RESOLVED: OutputType = "incident.resolved"


class LocalIncidents:
    """``on_output`` hears everything that the detector says, in order, ``on_recall`` of
    incidents that go on from before.
    """

    def __init__(
        self,
        on_output: Callable[[Output], None],
        on_recall: Callable[[Output], None] = lambda _output: None,
    ) -> None:
        self._on_output = on_output
        self._on_recall = on_recall
        self._incidents: dict[str, _Entry] = {}
        self.opened: Counter[tuple[str, str]] = Counter()
        """Incidents by class and severity (the one they opened with)."""
        self.forgotten = 0

    def take(self, outputs: Iterable[Output]) -> None:
        """Note what was said."""
        for output in outputs:
            self._on_output(output)
            if output.type.startswith("incident."):
                self._note(output)

    def recall(self, outputs: Iterable[Output]) -> None:
        """Incidents that go on from before; nobody is told of them a second time."""
        for output in outputs:
            if output.id not in self._incidents:
                self._note(output)
                self._on_recall(output)

    def _note(self, output: Output) -> None:
        entry = self._incidents.pop(output.id, None)
        if entry is None:
            # One that is older than this process begins where its evidence does.
            is_new = output.type == "incident.opened"
            entry = _Entry(output.ts if is_new else output.window.since, output)
            if is_new:
                self.opened[output.cls, output.severity] += 1
        entry.latest = output
        self._incidents[output.id] = entry
        if len(self._incidents) > MAX_INCIDENTS:
            self._forget()

    def _forget(self) -> None:
        ended = (id_ for id_, one in self._incidents.items() if not one.is_open)
        oldest = next(ended, next(iter(self._incidents)))
        del self._incidents[oldest]
        self.forgotten += 1

    def end(self, is_watched: Callable[[str], bool], now: float) -> None:
        """Close what is open of tenants that nobody watches any more."""
        ts = format_time(now)
        ended = [
            msgspec.structs.replace(entry.latest, type=_RESOLVED, ts=ts)
            for entry in self._incidents.values()
            if entry.is_open and not is_watched(entry.latest.tenant)
        ]
        self.take(ended)

    @property
    def active(self) -> int:
        """Incidents that are open."""
        return sum(entry.is_open for entry in self._incidents.values())

    def items(self) -> list[dict[str, Any]]:
        """All of them as the admin API shows them, newest first."""
        return [entry.public() for entry in reversed(self._incidents.values())]


class _Entry:
    __slots__ = ("latest", "opened_at")

    def __init__(self, opened_at: str, latest: Output) -> None:
        self.opened_at = opened_at
        self.latest = latest

    @property
    def is_open(self) -> bool:
        return self.latest.type != _RESOLVED

    def public(self) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.to_builtins(self.latest)
        state = "open" if self.is_open else "resolved"
        return shown | {"state": state, "opened_at": self.opened_at}
