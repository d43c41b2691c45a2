"""Which windows of the whole service were abnormal."""

from __future__ import annotations

import msgspec
import numpy as np

from gateway.offline.users import LEAST_REQUESTS, Grid, cut, weekly
from gateway.offline.usual import (
    Flags,
    Floats,
    grow,
    others_high,
    rolling_max,
    rolling_median,
    spans,
    tail_limit,
)

# An excess over the expectation that matters, in ordinary (median) windows.
WEIGHT = 0.47
# Lengths at which residuals are averaged, in windows.
SCALES = (1, 3, 12)
# Windows that may stand out by chance, as a share.
_SHARE = 2e-4
_ROUNDS = 4
_HARMONICS = 4
_MANY_DAYS = 4
_BINS = 8
# Log units that no spread goes below: five per cent of the level.
_LEAST_SPREAD = 0.05
_LEAST_LIMITS = (4.0, 2.8, 2.0)
# Jobs by the clock: so much earlier or later, and so far beyond the ordinary spread.
HABIT_S = 900
HABIT_SPREADS = 2.5
# A step must stay for a day to be a level and not a flood; its start is shown.
STEP_DAYS = 5  # half days before the first step
_START_WINDOWS_S = 900


# Windows expected to hold fewer requests than this are judged by their number, too:
# an excess of so many deviations, for requests that vary so much in tokens (root mean
# square over mean).
FEW_REQUESTS = 20.0
CHANCE_SPREADS, SIZES_VARY = 2.5, 1.6


class ServiceVerdict(msgspec.Struct):
    """The service's windows: expected, the limit of the ordinary, excess, flags."""

    total: Floats
    expected: Floats
    limit: Floats
    score: Floats
    flags: Flags
    steps: Flags
    median: float


def median_window(total: Floats) -> float:
    """Tokens of an ordinary window: the median of those with any."""
    seen = total[total > 0]
    return float(np.median(seen)) if len(seen) else 0.0


def _tokens_each(meters: Meters) -> float:
    """Tokens of an ordinary request."""
    seen = meters.requests > 0
    if not seen.any():
        return 1.0
    each = float(np.median(meters.tempered[seen] / meters.requests[seen]))
    return max(1.0, each)


class Meters(msgspec.Struct, frozen=True):
    """Tokens of each window; the same without the excess of giant requests; the excess
    of users that were found abnormal; and requests.
    """

    total: Floats
    tempered: Floats
    known: Floats
    requests: Floats


def judge_service(meters: Meters, grid: Grid, window_s: int) -> ServiceVerdict:
    """Judge every window of the whole service."""
    return _Judge(meters, grid, window_s).judge()


class _Judge:
    def __init__(self, meters: Meters, grid: Grid, window_s: int) -> None:
        self.total, self.known = meters.total, meters.known
        self.tempered, self.grid = meters.tempered, grid
        self.window_s, self.median = window_s, median_window(meters.total)
        self.unit = 0.1 * self.median + 1.0
        plain = np.maximum(meters.tempered - meters.known, 0.0)
        self.y = np.log(plain + self.unit)
        self.heavy = meters.known > WEIGHT * self.median
        self.each = _tokens_each(meters)
        # One request is chance, and so are a few, those beside them counted.
        around = np.convolve(meters.requests, np.ones(3), mode="same")
        around = around[: len(meters.requests)]
        self.repeated = (meters.requests > 1) & (around >= LEAST_REQUESTS)

    def judge(self) -> ServiceVerdict:
        """Expect, drop what stands out, expect again; then judge what was dropped."""
        dropped = grow(self.heavy, 1)
        expected = self.y
        for turn in range(_ROUNDS):
            expected = self._expect(dropped, wide=turn == 0)
            spread = self._spread(expected, dropped)
            score, _ = self._score(expected, spread, dropped)
            dropped = grow(self.heavy, 1) | grow(np.abs(score) >= 3.0, 1)  # noqa: PLR2004
        # The spread is that around the tide: jobs lift the expectation far above most
        # windows, which says nothing about how far ordinary ones stray.
        spread = self._spread(expected, dropped)
        expected = self._habits(expected, spread)
        score, single = self._score(expected, spread, dropped)
        return self._decide(expected, score, single)

    def _habits(self, expected: Floats, spread: Floats) -> Floats:
        """Where other days stand far out at the same time (jobs by the clock), what
        they show is expected.
        """
        grid = self.grid
        if grid.days < 2 or grid.day < 2:  # noqa: PLR2004 - other days are needed
            return expected
        off = self.y - expected
        level = np.exp(expected)
        # A job is as large on a quiet day: in tokens, too, not only as a factor.
        more = np.log1p(
            np.maximum(0.0, self._same_time(np.exp(self.y) - level)) / level
        )
        high = np.maximum(self._same_time(off), more)
        # What the tide itself expects a little earlier or later.
        reach = max(1, HABIT_S // self.window_s)
        high = np.maximum(high, rolling_max(expected, reach) - expected)
        return np.where(high > HABIT_SPREADS * spread, expected + high, expected)

    def _same_time(self, values: Floats) -> Floats:
        """The high value of other days, a little earlier or later."""
        grid = self.grid
        near = rolling_max(values[None, :], max(1, HABIT_S // self.window_s))
        days = cut(near, grid.lead, grid.days, grid.day, -np.inf)
        high = others_high(days, axis=1).reshape(-1)
        high = high[grid.lead : grid.lead + len(values)]
        highest: Floats = np.maximum(high, weekly(near, grid)[0])
        return highest

    def _decide(
        self, expected: Floats, score: Floats, spread: Floats
    ) -> ServiceVerdict:
        level = np.maximum(np.exp(expected) - self.unit, 0.0)
        excess = self.total - level
        calm = self.tempered - level
        weight = WEIGHT * self.median
        least = np.maximum(weight, self._chance(level))
        limit = np.maximum(level + least, np.exp(expected + spread) - self.unit)
        steps = self._steps()
        beyond = (score >= 3.0) & (calm >= least) & self.repeated  # noqa: PLR2004
        flags = beyond | (self.known >= weight)
        flags |= (self.known >= 0.5 * weight) & (excess >= weight)
        flags |= steps & (excess > 0)
        points = 3.0 * np.maximum(excess, self.known) / np.maximum(limit - level, 1.0)
        points = np.maximum(points, score)
        points = np.where(flags, np.clip(points, 3.0, 12.0), np.minimum(points, 2.9))
        # Where a user's excess or the start of a level decided, the limit was lower.
        reached = np.maximum(level, np.minimum(level + weight, self.total))
        limit = np.where(flags, np.minimum(limit, reached), limit)
        return ServiceVerdict(
            total=self.total,
            expected=level,
            limit=limit,
            score=np.maximum(points, 0.0),
            flags=flags,
            steps=steps,
            median=self.median,
        )

    def _chance(self, level: Floats) -> Floats:
        """The excess that a few independent requests make up by chance: where windows
        hold hardly any, one more is no finding. 0 for busy windows.
        """
        count = level / self.each
        stray = CHANCE_SPREADS * SIZES_VARY * self.each * np.sqrt(count + 0.5)
        chance: Floats = np.where(count < FEW_REQUESTS, stray, 0.0)
        return chance

    def _expect(self, dropped: Flags, *, wide: bool) -> Floats:
        """The tide of the day, and the level that carries it."""
        y = np.where(dropped, np.nan, self.y)
        day = self.grid.day
        if self.grid.days >= _MANY_DAYS and day > 1:
            tide = self._profile(y - rolling_median(y, day))
        else:
            tide = self._harmonics(y)
        width = day if wide else max(3, day // 4)
        return tide + rolling_median(y - tide, min(width, len(y)))

    def _profile(self, y: Floats) -> Floats:
        """The median of the days at each time of day, smoothed."""
        grid = self.grid
        full = np.full(grid.days * grid.day, np.nan)
        full[grid.lead : grid.lead + len(y)] = y
        days = full.reshape(grid.days, grid.day)
        filled = np.isfinite(days).any(axis=0)
        tide = np.zeros(grid.day)
        tide[filled] = np.nanmedian(days[:, filled], axis=0)
        wrapped = np.concatenate([tide, tide, tide])
        smooth = rolling_median(wrapped, max(1, 2700 // self.window_s))
        tide = smooth[grid.day : 2 * grid.day]
        return np.tile(tide, grid.days)[grid.lead : grid.lead + len(y)]

    def _harmonics(self, y: Floats) -> Floats:
        """Too few days for medians: a smooth day, fitted with little weight on what
        stands out.
        """
        count = len(y)
        held = np.isfinite(y)
        turns = np.arange(count) / max(1, self.grid.day) * 2 * np.pi
        most = min(_HARMONICS, max(0, round(4 * count / max(1, self.grid.day))))
        if most == 0 or held.sum() < 12 * most:
            return np.zeros(count)
        waves = [f(k * turns) for k in range(1, most + 1) for f in (np.sin, np.cos)]
        basis = np.stack([np.ones(count), *waves], axis=1)
        ridge = 1e-3 * count * np.diag([0.0] + [1.0] * (2 * most))
        weight = held.astype(np.float64)
        filled = np.where(held, y, 0.0)
        fitted = np.zeros(count)
        for _ in range(12):
            scaled = basis * weight[:, None]
            fitted = basis @ np.linalg.solve(
                basis.T @ scaled + ridge, scaled.T @ filled
            )
            off = np.where(held, y - fitted, 0.0)
            spread = 1.5 * float(np.median(np.abs(off[held]))) + 0.02
            far = np.clip(np.abs(off) / (4.0 * spread), 0.0, 1.0)
            weight = held * (1.0 - far**2) ** 2
        return fitted

    def _score(
        self, expected: Floats, spread: Floats, dropped: Flags
    ) -> tuple[Floats, Floats]:
        """The best of several lengths (3 is the limit), and the single window's limit
        in log units.
        """
        standard = (self.y - expected) / spread
        best = np.zeros(len(standard))
        single = spread
        for length, least in zip(SCALES, _LEAST_LIMITS, strict=True):
            if length * 4 > len(standard):
                continue
            kernel = np.ones(length) / length
            mean = np.convolve(standard, kernel, mode="same")
            clean = np.where(grow(dropped, length // 2), np.nan, mean)
            limit = tail_limit(clean, _SHARE, least)
            points = 3.0 * mean / limit
            if length == 1:
                single = spread * limit
            # A length's windows must stand out themselves, too.
            best = np.where(np.abs(points) > np.abs(best), points, best)
        return best, single

    def _spread(self, expected: Floats, dropped: Flags) -> Floats:
        """Ordinary deviation by level: quiet hours are wilder than busy ones."""
        off = np.where(dropped, np.nan, self.y - expected)
        held = np.isfinite(off)
        if held.sum() < 4 * _BINS:
            return np.full(len(off), 0.3)
        order = np.argsort(expected[held])
        levels, spreads = [], []
        for part in np.array_split(order, _BINS):
            values = off[held][part]
            high, low = np.quantile(values, (0.84, 0.16))
            levels.append(float(np.median(expected[held][part])))
            spreads.append(max(_LEAST_SPREAD, high, -low))
        spread: Floats = np.interp(expected, levels, spreads)
        return spread

    def _steps(self) -> Flags:
        """Starts of levels that stay: a day's median beyond all that were before."""
        flags = np.zeros(len(self.y), dtype=bool)
        day = self.grid.day
        if len(self.y) < 2 * day + 2 or day < 8:  # noqa: PLR2004 - two days at least
            return flags
        y = np.where(self.heavy, np.nan, self.y)
        tide = self._profile(y - rolling_median(y, day))
        level = rolling_median(y - tide, day | 1)
        half = day // 2
        # Medians of the day before and of the day after each window.
        before, after = np.roll(level, half + 1), np.roll(level, -half)
        before[: half + 1] = level[0]  # no wrapping around
        highest = np.maximum.accumulate(before)
        jump = after - highest
        # Who has seen only a weekend does not know a working day.
        jump[: STEP_DAYS * day // 2] = 0.0
        jump[-day // 2 :] = 0.0
        grown = np.exp(tide + after) - np.exp(tide + highest)
        marks = (jump > 0.25) & (grown > WEIGHT * self.median)  # noqa: PLR2004
        length = max(1, _START_WINDOWS_S // self.window_s)
        for begin, end in spans(marks, gap=day // 4):
            at = begin + int(np.argmax(jump[begin:end]))
            flags[at : at + length] = True
        return flags
