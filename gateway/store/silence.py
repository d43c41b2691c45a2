"""When to call the store silent: by honest ticks of the own loop.

A busy gateway must not take its own slowness for the store's: time in which this loop
was late does not count as silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Share of the time-out that one tick lasts, and how much honest silence is too much.
# The worst case is one unlucky tick more: (1 + 4) x 0.17 = 0.85 of the time-out.
_TICK = 0.17
_SILENT_TICKS = 4
# A loop that is never on time is still sure after so many ticks and seconds.
_LATE_TICKS = 10
_LATE_S = 1.0


class SilenceWatch:
    """Calls ``on_silence`` when a call has waited ``timeout_s`` without a sound.

    ``heard`` gives a number that grows with every piece of answer. The timer runs only
    while something is awaited.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        heard: Callable[[], int],
        on_silence: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._tick_s = timeout_s * _TICK
        self._heard = heard
        self._on_silence = on_silence
        self._timer: asyncio.TimerHandle | None = None
        self._awaiting = False
        self._due = 0.0
        self._since = 0.0
        self._last_heard = -1
        self._silent_s = 0.0
        self._ticks = 0

    def expect(self) -> None:
        """A call was sent."""
        self._awaiting = True
        if self._timer is None:
            self._restart()

    def satisfied(self) -> None:
        """Nothing is awaited any more; the timer runs out by itself."""
        self._awaiting = False

    def stop(self) -> None:
        """No more ticks."""
        self._awaiting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _restart(self) -> None:
        self._last_heard = self._heard()
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
        heard = self._heard()
        if heard != self._last_heard:
            self._restart()
            return
        now = self._loop.time()
        self._ticks += 1
        self._silent_s += max(0.0, self._tick_s - (now - self._due))
        long_enough = self._ticks >= _LATE_TICKS and now - self._since >= _LATE_S
        # Half a tick of tolerance: timers have a resolution of a millisecond.
        if long_enough or self._silent_s >= (_SILENT_TICKS - 0.5) * self._tick_s:
            self._awaiting = False
            self._on_silence()
            return
        self._arm(now)
