"""Walks, loops and endless contexts, and what looks like them."""

from __future__ import annotations

import msgspec

from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts
from tests.unit.detect.subjects import LOOP, PACED, RUNAWAY, WALK, named


def test_floods_are_the_same_prompt_at_high_rates():
    """Hardly any difference, beyond the tide: a flood; without a tide, a walk."""
    assert named(WALK, apart=2.0, expected_rate_m=20.0)[0] == "ddos"
    assert named(WALK, apart=2.0, expected_rate_m=20.0, requests_m=40)[0] == "scraping"
    assert named(WALK, apart=2.0, expected_rate_m=900.0)[0] == "scraping"
    assert named(WALK, apart=2.0)[0] == "scraping"


def test_floods_are_the_same_prompt_beyond_the_tide():
    """Hardly any difference between prompts, or padding: a flood, not a walk."""
    assert named(WALK, apart=2.0, expected_rate_m=50.0)[0] == "ddos"
    assert named(WALK, templated=0.7, expected_rate_m=50.0)[0] == "ddos"
    assert named(WALK, apart=2.0, expected_rate_m=500.0)[0] == "scraping"
    assert named(WALK, apart=2.0)[0] == "scraping"


def test_a_long_walk_at_a_slow_pace():
    """A run on new templates is tagged by its length, and told beyond all others'."""
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


def test_clockwork_is_told_from_a_job():
    """Tagged early, blocked long before a job would be; slower or uneven it may be one."""
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


def test_what_was_found_abusive_goes_on_until_it_changes():
    """However it is paced later, and whoever else is busy."""
    facts = msgspec.structs.replace(
        PACED, regular=1.0, peer_score=7.0, service_repetition_run=9e9
    )
    assert named(facts) == ("scraping", False)
    assert named(facts, repetition_judged=True) == ("scraping", True)


def test_on_the_first_day_shared_keys_and_offices_are_spared():
    """A key in many hands, an address of many users: each of them is ordinary."""
    assert named(WALK, cold=True, requests_m=300)[0] == "scraping"
    assert named(WALK, cold=True, requests_m=300, heads=20)[0] is None
    assert named(WALK, cold=True, requests_m=300, kind="user", company=9)[0] is None


def test_a_newcomer_is_blocked_for_templates_only_when_sure():
    """Under ten times its busiest peers it is tagged at most."""
    assert named(WALK, peer_score=4.5, repetition_run=120) == ("scraping", False)
    assert named(WALK, repetition_run=0) == ("scraping", False)


def test_talks_grow_and_runaways_grow_more():
    """Three times the usual is how talks go; a newcomer's is never blocked."""
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
    """An agent whose work is dear is caught in a loop by its length."""
    dear = {
        "most_repetition_tokens": 5_000_000,
        "most_repetition_run": 50,
        "repetition_run": 120,
    }
    assert named(LOOP, **dear)[0] == "cost_spike"
    assert named(LOOP, **dear | {"repetition_run": 40})[0] is None


def test_prompts_of_one_size_beyond_its_own_are_a_loop_beside_long_runs():
    """Whose runs are long and dear otherwise never sent one size as often."""
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
    """A few dozen are enough, on its first day too where it did other work before."""
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
    """Its peers' tokens say little then."""
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


def test_a_context_longer_than_anybodys_is_tagged_before_it_is_dear():
    """It still grows beyond its own and the service's; not while others' are as long."""
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
    """Four times the usual is how talks go, but not for three times as much."""
    agent = msgspec.structs.replace(RUNAWAY, repetition_tokens=900_000, longer_asks=4.0)
    assert named(agent, most_repetition_tokens=310_000.0)[0] is None
    assert named(agent, most_repetition_tokens=99_000.0)[0] == "cost_spike"


def test_young_templates_make_it_certain():
    """Without templates that nobody knew the score stays below a block."""
    finding = classify(msgspec.structs.replace(WALK, templated=0.0, requests_m=200))
    assert finding is not None
    assert finding.score < 5


def test_a_new_runaway_is_measured_by_its_peers():
    """A newcomer that repeats itself at great cost."""
    new = msgspec.structs.replace(LOOP, known=False, repetition_tokens=9_000_000)
    assert named(new, token_peer_score=7.0) == ("cost_spike", True)
    assert named(new, apart=9.0)[0] is None
    finding = classify(msgspec.structs.replace(new, service_repetition_tokens=1e9))
    assert finding is not None
    assert not finding.page_worthy


def test_an_evaluation_in_a_hurry_is_slowed():
    """Blocked at three times that rate, or when it is longer than any."""
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


def test_one_prompt_hammered_in_is_told_however_small_it_is():
    """By somebody who has other work; beside long runs, when it is three times that."""
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


def test_an_agent_that_outgrows_everybody_is_slowed_and_then_blocked():
    """At a machine's pace; people's sessions take their time, and are only tagged."""
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
    """However dear and alike, while it is slow and others' contexts are as long."""
    session = Facts(
        known=True, alike=1.0, apart=3.0, repetition_run=115, ok=115, requests_m=3.0,
        repetition_tokens=4_000_000, most_repetition_tokens=25_000, longer_asks=2.8, sized=115,
        asked=60_000, longest=60_000, service_longest=69_000, service_repetition_tokens=2e6,
    )  # fmt: skip
    assert not getattr(classify(session), "alert", False)
    assert classify(msgspec.structs.replace(session, requests_m=9.0)).page_worthy
