"""The score of an admitted request: what is counted, and for which subject."""

from __future__ import annotations

from types import SimpleNamespace

from gateway.core.model import Policy
from gateway.detect.inline import NOTHING
from gateway.proxy.steps.score import score
from tests.flows import flow_of


class Scorer:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def score_one(self, *asked):
        self.asked.append(asked)
        return NOTHING


def test_largest_minute_count_is_scored():
    """Of the limits with a window of a minute the largest sum counts."""
    scorer, flow = Scorer(), flow_of(Policy("p"))
    shared = SimpleNamespace(scoring=SimpleNamespace(inline=scorer), epoch=1e9)
    flow.fingerprint = 7
    assert score(flow, shared, flow.identity) is NOTHING
    flow.plan = SimpleNamespace(minute_places=(0, 2))
    flow.reserved = SimpleNamespace(sums=(3, 99, 5))
    score(flow, shared, flow.identity)
    assert [asked[1:3] for asked in scorer.asked] == [(0, 7), (5, 7)]
    assert all(asked[3] > 1e9 for asked in scorer.asked)
