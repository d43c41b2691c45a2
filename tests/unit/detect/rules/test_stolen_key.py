"""Stolen keys, and customers that move between networks."""

from __future__ import annotations

import msgspec

from gateway.detect.rules.classify import classify
from gateway.detect.rules.facts import Facts
from tests.unit.detect.subjects import RAISED, STOLEN, named


def test_a_key_that_fans_out_on_the_first_day():
    """On the first day a key in many networks within two minutes is
    ``credential_abuse`` where other keys have one.
    """
    facts = Facts(kind="user", cold=True, newcomers=12, company=12, fan_out=14)
    assert named(facts) == ("credential_abuse", True)
    assert named(facts, fan_out=3)[0] is None


def test_partly_known_subjects_need_more_evidence():
    """A subject known for hours needs more evidence than one known for days."""
    young = {"known": False, "familiar": 0.4, "most_new_networks": 0.0, "alike": 0.0}
    assert named(STOLEN, **young, new_networks=14.0)[0] == "credential_abuse"
    assert named(STOLEN, **young, new_networks=14.0, older=5)[0] is None
    quiet = {
        "new_networks": 4.0,
        "new_models": 0.0,
        "peer_score": 0.0,
        "usual_alike": 0.0,
    }
    assert named(STOLEN, **young | quiet, request_score=0.0, token_score=0.0)[0] is None
    raised = {"known": False, "longer_answers": 17.0, "louder_answers": 17.0}
    assert named(RAISED, **raised, familiar=0.5)[0] == "cost_spike"
    assert named(RAISED, **raised, familiar=0.0)[0] is None
    refused = Facts(denied=40, targets=1)
    assert named(refused)[0] == "probing"
    assert named(refused, familiar=0.7)[0] is None


def test_a_new_key_in_many_networks():
    """A new key in many networks that is busier than its peers is ``credential_abuse``,
    with alike prompts a flood or scraping.
    """
    facts = Facts(kind="user", newcomers=20, company=20, peer_score=8.0, requests_m=300)
    assert named(facts) == ("credential_abuse", True)
    assert named(facts, alike=0.9)[0] == "ddos"
    assert named(facts, alike=0.9, newcomers=15)[0] == "scraping"


def test_new_networks_need_further_evidence():
    """New networks alone tag; with new models, volume, unusual prompts or many networks
    the signal is page-worthy.
    """
    alone = msgspec.structs.replace(STOLEN, new_models=0.0)
    assert named(alone) == ("credential_abuse", True)
    finding = classify(alone)
    assert finding is not None
    assert (finding.page_worthy, finding.score < 4.5) == (False, True)
    loud = classify(msgspec.structs.replace(alone, request_score=8.0))
    assert loud is not None
    assert (loud.page_worthy, len(loud.reasons), loud.score > 5) == (True, 2, True)
    strange = classify(msgspec.structs.replace(alone, usual_alike=0.9))
    assert strange is not None
    assert strange.page_worthy
    many = classify(msgspec.structs.replace(alone, new_networks=9.0))
    assert many is not None
    assert many.page_worthy


def test_networks_that_abused_a_key_come_back():
    """Suspect networks need no further evidence, unless the key roams or has many
    networks.
    """
    facts = Facts(kind="user", known=True, suspicious=2, company=30)
    assert named(facts) == ("credential_abuse", True)
    assert named(msgspec.structs.replace(facts, company=60)) == (None, False)
    assert named(msgspec.structs.replace(facts, most_new_networks=9.0)) == (None, False)
    roaming = msgspec.structs.replace(
        STOLEN, new_networks=400, company=48, most_new_networks=45
    )
    assert named(roaming) == (None, False)


def test_an_odd_hour_adds_to_the_evidence():
    """An odd hour raises the score of a stolen key and is in the reasons."""
    facts = msgspec.structs.replace(STOLEN, odd=True)
    plain, odd = classify(STOLEN), classify(facts)
    assert plain is not None
    assert odd is not None
    assert odd.score >= plain.score
    assert any("time of day" in one for one in odd.reasons)


def test_many_networks_are_enough_by_themselves():
    """Many new networks within an hour are enough evidence, also during an outage."""
    facts = msgspec.structs.replace(
        STOLEN,
        new_models=0.0,
        alternations=0.0,
        request_score=0.0,
        token_score=0.0,
        peer_score=0.0,
    )
    scores = []
    for met in (7, 9, 20):
        finding = classify(
            msgspec.structs.replace(facts, new_networks=met, company=met, outage=True)
        )
        scores.append(finding.score if finding else 0.0)
    assert scores[0] == 0.0
    assert 3.0 < scores[1] <= 4.4
    assert scores[2] > 5.0


def test_a_key_that_alternates_between_networks():
    """A key that never moved and alternates between networks is stolen with less
    evidence.
    """
    key = Facts(
        kind="user",
        known=True,
        newcomers=2,
        new_networks=2.0,
        new_models=1.0,
        company=3,
        windows=50,
    )
    alone = classify(key)
    split = classify(msgspec.structs.replace(key, alternations=20.0))
    assert (alone.score if alone else 0.0) < 3.0 <= split.score
    roams = classify(
        msgspec.structs.replace(key, alternations=20.0, most_new_networks=4.0)
    )
    assert roams is None or roams.score < split.score
    assert classify(
        msgspec.structs.replace(key, alternations=20.0, new_models=3.0)
    ).page_worthy
