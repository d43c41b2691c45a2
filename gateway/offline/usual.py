"""Arrays of windows: rolling sums and medians, what other days show, tails."""

from __future__ import annotations

from math import log
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.integer]

# Which of the other days' values is believed: the third highest of a week's (the middle
# one where there are fewer), as the live baseline does. One or two days with an attack
# at the same time do not make it ordinary.
DAY_RANK = 3


def add_up(at: Ints, values: Floats, size: int) -> Floats:
    """The sum of ``values`` for each number of ``at``."""
    return np.bincount(at, values, minlength=size).astype(np.float64)


def rolling_sum(values: Floats, length: int) -> Floats:
    """Sums of ``length`` windows ending at each, along the last axis."""
    if length == 1:
        return values
    total = np.cumsum(values, axis=-1)
    result = total.copy()
    result[..., length:] -= total[..., :-length]
    return result


def rolling_max(values: Floats, reach: int) -> Floats:
    """The highest within ``reach`` windows on both sides, along the last axis."""
    result = values.copy()
    done = 0
    while done < reach:
        step = min(done + 1, reach - done)
        grown = result.copy()
        np.maximum(grown[..., step:], result[..., :-step], out=grown[..., step:])
        np.maximum(grown[..., :-step], result[..., step:], out=grown[..., :-step])
        result, done = grown, done + step
    return result


def rolling_median(values: Floats, width: int) -> Floats:
    """Centred medians of a row; NaN does not count, gaps take their neighbours'."""
    series = pl.Series(values).fill_nan(None)
    medians = series.rolling_median(
        width | 1, min_samples=min(len(values), max(1, width // 8)), center=True
    )
    middle = float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0
    filled = medians.interpolate().forward_fill().backward_fill().fill_null(middle)
    return filled.to_numpy().copy()


def others_high(values: Floats, axis: int) -> Floats:
    """For each entry the high value that the other entries along ``axis`` show: the
    third highest of a week, the middle one where there are fewer, the upper third of
    several weeks; 0 without others.
    """
    others = values.shape[axis] - 1
    if others < 1:
        return np.zeros_like(values)
    rank = max(min(DAY_RANK, (others + 1) // 2), others // DAY_RANK)
    ordered = -np.sort(-values, axis=axis)
    high = np.take(ordered, [rank - 1], axis=axis)
    next_high = np.take(ordered, [rank], axis=axis)
    # Who is among the highest itself leaves a place free.
    return np.where(values >= high, next_high, high)


def tail_limit(values: Floats, share: float, least: float) -> float:
    """What this share of ordinary values exceeds, from values that hold attacks too.

    The slope of the tail (exponential: these are logarithms) is taken from the part
    that attacks do not reach, then what stands out is dropped and the tail refitted.
    """
    held = values[np.isfinite(values)]
    if len(held) < 8:  # noqa: PLR2004 - no tail to speak of
        return max(least, 1.0)
    limit = _extrapolate(held, (0.60, 0.85), share)
    for _ in range(4):
        kept = held[held <= max(limit, least)]
        if len(kept) < 8:  # noqa: PLR2004 - as above
            break
        limit = _extrapolate(kept, (0.80, 0.95), share)
    return max(least, limit)


def _extrapolate(values: Floats, points: tuple[float, float], share: float) -> float:
    low, high = (float(one) for one in np.quantile(values, points))
    slope = (high - low) / log((1 - points[0]) / (1 - points[1]))
    return high + slope * max(0.0, log((1 - points[1]) / share))


def grow(flags: Flags, reach: int) -> Flags:
    """The flags and ``reach`` windows on both sides."""
    return rolling_max(flags.astype(np.float64), reach) > 0 if flags.any() else flags


def spans(flags: Flags, gap: int = 0) -> list[tuple[int, int]]:
    """Runs of true windows, ends exclusive; holes of up to ``gap`` are bridged."""
    at = np.flatnonzero(flags)
    if not len(at):
        return []
    breaks = np.flatnonzero(np.diff(at) > gap + 1)
    begins = [int(at[0]), *at[breaks + 1].tolist()]
    ends = [*(at[breaks] + 1).tolist(), int(at[-1]) + 1]
    return list(zip(begins, ends, strict=True))
