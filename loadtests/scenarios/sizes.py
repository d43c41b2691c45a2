"""Sizes of prompts and answers, and the clock of human activity.

The tables are quantiles of the public hour of a chat service (Azure Public Dataset
2023, conversation trace, CC-BY-4.0): answers are drawn given the fifth of the prompts
that theirs falls into, which keeps the joint shape. Tides and noise take their ranges
from the two weeks of clients derived from Alibaba ServeGen (Apache-2.0).
"""

from __future__ import annotations

import numpy as np

from loadtests.scenarios.rows import Floats, Ints, Random

# Quantile levels of all tables below.
LEVELS = np.array([0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 1])
PROMPT = np.log(
    [2, 91, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4098, 14050.0]
)
ANSWER = np.log(
    np.array(
        [
            [7, 12, 28, 63, 75, 86, 104, 132, 162, 179, 212, 223, 1000],
            [24, 57, 80, 86, 90, 93, 97, 101, 107, 117, 135, 168, 739],
            [10, 50, 95, 375, 391, 396, 399, 409, 415, 429, 461, 600, 1000],
            [26, 50, 139, 371, 386, 396, 399, 410, 418, 429, 476, 617, 1000],
            [15, 28, 39, 48, 56, 67, 78, 92, 108, 133, 168, 273, 918],
        ],
        dtype=float,
    )
)
# Memory of the noise of a client's rate over ten minutes (autocorrelation seen in the
# trace: 0.66 to 0.94), and over one slice of generation.
NOISE_RHO = 0.88


def draw_sizes(rng: Random, count: int) -> tuple[Floats, Floats]:
    """Prompt and answer tokens of ``count`` requests, jointly."""
    level = rng.random(count)
    prompt = np.exp(np.interp(level, LEVELS, PROMPT))
    fifth = np.minimum((level * 5).astype(np.int64), 4)
    answer_level = rng.random(count)
    answers = np.stack([np.interp(answer_level, LEVELS, row) for row in ANSWER])
    return prompt, np.exp(answers[fifth, np.arange(count)])


def whole(tokens: Floats, at_most: float = 200_000) -> Ints:
    """Token counts as integers of at least one."""
    return np.clip(tokens, 1, at_most).astype(np.int64)


def tide(local_hour: Floats, strength: Floats) -> Floats:
    """Relative activity at a local hour: 1 on average, highest at 14:30.

    ``strength`` is the logarithm of peak over trough, 0 for machines without one.
    """
    swing = np.cos((local_hour - 14.5) * (np.pi / 12))
    return np.asarray(np.exp(strength / 2 * swing) / np.i0(strength / 2))


def human_gaps(rng: Random, count: int, median_s: float, spread: float = 1.0) -> Floats:
    """Pauses of people: log-normal, in seconds."""
    return np.asarray(median_s * np.exp(spread * rng.standard_normal(count)))


def noise_step(rng: Random, state: Floats, spread: Floats) -> Floats:
    """The next slice's log-deviation of each client's rate: drifts back to zero."""
    push = np.sqrt(1 - NOISE_RHO**2) * spread * rng.standard_normal(len(state))
    return np.asarray(NOISE_RHO * state + push)
