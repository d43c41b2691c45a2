"""The worker's score of one request."""

from __future__ import annotations

import random
from typing import NamedTuple

from gateway.core.model import Policy, Tenant
from gateway.detect.inline import MINUTE_S, NOTHING, InlineScorer

T = 1_767_607_200.0
KEY = ("t", "client_ip", "203.0.113.9")


class Client(NamedTuple):
    """The part of an identity that the scorer uses."""

    client_ip: str = "203.0.113.9"
    user: str = "u"
    tenant: Tenant = Tenant("t", Policy("p"))

    @property
    def key(self) -> tuple[str, str]:
        return self.client_ip, self.user


def scored(scorer, times, *, prints=lambda n: 5 ^ (1 << n % 64), counted=0, at=T):
    """Score ``times`` requests of one subject; the last result."""
    verdict = NOTHING
    for n in range(times):
        verdict = scorer.score_one(Client(), counted, prints(n), at)
    return verdict


def test_excess_with_alike_prompts_scores():
    """A rate far above the tenant's busiest scores if the prompts are alike."""
    scorer = InlineScorer()
    scorer.take_baselines({}, {"t": 10.0})
    assert scored(scorer, 10) is NOTHING
    found = scored(scorer, 100)
    assert found.score > 4
    assert (found.action, found.cls) == ("allow", "scraping")
    assert found.reasons[0] == "106 requests in a minute where 10 are usual."


def test_the_expectation_of_the_subject_takes_precedence():
    """A subject near its own expected rate does not score."""
    scorer = InlineScorer()
    scorer.take_baselines({KEY: 150.0}, {"t": 10.0})
    assert scored(scorer, 160) is NOTHING


def test_the_count_of_the_store_takes_precedence():
    """A higher count of the store, which includes other workers, takes precedence."""
    scorer = InlineScorer()
    assert scored(scorer, 8, counted=900).score > 6
    assert scored(scorer, 30, prints=lambda _: 7, counted=900).score > 6
    assert scorer.known == 1


def test_a_new_minute_starts_from_nothing():
    """Counts start at zero each minute."""
    scorer = InlineScorer()
    assert scored(scorer, 100).score > 0
    assert scored(scorer, 1, at=T + MINUTE_S) is NOTHING


def test_varied_prompts_do_not_score():
    """A busy client with varied prompts, or without any, does not score."""
    chance = random.Random(1)
    scorer = InlineScorer()
    assert scored(scorer, 300, prints=lambda _: chance.getrandbits(64)) is NOTHING
    assert scored(InlineScorer(), 300, prints=lambda _: None) is NOTHING
