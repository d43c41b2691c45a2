"""The worker's score of one request."""

from __future__ import annotations

import random

from gateway.detect.inline import NOTHING, InlineScorer
from gateway.detect.model import Output, Ref, Window, format_time

T = 1_767_607_200.0
KEY = ("t", "client_ip", "203.0.113.9")


def verdict(kind: str, action: str, until: float | None) -> Output:
    """What control tells."""
    return Output(
        type=kind, id="i", ts=format_time(T), severity="critical", cls="scraping",
        score=6.0, subject=Ref("client_ip", "203.0.113.9"), tenant="t", action=action,
        until=None if until is None else format_time(until), window=Window("", ""),
        observed={}, expected={}, reasons=(),
    )  # fmt: skip


def test_verdicts_of_control_are_enforced_until_they_end():
    """Blocked until its time, free afterwards or when control says so."""
    scorer = InlineScorer()
    scorer.take_verdicts([verdict("client.blocked", "block", T + 600)], T)
    assert scorer.score_one(KEY, 1, T + 1).rung == "block"
    assert scorer.score_one(KEY, 1, T + 601) is NOTHING
    scorer.take_verdicts([verdict("client.unblocked", "allow", None)], T + 1)
    assert scorer.score_one(KEY, 1, T + 2) is NOTHING
    scorer.take_verdicts([verdict("client.blocked", "block", T + 9)], T)
    scorer.take_verdicts(
        [
            verdict("incident.opened", "block", T + 999),
            verdict("client.tagged", "tag", None),
        ],
        T + 10,
    )
    assert scorer.score_one(KEY, 1, T + 3) is NOTHING


def test_excess_with_alike_prompts_scores():
    """Far over the expectation, all prompts of one template."""
    scorer = InlineScorer()
    scorer.take_baselines({}, {"t": 10.0})
    assert scorer.score_one(KEY, 200, T) is NOTHING
    for n in range(20):
        scorer.learn_one(KEY, 5 ^ (1 << n))
    assert scorer.score_one(KEY, 200, T).score > 5
    assert scorer.score_one(KEY, 9, T) is NOTHING
    assert scorer.score_one(KEY, 11, T) is NOTHING
    scorer.take_baselines({KEY: 150.0}, {})
    assert scorer.score_one(KEY, 200, T) is NOTHING
    scorer.take_baselines({}, {})
    assert scorer.score_one(KEY, 200, T) is NOTHING


def test_varied_prompts_do_not_score():
    """A busy client with prompts of its own is left to control."""
    chance, scorer = random.Random(1), InlineScorer()
    scorer.take_baselines({}, {"t": 10.0})
    for _ in range(20):
        scorer.learn_one(KEY, chance.getrandbits(64))
    assert scorer.score_one(KEY, 200, T) is NOTHING
