"""Reordering of events by time, and an event clock that ignores wrong clocks.

Event time is the newest time seen. A time far ahead of all others does not advance it
until further events agree, so that one client with a wrong clock does not close the
windows of all others. Such events wait; they are counted when the next ones agree and
dropped when they do not. The first events of a recorded stream wait as well; for live
events the first one is trusted.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Sequence

from gateway.detect.model import Event

# Events up to this far behind the newest belong somewhere; older ones are late.
LATE_S = 60.0
# A jump of more than this is believed only when the next events agree with it.
_JUMP_S = 900.0
# How many events in a row must agree with a jump: from two addresses, or so many more
# from a single one.
_WITNESSES = 3
_ALONE = 8
# Of the first events, those so long before the middle one are absurd.
_SPAN_S = 86_400.0
# A clock at 0 has not begun.
_BEGUN = 1e-9


def _time(event: Event) -> float:
    return event.ts


class EventClock:
    """Event time, epoch seconds: ``now`` never goes back. Counts what does not fit.
    ``recorded``: the first time of all may be absurd, too.
    """

    __slots__ = ("_recorded", "_waiting", "absurd", "late", "now")

    def __init__(self, *, recorded: bool = False) -> None:
        self.now = 0.0
        self._recorded = recorded
        self.late = 0
        self.absurd = 0
        self._waiting: list[Event] = []

    def admit(self, event: Event) -> Sequence[Event]:
        """The events to be counted now: this one, none, or those that waited, too."""
        ahead = event.ts - self.now
        if ahead > _JUMP_S or not self.now:
            if self.now or self._recorded:
                return self._wait(event)
            self.now = max(event.ts, _BEGUN)
            return (event,)
        if ahead > 0.0:
            self.now = event.ts
        elif ahead < -LATE_S:
            self.late += 1
            return ()
        if self._waiting:
            self._drop()
        return (event,)

    def advance(self, now: float) -> list[Event]:
        """It is ``now`` for certain: the waiting events that this makes plausible."""
        ready = [one for one in self._waiting if one.ts <= now]
        if ready:
            self._waiting = [one for one in self._waiting if one.ts > now]
            ready.sort(key=_time)
        self.now = max(self.now, now)
        return ready

    def close(self) -> Sequence[Event]:
        """No more events: too few came to start at all, or nobody agreed."""
        if not self.now and self._waiting:
            return self._agree()
        self._drop()
        return ()

    def _wait(self, event: Event) -> Sequence[Event]:
        waiting = self._waiting
        waiting.append(event)
        if len(waiting) < _WITNESSES:
            return ()
        alone = len({one.client_ip for one in waiting}) == 1
        return () if self.now and alone and len(waiting) < _ALONE else self._agree()

    def _agree(self) -> list[Event]:
        """Go to the earliest of those that wait, and try all of them again."""
        waiting, self._waiting = self._waiting, []
        waiting.sort(key=_time)
        middle = waiting[(len(waiting) - 1) // 2].ts
        first = next(one.ts for one in waiting if one.ts >= middle - _SPAN_S)
        # The very first events have no time before them that they must not precede.
        self.now = max(self.now, first, _BEGUN)
        return [ready for one in waiting for ready in self.admit(one)]

    def _drop(self) -> None:
        self.absurd += len(self._waiting)
        self._waiting = []


class ReorderBuffer:
    """Holds events for ``hold_s`` of event time and hands them out in order.

    Events of equal time leave in the order of their content, so that any order of
    arrival gives the same verdicts. They are held by the second and sorted when their
    second comes: that is several times cheaper than one heap of all.
    """

    __slots__ = ("_held", "_later", "_now", "_open", "_seconds", "hold_s")

    def __init__(self, hold_s: float) -> None:
        self.hold_s = hold_s
        self._later: dict[int, list[Event]] = {}  # by second
        self._seconds: list[int] = []  # a heap of their keys
        self._open = -1  # the second that leaves now
        self._now: list[Event] = []  # what is left of it, newest first
        self._held = 0

    def push(self, event: Event) -> None:
        """Hold one event."""
        self._held += 1
        second = int(event.ts)
        if second <= self._open:
            # Behind those that are equal to it: it came after them.
            self._now.reverse()
            insort(self._now, event, key=_order)
            self._now.reverse()
            return
        held = self._later.get(second)
        if held is None:
            self._later[second] = [event]
            heapq.heappush(self._seconds, second)
        else:
            held.append(event)

    def pop_until(self, ts: float) -> list[Event]:
        """The held events not newer than ``ts``, oldest first."""
        ready: list[Event] = []
        while True:
            now = self._now
            while now and now[-1].ts <= ts:
                ready.append(now.pop())
            if now or not self._seconds or self._seconds[0] > ts:
                break
            self._open = heapq.heappop(self._seconds)
            self._now = self._later.pop(self._open)
            if len(self._now) > 1:
                self._now.sort(key=_order)
                self._now.reverse()
        self._held -= len(ready)
        return ready

    def __len__(self) -> int:
        return self._held


def _order(event: Event) -> tuple[float, str, str, str, int, int, int]:
    return (
        event.ts,
        event.user,
        event.client_ip,
        event.tenant,
        event.fingerprint or 0,
        event.tokens,
        event.status,
    )
