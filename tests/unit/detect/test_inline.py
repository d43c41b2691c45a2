"""The worker's score of one request."""

from __future__ import annotations

import random
from typing import NamedTuple

from gateway.core.model import Policy, Tenant
from gateway.detect.inline import MINUTE_S, NOTHING, InlineScorer

T = 1_767_607_200.0
KEY = ("t", "client_ip", "203.0.113.9")


class Client(NamedTuple):
    """As much of an identity as is asked for."""

    client_ip: str = "203.0.113.9"
    user: str = "u"
    tenant: Tenant = Tenant("t", Policy("p"))

    @property
    def key(self) -> tuple[str, str]:
        return self.client_ip, self.user


def scored(scorer, times, *, prints=lambda n: 5 ^ (1 << n % 64), counted=0, at=T):
    """So many requests of one subject; the last verdict."""
    verdict = NOTHING
    for n in range(times):
        verdict = scorer.score_one(Client(), counted, prints(n), at)
    return verdict


def test_excess_with_alike_prompts_scores():
    """Far over the expectation of its tenant's busiest, all prompts of one template."""
    scorer = InlineScorer()
    scorer.take_baselines({}, {"t": 10.0})
    assert scored(scorer, 10) is NOTHING
    found = scored(scorer, 100)
    assert found.score > 4
    assert (found.action, found.cls) == ("allow", "scraping")
    assert found.reasons[0] == "106 requests in a minute where 10 are usual."


def test_what_is_usual_for_the_subject_itself_counts_first():
    """A customer that always sends so much is no news; nor is a little more."""
    scorer = InlineScorer()
    scorer.take_baselines({KEY: 150.0}, {"t": 10.0})
    assert scored(scorer, 160) is NOTHING


def test_the_stores_count_stands_over_the_workers_own():
    """Other workers and machines serve the same subject."""
    scorer = InlineScorer()
    assert scored(scorer, 8, counted=900).score > 6
    assert scored(scorer, 30, prints=lambda _: 7, counted=900).score > 6
    assert scorer.known == 1


def test_a_new_minute_starts_from_nothing():
    """Counts are of the running minute."""
    scorer = InlineScorer()
    assert scored(scorer, 100).score > 0
    assert scored(scorer, 1, at=T + MINUTE_S) is NOTHING


def test_varied_prompts_do_not_score():
    """A busy client with prompts of its own is left to control; so is one without."""
    chance = random.Random(1)
    scorer = InlineScorer()
    assert scored(scorer, 300, prints=lambda _: chance.getrandbits(64)) is NOTHING
    assert scored(InlineScorer(), 300, prints=lambda _: None) is NOTHING
