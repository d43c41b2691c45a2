"""Time-out of the store's answers that does not count delays of the own event loop.

A busy gateway must not take its own slowness for the store's, so the time by which a
tick came late is subtracted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Length of a tick as a share of the time-out, and the ticks without data that trip it.
# In the worst case one tick more: (1 + 4) x 0.17 = 0.85 of the time-out.
_TICK = 0.17
_SILENT_TICKS = 4
# A loop that is late at every tick trips after this many ticks and seconds as well.
_LATE_TICKS = 10
_LATE_S = 1.0


class AnswerWatchdog:
    """Calls ``on_silence`` when no data arrived for ``timeout_s`` while a call waits.

    ``received`` returns a number that grows with every chunk of data. The timer runs
    only while an answer is awaited.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        received: Callable[[], int],
        on_silence: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._tick_s = timeout_s * _TICK
        self._received = received
        self._on_silence = on_silence
        self._timer: asyncio.TimerHandle | None = None
        self._awaiting = False
        self._due = 0.0
        self._since = 0.0
        self._last_heard = -1
        self._silent_s = 0.0
        self._ticks = 0

    def expect(self) -> None:
        """Start watching: a call was sent."""
        self._awaiting = True
        if self._timer is None:
            self._restart()

    def answered(self) -> None:
        """Stop watching: no answer is awaited. The timer ends at its next tick."""
        self._awaiting = False

    def stop(self) -> None:
        """Cancel the timer."""
        self._awaiting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _restart(self) -> None:
        self._last_heard = self._received()
        self._silent_s = 0.0
        self._ticks = 0
        self._since = self._loop.time()
        self._arm(self._since)

    def _arm(self, now: float) -> None:
        self._due = now + self._tick_s
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._awaiting:
            return
        received = self._received()
        if received != self._last_heard:
            self._restart()
            return
        now = self._loop.time()
        self._ticks += 1
        self._silent_s += max(0.0, self._tick_s - (now - self._due))
        long_enough = self._ticks >= _LATE_TICKS and now - self._since >= _LATE_S
        # Half a tick of tolerance: timers have a resolution of 1 ms.
        if long_enough or self._silent_s >= (_SILENT_TICKS - 0.5) * self._tick_s:
            self._awaiting = False
            self._on_silence()
            return
        self._arm(now)
