"""Ids, worst subjects, worsening."""

from __future__ import annotations

from gateway.detect.incidents import (
    WORST,
    Incident,
    incident_id,
    name_worst,
    worsen,
    worst_of,
)
from gateway.detect.model import Ref


def incident() -> Incident:
    """A fresh warning."""
    return Incident(
        id="inc_a",
        tenant="t",
        cls="scraping",
        subject=Ref("user", "u"),
        opened=0.0,
        last=0.0,
        score=3.0,
        severity="warning",
        action="tag",
        reasons=(),
        observed={},
        expected={},
    )


def test_ids_are_the_same_at_every_replay():
    """Equal causes have equal ids of 30 characters; others have others."""
    one = incident_id("t", "ddos", "user:u", 5.0)
    assert one == incident_id("t", "ddos", "user:u", 5.0)
    assert one != incident_id("t", "ddos", "user:u", 6.0)
    assert one.startswith("inc_")
    assert len(one) == 30


def test_severity_and_action_only_rise():
    """A rise is told, a fall changes nothing."""
    case = incident()
    assert not worsen(case, 2.0, "info", "allow")
    assert worsen(case, 6.0, "critical", "tag")
    assert worsen(case, 4.0, "warning", "block")
    assert (case.score, case.severity, case.action) == (6.0, "critical", "block")


def test_the_worst_are_named_worst_first():
    """At most twenty; a worse one takes the place of the least."""
    case = incident()
    for number in range(WORST):
        name_worst(case, Ref("client_ip", f"::{number}"), number)
    name_worst(case, Ref("client_ip", "::0"), 0.5)
    name_worst(case, Ref("user", "mild"), 0.1)
    name_worst(case, Ref("user", "wild"), 99.0)
    worst = worst_of(case)
    assert len(worst) == WORST
    assert worst[0] == Ref("user", "wild")
    assert Ref("client_ip", "::19") in worst
    assert Ref("client_ip", "::0") not in worst
