"""Putting events into the order of their time, and a clock that cannot be fooled.

Event time is the newest time seen, with one exception: a time far ahead of all others
advances nothing until a second source says the same, because one client with a broken
clock must not close everybody's windows.
"""

from __future__ import annotations

import heapq

from gateway.detect.model import Event

# Events up to this far behind the newest belong somewhere; older ones are late.
LATE_S = 60.0
# A jump of more than this is believed only when the next events agree with it.
_JUMP_S = 900.0
# How many events in a row must agree with a jump.
_WITNESSES = 3


class EventClock:
    """Event time, epoch seconds: ``now`` never goes back. Counts what does not fit."""

    __slots__ = ("_claimed", "_witnesses", "absurd", "late", "now")

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.late = 0
        self.absurd = 0
        self._claimed = 0.0
        self._witnesses = 0

    def admit(self, ts: float) -> bool:
        """Whether an event of time ``ts`` is to be counted; advances the clock."""
        ahead = ts - self.now
        if ahead > _JUMP_S and self.now:
            return self._jump(ts)
        if ahead > 0:
            self.now = ts
        elif ahead < -LATE_S:
            self.late += 1
            return False
        self._witnesses = 0
        return True

    def _jump(self, ts: float) -> bool:
        if abs(ts - self._claimed) > _JUMP_S:
            self._witnesses = 0
            self._claimed = ts
        self._witnesses += 1
        if self._witnesses < _WITNESSES:
            self.absurd += 1
            return False
        self._witnesses = 0
        self.now = ts
        return True


class ReorderBuffer:
    """Holds events for ``hold_s`` of event time and hands them out in order.

    Events of equal time leave in the order of their content, so that any order of
    arrival gives the same verdicts.
    """

    __slots__ = ("_heap", "hold_s")

    def __init__(self, hold_s: float) -> None:
        self.hold_s = hold_s
        self._heap: list[tuple[float, str, str, int, int, Event]] = []

    def push(self, event: Event) -> None:
        """Hold one event."""
        key = (
            event.ts,
            event.user,
            event.client_ip,
            event.fingerprint or 0,
            len(self._heap),
            event,
        )
        heapq.heappush(self._heap, key)

    def pop_until(self, ts: float) -> list[Event]:
        """The held events not newer than ``ts``, oldest first."""
        heap = self._heap
        ready: list[Event] = []
        while heap and heap[0][0] <= ts:
            ready.append(heapq.heappop(heap)[-1])
        return ready

    def __len__(self) -> int:
        return len(self._heap)
