"""Calibration of scores."""

from __future__ import annotations

import random

import pytest

from gateway.detect.score import (
    FAR_MOST,
    MOST,
    SHARE_AT_3,
    SHARE_AT_5,
    Tail,
    new_tail,
    score_of,
)


def test_scores_of_the_documented_shares():
    """Scores 3 and 5 have the documented tail probabilities."""
    assert score_of(SHARE_AT_3) == pytest.approx(3)
    assert score_of(SHARE_AT_5) == pytest.approx(5)
    assert score_of(1.0) == 0
    assert score_of(0.0) == MOST == score_of(1e-30)
    assert 0 < score_of(0.2) < score_of(0.01) < 3


def test_a_new_tail_has_a_prior():
    """A new tail scores 2.33 spreads as about 5, before and after a refit."""
    tail = new_tail()
    assert tail.score(-1.0) == 0.0
    assert tail.score(0.05) < 2
    assert tail.score(2.33) == pytest.approx(5, abs=0.3)
    before = tail.score(1.2)
    tail.refit()
    assert tail.score(1.2) == pytest.approx(before, abs=0.5)


def test_scores_grow_with_the_surprise():
    """The score does not decrease with the excess, also across the threshold of the
    fit.
    """
    tail = new_tail()
    tail.refit()
    scores = [tail.score(step / 50) for step in range(500)]
    assert scores == sorted(scores)
    assert scores[-1] <= MOST


def exponential(tail: Tail, count: int, seed: int = 1) -> Tail:
    """The tail after exponentially distributed excesses."""
    chance = random.Random(seed)
    for _ in range(count):
        tail.learn(chance.expovariate(1 / 0.2) - 0.5)
    return tail


def test_a_tail_follows_its_traffic():
    """A fitted tail gives a score over 3 to about the documented share."""
    tail = Tail(counts=[0.0] * 400, seen=1.0)
    exponential(tail, 60_000).refit()
    again = random.Random(2)
    over = sum(tail.score(again.expovariate(1 / 0.2) - 0.5) > 3 for _ in range(60_000))
    assert 0.3 * SHARE_AT_3 < over / 60_000 < 3 * SHARE_AT_3


def test_floods_cannot_hide_floods():
    """Windows far above 5 are bounded in the fit, so that floods keep their score."""
    tail = exponential(new_tail(), 20_000)
    tail.refit()
    for _ in range(3_000):
        tail.learn(8.0)
    tail.refit()
    assert tail.far <= FAR_MOST
    assert tail.score(4.0) > 5


def test_old_windows_are_forgotten_slowly():
    """Counts are halved when there are many."""
    tail = new_tail()
    tail.seen = 300_000.0
    tail.refit()
    assert tail.seen == 150_000.0


def test_a_tail_of_nothing_stays_as_it_was():
    """A tail without a positive excess is not fitted."""
    tail = Tail(counts=[0.0] * 400, seen=10.0)
    tail.refit()
    assert tail.u == 0.0
    tail.learn(-1.0)
    assert tail.seen == 11.0


def test_a_tail_without_shape_is_exponential():
    """A tail with shape 0 is the exponential limit."""
    tail = Tail(counts=[0.0] * 400, seen=1000.0, shape=0.0)
    assert tail.score(1.0) > 0
    for step in range(40):
        tail.learn(1.0 + step / 100)
    tail.refit()
    assert tail.shape == 0.0
    assert tail.far > 0
    assert tail.score(9.0) == MOST
