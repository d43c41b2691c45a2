"""Which users were abnormal in which windows.

A user is compared with what the same user does in a busy window of other days, at
several lengths at once (a window up to hours), on a log scale. How far beyond is too
far comes from all users of like activity: the tail of the same comparison.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from gateway.offline.traffic import Traffic
from gateway.offline.usual import (
    Flags,
    Floats,
    Ints,
    add_up,
    others_high,
    rolling_max,
    rolling_sum,
    spans,
    tail_limit,
)

DAY_S = 86_400
WEEK = 7
# Lengths at which a user is looked at: short floods and long, mild ones.
SCALES_S = (300, 900, 3600, 10_800)
# Time of day: a job may start this much earlier or later on other days.
AROUND_S = 2700
# Requests a day that tell classes of like activity apart.
CLASSES = (4.0, 16.0, 64.0, 256.0, 1024.0)
_LEAST_CLASS = 150
# Users who were there for long, from which on they alone are the population.
_LEAST_SETTLED = 3
# User-days that may stand out by chance in the whole log, and bounds of the share.
_CHANCE = 1.0
_MOST_SHARE, _LEAST_SHARE = 2e-3, 1e-5
# At least this factor beyond a busy window of one's own, by length.
LEAST_FACTOR = (2.5, 2.2, 2.0, 1.8)
# An excess that matters: this share of an ordinary window of the whole service.
WEIGHT_SHARE = 0.02
# Users at once: bounds memory.
_BATCH = 512
# A level that stays is shown when it starts, for so long.
START_S = 3600
STAYS_S = 64_800
# A level has risen for good when hours of each later day are beyond this factor.
RISE, BULK, LEVEL_DAYS = 2.0, 0.85, 4
# A window belongs to a spike when it has this part of its highest excess; abnormal
# windows of one user further apart than this are two spikes.
LEAST_PART = 0.1
SPIKE_GAP_S = 10_800
# A spike has at least so many requests.
LEAST_REQUESTS = 4
# ... and of a longer stretch that stands out, this part of its mean.
TAKES_PART = 0.5
# Who lives no longer than this belongs to the crowd of the short-lived.
SHORT_LIFE_S = 43_200


class UserFlag(msgspec.Struct):
    """Abnormal windows of one user (an index into ``Traffic.users``; -1: the crowd of
    the short-lived): window numbers, tokens, expected, score (3 is the limit).
    """

    user: int
    windows: list[int]
    tokens: Floats
    expected: Floats
    score: Floats


class Grid(msgspec.Struct, frozen=True):
    """How windows fall into days, or into shorter blocks where there are few days."""

    lead: int  # windows of the first day before the log
    day: int  # windows of a day
    days: int
    block: int
    blocks: int
    scales: tuple[int, ...]
    around: int


def make_grid(traffic: Traffic) -> Grid:
    """Days begin at midnight of the log's time zone."""
    day = max(1, round(DAY_S / traffic.window_s))
    lead = traffic.first % day
    days = -(-(lead + traffic.windows) // day)
    block = day
    if traffic.windows < 4 * day:  # too few days to tell: six blocks or more
        block = max(1, min(day, traffic.windows // 6))
    scales = sorted({max(1, round(one / traffic.window_s)) for one in SCALES_S})
    around = max(1, round(AROUND_S / traffic.window_s)) if day > 1 else 0
    return Grid(
        lead=lead,
        day=day,
        days=days,
        block=block,
        blocks=-(-traffic.windows // block) if block < day else days,
        scales=tuple(scales),
        around=around,
    )


def judge_users(traffic: Traffic, median: float) -> list[UserFlag]:
    """Every user's abnormal windows; ``median`` is the service's ordinary window."""
    grid = make_grid(traffic)
    rows = _UserRows(traffic, median * WEIGHT_SHARE)
    if not rows.count:
        return []
    surveys = [
        _Survey(grid, rows, meter) for meter in (traffic.tempered(), traffic.requests)
    ]
    shaper = Shaper(grid, traffic.window_s)
    found: list[UserFlag] = []
    suspects = np.flatnonzero(surveys[0].suspects | surveys[1].suspects)
    for begin in range(0, len(suspects), _BATCH):
        picked = suspects[begin : begin + _BATCH]
        tokens = rows.dense(picked, traffic.tokens)
        score = np.zeros_like(tokens)
        for survey in surveys:
            values = rows.dense(picked, survey.meter)
            np.maximum(score, survey.score(picked, values, tokens), out=score)
        for at in np.flatnonzero(score.any(axis=1)).tolist():
            one = _flag(rows, shaper, int(picked[at]), tokens[at], score[at])
            if one is not None:
                found.append(one)
    return found


def _flag(
    rows: _UserRows, shaper: Shaper, row: int, values: Floats, score: Floats
) -> UserFlag | None:
    requests = rows.dense(np.array([row]), rows.traffic.requests)[0]
    usual = shaper.usual(values, score > 0)
    excess = values - usual
    # Only the windows that make up the excess, and of a level that stays its start.
    held = shaper.makes_up(score > 0, excess)
    score = np.where(shaper.repeated(held, requests), score, 0.0)
    windows = np.flatnonzero(shaper.starts(score > 0, values))
    if excess[windows].sum() < rows.weight:
        return None
    return UserFlag(
        user=rows.name(row),
        windows=windows.tolist(),
        tokens=values[windows],
        expected=usual[windows],
        score=np.minimum(12.0, score[windows]),
    )


class Shaper:
    """What a user has at a time of day, and which levels stay."""

    def __init__(self, grid: Grid, window_s: int) -> None:
        self.grid, self.window_s = grid, window_s

    def usual(self, values: Floats, flags: Flags) -> Floats:
        """What the user has at this time on other days, an hour's average."""
        grid = self.grid
        clean = np.where(flags, np.nan, values)
        days = cut(clean[None, :], grid.lead, grid.days, grid.day, np.nan)[0]
        filled = np.isfinite(days)
        mean = np.where(filled, days, 0).sum(0) / np.maximum(1, filled.sum(0))
        width = min(max(1, 3600 // self.window_s), grid.day)
        wrapped = np.concatenate([mean[-width:], mean, mean[:width]])
        kernel = np.ones(width) / width
        smooth = np.convolve(wrapped, kernel, mode="same")[width : width + grid.day]
        return np.tile(smooth, grid.days)[grid.lead : grid.lead + len(values)]

    def makes_up(self, flags: Flags, excess: Floats) -> Flags:
        """Of each spike the windows that hold it: a stretch of hours that stands out
        begins before the flood in it does. Each spike for itself, so that a large one
        on Monday does not hide a small one on Friday.
        """
        kept = np.zeros_like(flags)
        for begin, end in spans(flags, gap=SPIKE_GAP_S // self.window_s):
            part = excess[begin:end]
            kept[begin:end] = flags[begin:end] & (part > LEAST_PART * part.max())
        return kept

    def repeated(self, flags: Flags, requests: Floats) -> Flags:
        """Spikes of some requests: one or two are none, however large."""
        kept = np.zeros_like(flags)
        for begin, end in spans(flags, gap=SPIKE_GAP_S // self.window_s):
            mine = flags[begin:end]
            if requests[begin:end][mine].sum() >= LEAST_REQUESTS:
                kept[begin:end] = mine
        return kept

    def starts(self, flags: Flags, values: Floats) -> Flags:
        """Of a level that stays, only its start."""
        kept = flags.copy()
        for begin, end in spans(flags, gap=7200 // self.window_s):
            if (end - begin) * self.window_s > STAYS_S and end - begin > 1:
                kept[begin + max(1, START_S // self.window_s) : end] = False
        return kept


def cut(values: Floats, lead: int, parts: int, size: int, empty: float) -> Floats:
    """Rows cut into ``parts`` of ``size`` windows."""
    full = np.full((len(values), parts * size), empty)
    full[:, lead : lead + values.shape[1]] = values
    shaped: Floats = full.reshape(len(values), parts, size)
    return shaped


def weekly(near: Floats, grid: Grid) -> Floats:
    """The same time of other weeks, where there are any; else 0."""
    if grid.days < 2 * WEEK:
        return np.zeros_like(near)
    weeks = -(-grid.days // WEEK)
    parts = cut(near, grid.lead, weeks, WEEK * grid.day, 0.0)
    same = others_high(parts, axis=1).reshape(len(near), -1)
    return same[:, grid.lead : grid.lead + near.shape[1]]


class _UserRows:
    """Users that can matter, as dense rows; the last row is the short-lived crowd."""

    def __init__(self, traffic: Traffic, weight: float) -> None:
        self.traffic, self.weight = traffic, weight
        users = len(traffic.users)
        totals = add_up(traffic.user.clip(0), traffic.tokens, users)
        begin = np.full(users, traffic.windows)
        end = np.full(users, -1)
        np.minimum.at(begin, traffic.user.clip(0), traffic.window)
        np.maximum.at(end, traffic.user.clip(0), traffic.window)
        life = (end - begin + 1) * traffic.window_s
        self.short = (life < SHORT_LIFE_S) & (end >= 0)
        self.picked = np.flatnonzero(totals >= weight)
        self.count = len(self.picked) + 1 if users else 0
        self.bounds = np.searchsorted(traffic.user, np.arange(users + 1))
        requests = add_up(traffic.user.clip(0), traffic.requests, users)
        pace = requests / np.maximum(1.0, life / DAY_S)
        self.pace = np.append(pace[self.picked], [CLASSES[-1]])
        # Who lived for hours only (a crowd of throw-away keys) says nothing about the
        # others, unless there are hardly any others.
        settled = np.append(~self.short[self.picked], [False])
        few = settled.sum() < _LEAST_SETTLED
        self.settled = np.append(settled[:-1] | few, [False])

    def name(self, row: int) -> int:
        """The user of a row, -1 for the crowd."""
        return int(self.picked[row]) if row < len(self.picked) else -1

    def batches(self) -> Iterator[Ints]:
        """All rows, some at a time."""
        for first in range(0, self.count, _BATCH):
            yield np.arange(first, min(self.count, first + _BATCH))

    def dense(self, picked: Ints, meter: Floats) -> Floats:
        """Some rows of a meter (one figure for each sparse row of the traffic)."""
        traffic = self.traffic
        values = np.zeros((len(picked), traffic.windows))
        for at, row in enumerate(picked.tolist()):
            if row < len(self.picked):
                user = self.picked[row]
                part = slice(self.bounds[user], self.bounds[user + 1])
                values[at, traffic.window[part]] = meter[part]
            else:
                mine = self.short[traffic.user]
                values[at] = add_up(traffic.window[mine], meter[mine], traffic.windows)
        return values


class _UserScale(msgspec.Struct):
    """One length: every row's highest sum in each block, the population's busy block,
    and what is expected of each block.
    """

    length: int
    peaks: Floats
    floor: float
    newcomer: float
    unit: float
    limits: Floats  # of each row


class _Survey:
    """One meter: what is ordinary among all users first; then each user against it."""

    def __init__(self, grid: Grid, rows: _UserRows, meter: Floats) -> None:
        self.grid, self.rows, self.meter = grid, rows, meter
        self.kind = np.searchsorted(CLASSES, rows.pace)
        self.settled = rows.settled
        parts = [
            self._all_peaks(rows.dense(picked, meter)) for picked in rows.batches()
        ]
        self.scales = [
            self._scale(length, np.concatenate([part[at] for part in parts]))
            for at, length in enumerate(grid.scales)
        ]
        suspects = np.zeros(rows.count, dtype=bool)
        for scale, factor in zip(self.scales, LEAST_FACTOR, strict=False):
            over = self._over(scale.peaks, self._level(scale, scale.peaks), scale)
            over[scale.peaks <= 0] = -np.inf
            limits = self._by_class(over, float(np.log(factor)))
            scale.limits = limits[self.kind]
            suspects |= (over >= scale.limits[:, None]).any(axis=1)
        # Only these can have a window beyond the limit: expectations of single windows
        # are never lower than those of their block.
        self.suspects = suspects

    def _all_peaks(self, values: Floats) -> list[Floats]:
        total = np.cumsum(values, axis=1)
        found = []
        for length in self.grid.scales:
            sums = total.copy()
            sums[:, length:] -= total[:, :-length]
            found.append(self._blocks(sums))
        return found

    def _scale(self, length: int, peaks: Floats) -> _UserScale:
        """Busy blocks of all users give the floor for those without own history."""
        seen = peaks[self.settled]
        seen = seen[seen > 0]
        floor, newcomer = (
            np.quantile(seen, (0.5, 0.9)).tolist() if len(seen) else (0.0, 0.0)
        )
        unit = 0.5 * floor + max(1e-9, float(self.meter.min(initial=1.0)))
        return _UserScale(length, peaks, floor, newcomer, unit, np.zeros(0))

    def _level(self, scale: _UserScale, peaks: Floats) -> Floats:
        """What a busy block of the same user has on other days. Who was not there is
        compared with the busier of the others.
        """
        others = (peaks > 0).sum(axis=1, keepdims=True) - (peaks > 0)
        floor = np.where(others < 1, scale.newcomer, scale.floor)
        level: Floats = np.maximum(others_high(peaks, axis=1), floor)
        return level

    def _by_class(self, worst: Floats, least: float) -> Floats:
        """A limit for each class; small classes share their neighbours' tail."""
        seen = np.isfinite(worst)
        share = np.clip(_CHANCE / max(1, seen.sum()), _LEAST_SHARE, _MOST_SHARE)
        limits = np.zeros(len(CLASSES) + 1)
        for kind in range(len(limits)):
            mine = worst[:0].ravel()
            for reach in range(len(limits)):
                near = np.abs(self.kind - kind) <= reach
                like = (self.kind == kind) | (near & self.settled)
                mine = worst[like][seen[like]]
                if len(mine) >= _LEAST_CLASS:
                    break
            limits[kind] = tail_limit(mine, float(share), least)
        return limits

    def score(self, picked: Ints, values: Floats, tokens: Floats) -> Floats:
        """Points of each window of some rows: 0, or 3 and more."""
        score = np.zeros_like(values)
        for scale in self.scales:
            sums, expected = self._expected(picked, values, scale)
            over = self._over(sums, expected, scale)
            points = 3.0 * over / scale.limits[picked][:, None]
            points[rolling_sum(tokens, scale.length) < self.rows.weight] = 0.0
            points[points < 3.0] = 0.0  # noqa: PLR2004 - the limit is 3 by definition
            np.maximum(score, self._spread(points, values, scale.length), out=score)
        return score

    def _spread(self, points: Floats, values: Floats, length: int) -> Floats:
        """A length's score for each of its windows that took part."""
        if length == 1:
            return points
        sums = rolling_sum(values, length)
        reach, best = points.copy(), sums.copy()
        # Of every trailing sum that holds the window; its own part must count.
        for back in range(1, length):
            reach[:, :-back] = np.maximum(reach[:, :-back], points[:, back:])
            best[:, :-back] = np.maximum(best[:, :-back], sums[:, back:])
        part: Floats = np.where(values >= TAKES_PART * best / length, reach, 0.0)
        return part

    def _expected(
        self, picked: Ints, values: Floats, scale: _UserScale
    ) -> tuple[Floats, Floats]:
        """Sums of this length, and the highest of the expectations for each."""
        grid = self.grid
        sums = rolling_sum(values, scale.length)
        peaks = scale.peaks[picked]
        own = np.maximum(self._level(scale, peaks), self._grown(values, peaks))
        level = np.repeat(own, grid.block, axis=1)
        offset = grid.lead if grid.block == grid.day else 0
        expected = level[:, offset : offset + values.shape[1]]
        if grid.days > 1:
            near = rolling_max(sums, grid.around)
            days = cut(near, grid.lead, grid.days, grid.day, 0.0)
            same = others_high(days, axis=1).reshape(len(values), -1)
            same = same[:, grid.lead : grid.lead + values.shape[1]]
            expected = np.maximum(np.maximum(expected, same), weekly(near, grid))
        return sums, expected

    def _grown(self, values: Floats, peaks: Floats) -> Floats:
        """Peaks of users whose level rose for good, from the day on which it did: the
        highest of the days that followed (or went before it, at the new level).
        """
        grid = self.grid
        found = np.zeros_like(peaks)
        if grid.block < grid.day or grid.days < LEVEL_DAYS:
            return found
        # A level holds for hours of each day; a flood does not.
        hourly = rolling_sum(values, max(1, 3600 // self.rows.traffic.window_s))
        days = cut(hourly, grid.lead, grid.days, grid.day, 0.0)
        bulk = np.quantile(days, BULK, axis=2)
        for at in range(1, grid.days - 2):
            before = bulk[:, :at].max(axis=1)
            after = np.quantile(bulk[:, at:-1], 0.25, axis=1)
            rose = (after > RISE * before) & (before > 0)
            rose &= ~found.any(axis=1)
            if rose.any():
                group = peaks[rose][:, at:]
                ordered = np.sort(group, axis=1)
                second = ordered[:, -2:-1]
                top = ordered[:, -1:]
                found[rose, at:] = np.where(group >= top, second, top)
        return found

    def _over(self, sums: Floats, expected: Floats, scale: _UserScale) -> Floats:
        over: Floats = np.log((sums + scale.unit) / (expected + scale.unit))
        return over

    def _blocks(self, values: Floats, empty: float = 0.0) -> Floats:
        grid = self.grid
        lead = grid.lead if grid.block == grid.day else 0
        highest: Floats = cut(values, lead, grid.blocks, grid.block, empty).max(axis=2)
        return highest
