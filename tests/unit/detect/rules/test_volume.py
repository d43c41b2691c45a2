"""Volume compared with concurrent peers and with the subject's history."""

from __future__ import annotations

import msgspec
import pytest

from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts
from tests.unit.detect.subjects import MORE, STANDS_OUT, named


@pytest.mark.parametrize(
    ("changes", "reported"),
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
def test_a_newcomer_far_above_its_peers_is_reported(changes, reported):
    """A newcomer far above its peers is page-worthy after many requests, or early far
    above all others.
    """
    found = classify(msgspec.structs.replace(STANDS_OUT, **changes))
    assert found is not None
    assert (found.cls, found.page_worthy) == ("volume", reported)


def test_without_history_peers_are_the_measure():
    """Without history a subject far above its peers is ``volume``, or ``scraping`` with
    alike prompts, below a block.
    """
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
def test_subjects_that_may_exceed_their_peers(change):
    """Known subjects, retries of an outage, shared keys and later newcomers may exceed
    their peers.
    """
    assert named(STANDS_OUT, **change)[0] is None


def test_tokens_far_beyond_those_of_live_peers_are_a_cost():
    """Tokens far above those of peers are a ``cost_spike``, except in few requests."""
    facts = Facts(
        cold=True, requests_m=8, requests=8, tokens=90_000, concurrent_size=4.0
    )
    assert named(facts) == ("cost_spike", False)
    assert named(facts, requests=2)[0] is None


def test_a_job_within_its_own_longest_run_does_not_stand_out():
    """A job within the subject's longest run is ordinary; another is page-worthy once
    it is fast or long.
    """
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
    for rate, early, reported in (
        (200, False, False),
        (200, True, True),
        (310, False, True),
    ):
        finding = classify(msgspec.structs.replace(job, requests_m=rate, early=early))
        assert finding is not None
        assert (finding.page_worthy, finding.score >= 4.0) == (reported, reported)


def test_volume_in_tokens_is_a_cost_spike():
    """Volume mostly in tokens is a ``cost_spike``."""
    assert named(MORE, token_score=10.0, tokens=10**6)[0] == "cost_spike"
    assert named(MORE, known=False, peer_score=9.0)[0] == "volume"


def test_what_others_do_now_and_then_is_only_tagged():
    """A first job below the service's maximum is tagged, one above is page-worthy."""
    assert named(MORE) == ("volume", False)
    finding = classify(msgspec.structs.replace(MORE, service_requests=500.0))
    reported = classify(msgspec.structs.replace(MORE, service_requests=200.0))
    assert finding is not None
    assert reported is not None
    assert (finding.page_worthy, reported.page_worthy) == (False, True)


def test_what_several_others_do_every_day_is_nothing():
    """Volume above the subject's week but far below the service's maximum gives no
    signal.
    """
    assert named(MORE, service_requests=1000.0, service_tokens=1e6)[0] is None


STEADY = Facts(
    known=True, windows=200, steady=0.95, requests=900, tokens=400_000,
    most_requests=200, most_tokens=90_000, request_score=6.0, token_score=6.0,
)  # fmt: skip


def test_a_steady_client_above_its_week_is_reported():
    """A steady client at several times the most of its week is page-worthy, whatever
    the service's maximum.
    """
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
def test_spikes_that_are_ordinary(change):
    """An unsteady or young client, an earlier maximum, a low score or volume, an outage
    or a surge gives no signal.
    """
    found = named(STEADY, **{"service_requests": 9e9, "service_tokens": 9e9} | change)
    assert found == (None, False)


def test_a_first_job_is_informational_up_to_a_size():
    """A newcomer's job is informational below 300 requests a minute and 1,000 in a
    window.
    """
    job = msgspec.structs.replace(STANDS_OUT, requests=310, concurrent_score=4.9)
    assert classify(job).informational
    for change in ({"early": True}, {"requests_m": 310}, {"requests": 1000}):
        assert not classify(msgspec.structs.replace(job, **change)).informational
