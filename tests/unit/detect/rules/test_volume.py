"""Volume, among live peers and beside its own past."""

from __future__ import annotations

import msgspec
import pytest

from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts
from tests.unit.detect.subjects import MORE, STANDS_OUT, named


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"requests": 101, "concurrent_score": 5.0, "early": True}, True),
        ({"requests": 99, "concurrent_score": 9.0, "early": True}, False),
        ({"requests": 290, "concurrent_score": 4.9, "early": True}, False),
        ({"requests": 290, "concurrent_score": 5.0}, False),
        ({"requests": 310, "concurrent_score": 4.9}, True),
        ({"cold": False, "concurrent_score": 5.5, "requests": 310}, True),
        ({"cold": False, "concurrent_score": 5.5, "requests": 290}, False),
        (
            {
                "cold": False,
                "concurrent_score": 5.5,
                "requests": 200,
                "requests_m": 310,
            },
            True,
        ),
        (
            {
                "cold": False,
                "concurrent_score": 5.5,
                "requests": 310,
                "service_m": 999.0,
            },
            False,
        ),
    ],
)
def test_a_newcomer_far_beyond_its_peers_is_told_of(changes, told):
    """On a first day after many requests, or fewer where nobody comes near."""
    found = classify(msgspec.structs.replace(STANDS_OUT, **changes))
    assert found is not None
    assert (found.cls, found.page_worthy) == ("volume", told)


def test_who_stands_out_among_live_peers_is_named_without_history():
    """Volume, or scraping where prompts are alike; never enough for a block."""
    assert named(STANDS_OUT) == ("volume", False)
    assert named(STANDS_OUT, alike=0.9) == ("scraping", False)
    finding = classify(STANDS_OUT)
    assert finding is not None
    assert (finding.score, finding.sudden) == (3.9, True)
    loud = classify(msgspec.structs.replace(STANDS_OUT, requests_m=310))
    assert loud is not None
    assert loud.score == 4.0


@pytest.mark.parametrize(
    "change",
    [
        {"known": True, "request_score": 0.0},
        {"backed": True},
        {"outage": True},
        {"kind": "user", "company": 30},
        {"cold": False},
    ],
)
def test_who_may_stand_out(change):
    """The known, retries of an outage, a shared key, a newcomer's job later on."""
    assert named(STANDS_OUT, **change)[0] is None


def test_tokens_far_beyond_those_of_live_peers_are_a_cost():
    """At an ordinary pace; one request alone is not enough."""
    facts = Facts(
        cold=True, requests_m=8, requests=8, tokens=90_000, concurrent_size=4.0
    )
    assert named(facts) == ("cost_spike", False)
    assert named(facts, requests=2)[0] is None


def test_a_job_within_its_own_longest_run_does_not_stand_out():
    """Nor is another's told before it is fast or long, on whatever day."""
    job = Facts(
        cold=True,
        requests_m=60,
        requests=90,
        repetition_run=80,
        alike=0.9,
        concurrent_score=6.0,
    )
    finding = classify(job)
    assert finding is not None
    assert not finding.page_worthy
    assert named(job, most_repetition_run=70.0)[0] is None
    for rate, early, told in (
        (200, False, False),
        (200, True, True),
        (310, False, True),
    ):
        finding = classify(msgspec.structs.replace(job, requests_m=rate, early=early))
        assert finding is not None
        assert (finding.page_worthy, finding.score >= 4.0) == (told, told)


def test_volume_in_tokens_is_a_cost_spike():
    """More tokens than ever, without a sharper sign."""
    assert named(MORE, token_score=10.0, tokens=10**6)[0] == "cost_spike"
    assert named(MORE, known=False, peer_score=9.0)[0] == "volume"


def test_what_others_do_now_and_then_is_only_tagged():
    """A first job is more than its client ever did; not more than jobs are."""
    assert named(MORE) == ("volume", False)
    finding = classify(msgspec.structs.replace(MORE, service_requests=500.0))
    told = classify(msgspec.structs.replace(MORE, service_requests=200.0))
    assert finding is not None
    assert told is not None
    assert (finding.page_worthy, told.page_worthy) == (False, True)


def test_what_several_others_do_every_day_is_nothing():
    """Twice its own week, and still less than jobs are: not even a tag."""
    assert named(MORE, service_requests=1000.0, service_tokens=1e6)[0] is None


STEADY = Facts(
    known=True, windows=200, steady=0.95, requests=900, tokens=400_000,
    most_requests=200, most_tokens=90_000, request_score=6.0, token_score=6.0,
)  # fmt: skip


def test_several_times_the_most_of_ones_week_is_told_whatever_others_do():
    """Of a client that is there all day: tokens are a cost, requests alone volume."""
    assert named(STEADY, service_requests=9e9, service_tokens=9e9) == (
        "cost_spike",
        False,
    )
    assert named(STEADY, tokens=0, token_score=0.0) == ("volume", False)
    finding = classify(STEADY)
    assert finding is not None
    assert finding.page_worthy
    assert "4.5 times the most" in finding.reasons[0]
    assert named(STEADY, cold=True)[0] == "cost_spike"


@pytest.mark.parametrize(
    "change",
    [
        {"steady": 0.5},
        {"windows": 60},
        {"most_requests": 400, "most_tokens": 200_000},
        {"request_score": 4.0, "token_score": 4.0},
        {"requests": 200, "tokens": 40_000, "most_requests": 10},
        {"outage": True},
        {"surge": True},
    ],
)
def test_what_is_no_spike_of_a_steady_client(change):
    """Not there all day, too young, as much before, a chance, too little, an outage."""
    found = named(STEADY, **{"service_requests": 9e9, "service_tokens": 9e9} | change)
    assert found == (None, False)


def test_a_newcomers_job_is_information_until_it_is_larger_than_jobs():
    """After the tenant's first hour; from 300 a minute or 1,000 in a window, a warning."""
    job = msgspec.structs.replace(STANDS_OUT, requests=310, concurrent_score=4.9)
    assert classify(job).informational
    for change in ({"early": True}, {"requests_m": 310}, {"requests": 1000}):
        assert not classify(msgspec.structs.replace(job, **change)).informational
