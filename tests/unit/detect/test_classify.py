"""Classes and their doubles, as tables of facts."""

from __future__ import annotations

import msgspec
import pytest

from gateway.detect.classify import Facts, classify, count_sigma

SWEEP = Facts(denied=30, missing=10, targets=12, ok=2)
STOLEN = Facts(kind="user", known=True, newcomers=12, company=14, strange_models=5)
WALK = Facts(
    requests_m=400, requests=400, alike=0.9, templated=0.9, apart=7, peer_sigma=8.0
)
LOOP = Facts(
    most_requests=150, known=True, requests=200, alike=1.0, apart=1.0, request_sigma=7.0
)
RUNAWAY = Facts(
    most_requests=60,
    most_tokens=440_000,
    known=True,
    requests=60,
    alike=1.0,
    apart=4.0,
    most_same=0.9,
    tokens=900_000,
    longer_asks=5.0,
    token_sigma=8.0,
)
RAISED = Facts(
    most_requests=60,
    most_tokens=250_000,
    known=True,
    requests=60,
    tokens=400_000,
    longer_answers=12.0,
    token_sigma=8.0,
)
MORE = Facts(known=True, requests=900, most_requests=100, request_sigma=8.0)


def named(facts: Facts, **change: object) -> tuple[str | None, bool]:
    """Class and whether it is behaviour, from a score of 3 on."""
    finding = classify(msgspec.structs.replace(facts, **change))
    if finding is None or finding.score < 3:
        return None, False
    assert finding.reasons
    return finding.cls, finding.behaviour


@pytest.mark.parametrize(
    ("facts", "cls", "behaviour"),
    [
        (SWEEP, "probing", True),
        (STOLEN, "credential_abuse", True),
        (WALK, "scraping", True),
        (LOOP, "cost_spike", True),
        (RUNAWAY, "cost_spike", True),
        (RAISED, "cost_spike", True),
        (Facts(denied=60, targets=1), "probing", True),
        (MORE, "volume", False),
    ],
)
def test_classes(facts, cls, behaviour):
    """Each class is named from the facts that make it."""
    assert named(facts) == (cls, behaviour)


@pytest.mark.parametrize(
    ("facts", "change", "why"),
    [
        (Facts(), {}, "nothing happened"),
        (SWEEP, {"known": True, "targets": 1}, "a broken deployment"),
        (SWEEP, {"ok": 300}, "errors among many good answers"),
        (SWEEP, {"denied": 3, "missing": 0}, "a few errors"),
        (STOLEN, {"newcomers": 2}, "a phone changes its network"),
        (STOLEN, {"usual_newcomers": 4.0}, "it always roams"),
        (STOLEN, {"company": 48}, "rotating egress"),
        (STOLEN, {"kind": "client_ip"}, "users behind one NAT"),
        (STOLEN, {"outage": True}, "an outage"),
        (STOLEN, {"known": False}, "a newcomer with phone, laptop and office"),
        (WALK, {"backed": True}, "the address of a known user"),
        (WALK, {"known": True}, "an evaluation run of a known client"),
        (WALK, {"requests_m": 5, "requests": 20}, "too few"),
        (WALK, {"alike": 0.1, "templated": 0.0, "peer_sigma": 5.0}, "varied prompts"),
        (WALK, {"cold": True, "requests_m": 50}, "the first day"),
        (LOOP, {"most_same": 0.9}, "a health check"),
        (LOOP, {"keyed": True}, "judged as a user"),
        (LOOP, {"apart": 7.0}, "a template walked by a known client"),
        (LOOP, {"alike": 0.5}, "some alike"),
        (LOOP, {"requests": 5}, "too few"),
        (LOOP, {"outage": True}, "retries"),
        (LOOP, {"failed": 60}, "its own retries"),
        (RUNAWAY, {"most_tokens": 800_000}, "it did that last week"),
        (RAISED, {"longer_answers": 2.0}, "ordinary answers"),
        (RAISED, {"tokens": 5_000}, "too little to matter"),
        (RAISED, {"outage": True}, "an outage"),
        (RAISED, {"most_tokens": 390_000}, "it did that last week"),
        (MORE, {"most_requests": 800, "most_tokens": 1.0}, "it did that last week"),
        (MORE, {"requests": 50}, "too little to matter"),
        (MORE, {"cold": True}, "the first day"),
        (MORE, {"outage": True}, "an outage"),
        (MORE, {"surge": True}, "everybody sends more"),
        (MORE, {"backed": True}, "judged as a user"),
        (MORE, {"request_sigma": 0.0}, "no surprise"),
        (MORE, {"known": False, "peer_sigma": 5.0}, "a big newcomer"),
    ],
)
def test_doubles(facts, change, why):
    """What looks like a class but has an innocent reason is not named."""
    assert named(facts, **change)[0] is None, why


def test_floods_are_the_same_prompt_at_high_rates():
    """Hardly any difference between prompts: a flood, not a walk."""
    assert named(WALK, apart=2.0)[0] == "ddos"
    assert named(WALK, apart=2.0, requests_m=40)[0] == "scraping"


def test_a_newcomer_is_blocked_for_templates_only_when_sure():
    """Under ten times its busiest peers it is tagged at most."""
    assert named(WALK, peer_sigma=4.5) == ("scraping", False)


def test_young_templates_make_it_certain():
    """Without templates that nobody knew the score stays below a block."""
    finding = classify(msgspec.structs.replace(WALK, templated=0.0))
    assert finding is not None
    assert finding.score < 5


def test_a_new_key_in_many_hands():
    """Many networks at once, busier than its peers, varied prompts."""
    facts = Facts(kind="user", newcomers=20, company=20, peer_sigma=8.0, requests_m=300)
    assert named(facts) == ("credential_abuse", True)
    assert named(facts, alike=0.9)[0] == "ddos"


def test_a_new_runaway_is_measured_by_its_peers():
    """A newcomer that repeats itself at great cost."""
    facts = Facts(
        requests=60, alike=1.0, apart=2.0, tokens=2_000_000, token_peer_sigma=7.0
    )
    assert named(facts) == ("cost_spike", True)
    assert named(facts, cold=True)[0] is None
    assert named(facts, apart=9.0)[0] is None
    assert named(facts, tokens=100)[0] is None


def test_volume_in_tokens_is_a_cost_spike():
    """More tokens than ever, without a sharper sign."""
    assert named(MORE, token_sigma=10.0, tokens=10**6)[0] == "cost_spike"
    assert named(MORE, known=False, peer_sigma=9.0)[0] == "volume"


def test_loud_support_of_a_stolen_key():
    """Volume beside new networks makes it certain; reasons say so."""
    finding = classify(
        msgspec.structs.replace(
            STOLEN, strange_models=0, request_sigma=8.0, requests=50
        )
    )
    assert finding is not None
    assert finding.cls == "credential_abuse"
    assert len(finding.reasons) == 2


def test_count_scores_grow_with_the_count():
    """Nothing at the expectation; more is never less."""
    assert count_sigma(2, 2) == count_sigma(0, 0) == 0
    scores = [count_sigma(n, 2.0) for n in range(100)]
    assert scores == sorted(scores)
    assert scores[-1] == 12


def test_behaviour_names_before_volume():
    """A clear loop is a loop, however much more the volume says."""
    assert named(LOOP, most_requests=0, request_sigma=12.0) == ("cost_spike", True)
