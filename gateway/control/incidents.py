"""Open and recent incidents of this gateway.

Keeps the latest output of the detector for each incident. Bounded by MAX_INCIDENTS: the
oldest resolved incident is evicted first, then the oldest open one.
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
    """Incidents by id. ``on_output`` is called with every detector output in order,
    ``on_recall`` with incidents that were open before a restart.
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
        """Incidents opened, by class and severity at opening."""
        self.evicted = 0

    def take(self, outputs: Iterable[Output]) -> None:
        """Record outputs and pass them on."""
        for output in outputs:
            self._on_output(output)
            if output.type.startswith("incident."):
                self._record(output)

    def recall(self, outputs: Iterable[Output]) -> None:
        """Restore incidents that were open before a restart, without ``on_output``."""
        for output in outputs:
            if output.id not in self._incidents:
                self._record(output)
                self._on_recall(output)

    def _record(self, output: Output) -> None:
        entry = self._incidents.pop(output.id, None)
        if entry is None:
            # An incident from before a restart opened when its evidence began.
            is_new = output.type == "incident.opened"
            entry = _Entry(output.ts if is_new else output.window.since, output)
            if is_new:
                self.opened[output.cls, output.severity] += 1
        entry.latest = output
        self._incidents[output.id] = entry
        if len(self._incidents) > MAX_INCIDENTS:
            self._evict()

    def _evict(self) -> None:
        ended = (id_ for id_, one in self._incidents.items() if not one.is_open)
        oldest = next(ended, next(iter(self._incidents)))
        del self._incidents[oldest]
        self.evicted += 1

    def end(self, is_detected: Callable[[str], bool], now: float) -> None:
        """Resolve open incidents of tenants whose detection is off."""
        ts = format_time(now)
        ended = [
            msgspec.structs.replace(entry.latest, type=_RESOLVED, ts=ts)
            for entry in self._incidents.values()
            if entry.is_open and not is_detected(entry.latest.tenant)
        ]
        self.take(ended)

    @property
    def active(self) -> int:
        """Number of open incidents."""
        return sum(entry.is_open for entry in self._incidents.values())

    def items(self) -> list[dict[str, Any]]:
        """All incidents in the form of the admin API, newest first."""
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
