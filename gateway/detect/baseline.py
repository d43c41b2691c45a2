"""Upper baseline of a subject's window counts, on a log scale.

Real traffic steps, bursts and drifts, so one expectation is not enough. The baseline is
the maximum of a decaying recent maximum and the third highest value of the same time on
the days of a week, plus a level-shift term after a jump (levels that moved once often
move again). The spread comes from the subject's own positive surprises.

A week of windows is a ring of bytes: 1 KB per meter and subject at ten minutes.
"""

from __future__ import annotations

from math import exp, log1p

import msgspec

DAYS = 7
# Steps of the log scale held in a byte: levels up to e**15.9 times the unit, surprises
# up to e**7.9 times the envelope. Both are far finer than the least spread.
LEVEL_STEPS = 16
_EXCESS_STEPS = 32
_TOP = 254
# A factor of two (log).
_LEAP = 0.69
# Figures found on two weeks of production traffic (docs/detection.md): how much of the
# recent maximum leaks away per hour (log units), which of the days' highest values
# around this time counts and what "around" is, how much of a jump is expected to
# return an hour later (a young subject's jump: no more than a factor of e), the least
# spread and the quantile of the surprises that gives it.
DECAY_PER_HOUR = 0.9
DAY_RANK = 3
# Days without a request about a time of day after which it is an odd hour.
ODD_DAYS = 3
AROUND_S = 1800.0
LEVEL_SHIFT_GROWN_S = 3 * 86_400.0
LEVEL_SHIFT_YOUNG = 1.0
LEVEL_SHIFT_KEPT_PER_HOUR = 0.6
LEAST_SPREAD = 0.4
SURPRISE_QUANTILE = 0.995
# Surprises that widen no spread: most of them, and all of windows not yet learned.
_NARROW = bytes(range(int(LEAST_SPREAD * _EXCESS_STEPS) + 1))
# The spread of a subject too young to have shown its own.
YOUNG_SPREAD = 1.0
# A surprise is learned up to this many spreads: one attack does not widen the spread.
CLIP_SPREADS = 5.0
# Windows of own history from which the own spread and level count fully: six hours,
# at ten minutes.
GROWN_S = 21_600.0


class Expected(msgspec.Struct, frozen=True, gc=False):
    """Envelope and spread of one window, both as ``log1p(count / unit)``."""

    level: float
    spread: float


class UpperBaseline(msgspec.Struct, array_like=True):
    """The upper baseline of one meter of one subject, in windows of ``window_s`` seconds.

    ``unit`` is the count below which differences mean little (ten requests); windows are
    numbered by ``floor(ts / window_s)``. Score a window first, then learn it.
    """

    window_s: float
    unit: float
    first: int  # number of the first window learned, -1 before
    last: int  # number of the newest
    peak: float  # leaking maximum
    level_shift: float  # what is left of the last jump
    levels: bytearray
    surprises: bytearray
    spread: float
    expected: Expected | None = None  # of window ``last + 1``
    highest: int = -1  # of ``levels``; -1: to be found

    @property
    def age(self) -> int:
        """Windows since the first that was learned."""
        return self.last - self.first + 1 if self.first >= 0 else 0

    def value(self, count: float) -> float:
        """A count on the envelope's scale."""
        return log1p(count / self.unit)

    def count(self, value: float) -> float:
        """What ``value`` means as a count."""
        return self.unit * (exp(value) - 1.0)

    def leaps(self, count: float) -> bool:
        """Whether a count is more than twice of the recent maximum."""
        return self.value(count) > self.peak + _LEAP

    def most(self) -> float:
        """The highest count of the last week."""
        if self.highest < 0:
            self.highest = max(self.levels)
        return self.count(self.highest / LEVEL_STEPS)

    def steadiness(self) -> float:
        """Share of the last day's windows in which there was anything."""
        size = len(self.levels)
        last = range(self.last - min(self.age, size // DAYS) + 1, self.last + 1)
        return sum(self.levels[at % size] > 0 for at in last) / max(1, len(last))

    def expect(self, index: int) -> Expected:
        """Envelope and spread of window ``index``, from what was learned before it."""
        if self.expected is None or index != self.last + 1:
            self._fill(index)
            peak = max(self.peak, self._time_of_day(index))
            self.expected = Expected(peak + self.level_shift, self.spread)
        return self.expected

    def learn(self, index: int, count: float, *, judged: bool = False) -> None:
        """Take window ``index`` into the history; ``judged``: it was found abusive, so
        only its place is kept.
        """
        expected = self.expect(index)
        value = self.value(count)
        # The first window of all surprises nobody.
        surprise = value - expected.level if self.age else 0.0
        plain = expected.level - self.level_shift
        limit = CLIP_SPREADS * expected.spread
        self.level_shift *= LEVEL_SHIFT_KEPT_PER_HOUR ** self._hours()
        if judged:
            self._put(index, min(value, plain), 0.0)
            return
        young = self.age * self.window_s < LEVEL_SHIFT_GROWN_S
        self.level_shift = max(
            self.level_shift, min(surprise, LEVEL_SHIFT_YOUNG) if young else surprise
        )
        self._put(index, min(value, plain + limit), min(surprise, limit))

    def _put(self, index: int, value: float, surprise: float) -> None:
        slot = index % len(self.levels)
        held = self.levels[slot]
        self.levels[slot] = level = min(_TOP, max(0, round(value * LEVEL_STEPS)))
        if level >= self.highest >= 0:
            self.highest = level
        elif held == self.highest:
            self.highest = -1
        self.surprises[slot] = min(_TOP, max(0, round(surprise * _EXCESS_STEPS)))
        self.peak = max(value, self.peak - self._hours() * DECAY_PER_HOUR)
        if self.first < 0:
            self.first = index
        self.last = index
        self.expected = None
        if index % max(1, round(3600 / self.window_s)) == 0 or self.age < DAYS:
            self._spread()

    def _hours(self) -> float:
        return self.window_s / 3600.0

    def _fill(self, index: int) -> None:
        """Windows without any request lie between: they were empty."""
        gap = index - self.last - 1
        if self.first < 0 or gap <= 0:
            return
        self.highest = -1
        size = len(self.levels)
        for skipped in range(max(self.last + 1, index - size), index):
            self.levels[skipped % size] = 0
            self.surprises[skipped % size] = 0
        hours = gap * self._hours()
        self.peak = max(0.0, self.peak - hours * DECAY_PER_HOUR)
        self.level_shift *= LEVEL_SHIFT_KEPT_PER_HOUR**hours
        self.last = index - 1
        self._spread()

    def _time_of_day(self, index: int) -> float:
        """The quantile of the same time on the days before, 0 before the first day."""
        tops = self._tops(index)
        if not tops:
            return 0.0
        tops.sort()
        rank = min(DAY_RANK, (len(tops) + 1) // 2)
        return tops[-rank] / LEVEL_STEPS

    def is_odd(self, index: int) -> bool:
        """Whether it never did anything about this time of any day, for days."""
        tops = self._tops(index)
        return len(tops) >= ODD_DAYS and not any(tops)

    def _tops(self, index: int) -> list[int]:
        """The highest levels about the same time, of each day before."""
        size = len(self.levels)
        per_day = size // DAYS
        tops: list[int] = []
        if self.age < per_day:
            return tops
        around = max(1, round(AROUND_S / self.window_s))
        for day in range(1, DAYS + 1):
            middle = index - day * per_day
            if middle - around < self.first:
                break
            end = min(middle + around + 1, index)
            tops.append(
                max(self.levels[at % size] for at in range(middle - around, end))
            )
        return tops

    def _spread(self) -> None:
        age = min(self.age, len(self.surprises))
        # One jump alone makes no spread.
        rank = max(1, int((1.0 - SURPRISE_QUANTILE) * age))
        wide = sorted(self.surprises.translate(None, _NARROW))
        top = wide[-1 - rank] / _EXCESS_STEPS if len(wide) > rank else 0.0
        grown = min(1.0, age * self.window_s / GROWN_S)
        least = grown * LEAST_SPREAD + (1.0 - grown) * YOUNG_SPREAD
        self.spread = max(least, top)


def new_upper_baseline(window_s: float, unit: float) -> UpperBaseline:
    """An envelope without history; ``window_s`` must divide a day."""
    size = DAYS * round(86_400 / window_s)
    return UpperBaseline(
        window_s=window_s,
        unit=unit,
        first=-1,
        last=-1,
        peak=0.0,
        level_shift=0.0,
        levels=bytearray(size),
        surprises=bytearray(size),
        spread=YOUNG_SPREAD,
    )
