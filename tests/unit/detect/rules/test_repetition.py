"""Scraping, loops and growing contexts, and ordinary look-alikes."""

from __future__ import annotations

import msgspec

from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts
from tests.unit.detect.subjects import LOOP, PACED, RUNAWAY, WALK, named


def test_floods_are_the_same_prompt_at_high_rates():
    """Nearly equal prompts far above the tenant's expected rate are ``ddos``, else
    ``scraping``.
    """
    assert named(WALK, apart=2.0, expected_rate_m=20.0)[0] == "ddos"
    assert named(WALK, apart=2.0, expected_rate_m=20.0, requests_m=40)[0] == "scraping"
    assert named(WALK, apart=2.0, expected_rate_m=900.0)[0] == "scraping"
    assert named(WALK, apart=2.0)[0] == "scraping"


def test_padded_prompts_above_the_expected_rate_are_ddos():
    """Nearly equal or padded prompts above the expected rate are ``ddos``, else
    ``scraping``.
    """
    assert named(WALK, apart=2.0, expected_rate_m=50.0)[0] == "ddos"
    assert named(WALK, templated=0.7, expected_rate_m=50.0)[0] == "ddos"
    assert named(WALK, apart=2.0, expected_rate_m=500.0)[0] == "scraping"
    assert named(WALK, apart=2.0)[0] == "scraping"


def test_a_long_slow_run_is_scraping():
    """A slow run on new templates is tagged by its length, and page-worthy far above
    the service's maximum.
    """
    slow = Facts(requests_m=5, requests=50, alike=0.2, templated=0.9)
    assert named(slow, repetition_run=100)[0] is None
    assert named(slow, repetition_run=300) == ("scraping", False)
    filled = msgspec.structs.replace(slow, apart=4.0)
    assert named(filled, repetition_run=20)[0] is None
    assert named(filled, repetition_run=40) == ("scraping", False)
    finding = classify(msgspec.structs.replace(slow, repetition_run=1000))
    assert finding is not None
    assert finding.page_worthy
    assert named(
        slow, repetition_run=2000, service_repetition_run=1500.0, service_m=9.0
    ) == ("scraping", False)
    assert named(
        slow, repetition_run=3500, service_repetition_run=1500.0, service_m=9.0
    ) == ("scraping", True)
    finding = classify(
        msgspec.structs.replace(
            slow, repetition_run=1000, service_repetition_run=1500.0
        )
    )
    assert finding is not None
    assert not finding.page_worthy


def test_regular_runs_are_blocked_early():
    """A run with regular gaps is tagged early and blocked before a job would be; an
    irregular or slow one is not.
    """
    finding = classify(PACED)
    assert finding is not None
    assert (finding.cls, finding.behaviour, finding.page_worthy) == (
        "scraping",
        True,
        True,
    )
    assert named(PACED, repetition_run=15) == ("scraping", False)
    assert named(PACED, repetition_run=15, regular=0.35) == (None, False)
    assert named(PACED, repetition_run=110, regular=0.35) == ("scraping", False)
    for change in (
        {"regular": 0.5}, {"requests_m": 9}, {"concurrent_m": 16.0}, {"templated": 0.4},
        {"cold": True},
    ):  # fmt: skip
        assert not named(PACED, **change)[1]


def test_a_judged_run_stays_behaviour():
    """A run judged abusive stays behaviour whatever its pace and peers."""
    facts = msgspec.structs.replace(
        PACED, regular=1.0, peer_score=7.0, service_repetition_run=9e9
    )
    assert named(facts) == ("scraping", False)
    assert named(facts, repetition_judged=True) == ("scraping", True)


def test_on_the_first_day_shared_subjects_are_ordinary():
    """On the first day keys in many networks and addresses of many users are spared."""
    assert named(WALK, cold=True, requests_m=300)[0] == "scraping"
    assert named(WALK, cold=True, requests_m=300, heads=20)[0] is None
    assert named(WALK, cold=True, requests_m=300, kind="user", company=9)[0] is None


def test_a_newcomer_is_blocked_for_templates_only_when_sure():
    """A newcomer below ten times its busiest peers is tagged at most."""
    assert named(WALK, peer_score=4.5, repetition_run=120) == ("scraping", False)
    assert named(WALK, repetition_run=0) == ("scraping", False)


def test_growing_contexts():
    """Prompts three times as long as usual are a conversation, twenty times a runaway,
    which does not block a newcomer.
    """
    talk = msgspec.structs.replace(
        RUNAWAY,
        repetition_tokens=900_000,
        most_repetition_tokens=99_000.0,
        longer_asks=3.0,
    )
    assert named(talk)[0] is None
    assert named(talk, longer_asks=20.0) == ("cost_spike", True)
    assert named(talk, longer_asks=20.0, known=False, token_peer_score=5.0) == (
        "cost_spike",
        False,
    )


def test_identical_prompts_beyond_its_own_count_whatever_they_cost():
    """Identical prompts are a loop by the length of the run where the subject's runs
    are expensive.
    """
    dear = {
        "most_repetition_tokens": 5_000_000,
        "most_repetition_run": 50,
        "repetition_run": 120,
    }
    assert named(LOOP, **dear)[0] == "cost_spike"
    assert named(LOOP, **dear | {"repetition_run": 40})[0] is None


def test_a_same_size_streak_is_a_loop_in_long_runs():
    """A same-size streak beyond its own longest is a loop for a known subject with long
    runs.
    """
    dear = {
        "most_repetition_tokens": 5_000_000,
        "most_repetition_run": 2000,
        "repetition_run": 900,
    }
    of_one_size = {
        "same_size_streak": 200,
        "most_same_size_streak": 20.0,
        "asked": 2000,
    }
    assert named(LOOP, **dear)[0] is None
    assert named(LOOP, **dear, **of_one_size) == ("cost_spike", True)
    assert (
        named(LOOP, **dear, **of_one_size | {"most_same_size_streak": 200.0})[0] is None
    )
    assert named(LOOP, **dear, **of_one_size, known=False)[0] is None


def test_one_size_by_the_clock_is_tagged_early():
    """A regular same-size streak is a loop after a few dozen, also on the first day of
    a subject with other work.
    """
    loop = msgspec.structs.replace(
        LOOP,
        repetition_run=40,
        repetition_tokens=80_000,
        same_size_streak=25,
        asked=2_000,
        most_repetition_tokens=9e5,
    )
    assert named(loop) == (None, False)
    assert named(loop, regular=0.1) == ("cost_spike", True)
    young = msgspec.structs.replace(loop, known=False, familiar=0.4, regular=0.1)
    assert named(young) == ("cost_spike", True)
    assert named(young, usual_alike=0.9) == (None, False)
    assert named(young, familiar=0.0) == (None, False)


def test_a_loop_without_end_is_blocked_on_the_first_day():
    """On the first day a loop of 600 prompts is blocked, one of 200 is not."""
    facts = msgspec.structs.replace(
        LOOP,
        known=False,
        familiar=0.4,
        same_size_streak=600,
        asked=2_000,
        repetition_run=600,
    )
    finding, short = (
        classify(facts),
        classify(msgspec.structs.replace(facts, same_size_streak=200)),
    )
    assert finding is not None
    assert short is not None
    assert finding.score > 5.0 > short.score
    assert finding.behaviour


def test_a_context_longer_than_the_service_maximum_is_tagged():
    """A growing context beyond the maximum of the subject and of the service is tagged
    before it is expensive.
    """
    agent = msgspec.structs.replace(
        RUNAWAY,
        repetition_tokens=900_000,
        most_repetition_tokens=990_000.0,
        longer_asks=3.0,
    )
    long = {"asked": 80_000, "longest": 80_000, "service_longest": 50_000.0}
    finding = classify(msgspec.structs.replace(agent, **long))
    assert finding is not None
    assert (finding.cls, finding.page_worthy) == ("cost_spike", False)
    assert "longer than anybody's" in finding.reasons[1]
    for no_news in (
        {"service_longest": 7e4},
        {"most_longest": 7e4},
        {"longest": 99_999},
    ):
        assert named(agent, **long | no_news)[0] is None


def test_growth_counts_earlier_where_it_costs_more_than_ever():
    """Growth is a runaway earlier if the run costs over three times the most before."""
    agent = msgspec.structs.replace(RUNAWAY, repetition_tokens=900_000, longer_asks=4.0)
    assert named(agent, most_repetition_tokens=310_000.0)[0] is None
    assert named(agent, most_repetition_tokens=99_000.0)[0] == "cost_spike"


def test_without_new_templates_the_score_is_below_a_block():
    """Without new templates the score stays below 5."""
    finding = classify(msgspec.structs.replace(WALK, templated=0.0, requests_m=200))
    assert finding is not None
    assert finding.score < 5


def test_a_new_runaway_is_measured_by_its_peers():
    """A newcomer's loop is judged by its peers' tokens, and page-worthy above the
    service's maximum.
    """
    new = msgspec.structs.replace(LOOP, known=False, repetition_tokens=9_000_000)
    assert named(new, token_peer_score=7.0) == ("cost_spike", True)
    assert named(new, apart=9.0)[0] is None
    finding = classify(msgspec.structs.replace(new, service_repetition_tokens=1e9))
    assert finding is not None
    assert not finding.page_worthy


def test_a_fast_evaluation_is_throttled():
    """A fast first evaluation is throttled, and blocked at a much higher rate, length
    or regularity.
    """
    hurry = msgspec.structs.replace(
        WALK, requests_m=400, repetition_run=400, service_m=100.0
    )
    for change, blocked in (
        ({}, False),
        ({"requests_m": 600}, True),
        ({"repetition_run": 2_100}, True),
        ({"regular": 0.2}, True),
    ):
        finding = classify(msgspec.structs.replace(hurry, **change))
        assert finding is not None
        assert finding.behaviour
        assert (finding.score >= 5.0) == blocked
        assert finding.score >= 4.0


def test_a_fast_repetition_is_page_worthy_at_any_cost():
    """A fast long repetition of one prompt by a known subject is page-worthy at any
    cost.
    """
    small = msgspec.structs.replace(
        LOOP,
        repetition_tokens=30_000,
        asked=77,
        requests_m=90,
        same_size_streak=190,
        most_repetition_run=10.0,
    )
    finding = classify(small)
    assert finding is not None
    assert finding.page_worthy
    assert named(small) == ("cost_spike", True)
    for change in ({"requests_m": 20}, {"same_size_streak": 80}, {"known": False}):
        finding = classify(msgspec.structs.replace(small, **change))
        assert finding is None or not finding.page_worthy
    beside = msgspec.structs.replace(small, most_repetition_run=900.0)
    assert classify(beside).page_worthy
    assert not classify(
        msgspec.structs.replace(beside, same_size_streak=170)
    ).page_worthy


def test_an_agent_beyond_every_maximum_is_throttled_then_blocked():
    """A fast agent whose context exceeds the service's maximum is throttled, far above
    it blocked; a slow one is not page-worthy.
    """
    agent = Facts(
        known=True, alike=1.0, apart=3.0, repetition_run=60, ok=60, requests_m=11.0,
        repetition_tokens=2_600_000, most_repetition_tokens=1_700_000, longer_asks=9.0,
        asked=78_000, longest=78_000, most_longest=66_000, service_longest=70_000,
        service_repetition_tokens=9_000_000, sized=60,
    )  # fmt: skip
    finding = classify(agent)
    assert finding is not None
    assert finding.page_worthy
    assert 4.0 <= finding.score < 5.0
    further = classify(msgspec.structs.replace(agent, asked=120_000, longest=120_000))
    assert further is not None
    assert further.score >= 5.0
    for change in ({"requests_m": 3.0}, {"repetition_tokens": 900_000}):
        finding = classify(msgspec.structs.replace(agent, **change))
        assert finding is None or not finding.page_worthy


def test_a_persons_session_with_an_agent_is_no_runaway():
    """A slow session with long contexts, as others have, is not page-worthy."""
    session = Facts(
        known=True, alike=1.0, apart=3.0, repetition_run=115, ok=115, requests_m=3.0,
        repetition_tokens=4_000_000, most_repetition_tokens=25_000, longer_asks=2.8, sized=115,
        asked=60_000, longest=60_000, service_longest=69_000, service_repetition_tokens=2e6,
    )  # fmt: skip
    assert not getattr(classify(session), "alert", False)
    assert classify(msgspec.structs.replace(session, requests_m=9.0)).page_worthy
