"""Scores of counts."""

from __future__ import annotations

from gateway.detect.rules.facts import count_score


def test_count_scores_grow_with_the_count():
    """The score is 0 at the expectation and does not decrease with the count."""
    assert count_score(2, 2) == count_score(0, 0) == 0
    scores = [count_score(n, 2.0) for n in range(100)]
    assert scores == sorted(scores)
    assert scores[-1] == 12
