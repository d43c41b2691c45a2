"""Classes and their ordinary look-alikes, as tables of facts."""

from __future__ import annotations

import msgspec
import pytest

from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts
from tests.unit.detect.subjects import (
    LOOP,
    MORE,
    RAISED,
    RUNAWAY,
    STOLEN,
    SWEEP,
    WALK,
    named,
)


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
    """Each class is found from its facts."""
    assert named(facts) == (cls, behaviour)


@pytest.mark.parametrize(
    ("facts", "change", "why"),
    [
        (Facts(), {}, "nothing happened"),
        (SWEEP, {"known": True, "targets": 1}, "a broken deployment"),
        (SWEEP, {"ok": 300}, "errors among many good answers"),
        (SWEEP, {"denied": 3, "missing": 0}, "a few errors"),
        (SWEEP, {"known": True, "kind": "user", "missing": 0}, "its key was revoked"),
        (STOLEN, {"new_networks": 2.0, "new_models": 1.0}, "a laptop on a journey"),
        (STOLEN, {"new_networks": 1.0}, "a phone changes its network"),
        (STOLEN, {"newcomers": 0}, "long ago"),
        (
            STOLEN,
            {"most_new_networks": 12.0, "most_new_models": 4.0},
            "it always roams",
        ),
        (STOLEN, {"company": 56}, "rotating egress"),
        (STOLEN, {"kind": "client_ip"}, "users behind one NAT"),
        (STOLEN, {"outage": True}, "an outage"),
        (STOLEN, {"known": False}, "a newcomer with phone, laptop and office"),
        (WALK, {"backed": True}, "the address of a known user"),
        (WALK, {"known": True, "windows": 50}, "an evaluation run of a known client"),
        (WALK, {"requests_m": 5, "requests": 20, "repetition_run": 10}, "too few"),
        (WALK, {"alike": 0.1, "templated": 0.0, "peer_score": 5.0}, "varied prompts"),
        (WALK, {"cold": True, "requests_m": 50}, "the first day"),
        (
            LOOP,
            {"most_repetition_tokens": 900_000, "most_repetition_run": 400},
            "a health check",
        ),
        (LOOP, {"keyed": True}, "judged as a user"),
        (LOOP, {"apart": 7.0}, "a template walked by a known client"),
        (LOOP, {"same_size": 0.2}, "a conversation"),
        (LOOP, {"alike": 0.5}, "some alike"),
        (LOOP, {"repetition_run": 5}, "too few"),
        (LOOP, {"repetition_tokens": 9_000}, "too cheap to matter"),
        (LOOP, {"outage": True}, "retries"),
        (LOOP, {"failed": 60}, "its own retries"),
        (LOOP, {"denied": 60}, "a broken deployment"),
        (RUNAWAY, {"most_repetition_tokens": 8_000_000}, "it did that last week"),
        (RUNAWAY, {"longer_asks": 1.1}, "documents as long as ever"),
        (RAISED, {"longer_answers": 2.0}, "ordinary answers"),
        (RAISED, {"louder_answers": 1.1}, "such answers were there before"),
        (RAISED, {"spoken": 900}, "too little to matter"),
        (RAISED, {"outage": True}, "an outage"),
        (RAISED, {"known": False}, "nobody knows what is usual for it"),
        (MORE, {"most_requests": 800, "most_tokens": 1.0}, "it did that last week"),
        (MORE, {"requests": 50}, "too little to matter"),
        (MORE, {"cold": True}, "the first day"),
        (MORE, {"outage": True}, "an outage"),
        (MORE, {"surge": True}, "everybody sends more"),
        (MORE, {"backed": True}, "judged as a user"),
        (MORE, {"request_score": 0.0}, "no surprise"),
        (MORE, {"known": False, "peer_score": 5.0}, "a big newcomer"),
        (MORE, {"windows": 3}, "hardly any history of its own"),
    ],
)
def test_lookalikes(facts, change, why):
    """Facts that resemble a class but have an ordinary reason give no signal."""
    assert named(facts, **change)[0] is None, why


def test_refusals_of_many_targets_need_a_lower_count():
    """Nine refusals of four targets by a newcomer are a signal, of three they are not."""
    few = {"denied": 9, "missing": 0, "rejected": 0, "ok": 3, "familiar": 0.0}
    many = Facts(kind="client_ip", targets=4, **few)
    same = msgspec.structs.replace(many, targets=3)
    scores = [classify(one).score for one in (many, same)]
    assert scores[0] > 3.0 > scores[1]


def test_behaviour_names_before_volume():
    """A loop with a high volume has the class of the loop."""
    assert named(LOOP, most_requests=0, request_score=12.0) == ("cost_spike", True)
