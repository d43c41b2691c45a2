"""Ids, worst subjects, worsening."""

from __future__ import annotations

from gateway.detect.incidents import (
    MOST_PRINTS,
    WORST,
    IncidentState,
    concerns,
    incident_id,
    know_crowd,
    latest_output,
    name_worst,
    same_crowd,
    sharpen,
    widen,
    worsen,
    worst_of,
)
from gateway.detect.model import Ref, format_time


def incident() -> IncidentState:
    """A fresh warning."""
    return IncidentState(
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
    """Equal causes have equal ids of 30 characters, different causes different ones."""
    one = incident_id("t", "ddos", "user:u", 5.0)
    assert one == incident_id("t", "ddos", "user:u", 5.0)
    assert one != incident_id("t", "ddos", "user:u", 6.0)
    assert one.startswith("inc_")
    assert len(one) == 30


def test_severity_and_action_only_rise():
    """Score, severity and action of an incident only rise."""
    case = incident()
    assert not worsen(case, 2.0, "info", "allow")
    assert worsen(case, 6.0, "critical", "tag")
    assert worsen(case, 4.0, "warning", "block")
    assert (case.score, case.severity, case.action) == (6.0, "critical", "block")


def test_the_worst_are_named_worst_first():
    """At most ``WORST`` subjects are listed by score; a worse one replaces the last."""
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


def test_an_incident_widens_to_the_service():
    """An incident of several tenants has the tenant ``*`` and concerns each of them."""
    one = incident()
    widen(one, "s")
    widen(one, "s")
    widen(one, "r")
    assert (one.tenant, one.subject) == ("*", Ref("tenant", "*"))
    assert one.tenants == ["t", "s", "r"]
    assert all(concerns(one, name) for name in "tsr")
    assert not concerns(one, "q")


def test_volume_is_called_by_its_behaviour_once_that_is_known():
    """A volume incident takes the class of a behaviour once and keeps it."""
    one = incident()
    one.cls = "volume"
    assert [sharpen(one, cls) for cls in ("volume", "surge")] == [False, False]
    assert sharpen(one, "scraping")
    assert not sharpen(one, "ddos")
    assert one.cls == "scraping"


def test_a_flood_is_recognized_by_its_templates():
    """A flood is recognized by templates near to its own, of which a bounded number is
    kept.
    """
    one = incident()
    for n in range(30):
        know_crowd(one, (2**64 // 31) * n ^ (0x5A5A_F0F0 << n))
    know_crowd(one, one.prints[0] ^ 1)
    assert len(one.prints) == MOST_PRINTS
    assert same_crowd(one, one.prints[3] ^ 7)
    assert not same_crowd(incident(), 5)


def test_the_latest_output_describes_the_incident():
    """The latest output has the current severity, action, subjects and window."""
    case = incident()
    case.opened, case.last = 60.0, 90.0
    name_worst(case, Ref("user", "u"), 3.5)
    said = latest_output(case)
    assert (said.type, said.id, said.ts) == (
        "incident.updated",
        "inc_a",
        format_time(90.0),
    )
    assert (said.window.since, said.window.to) == (format_time(60.0), format_time(90.0))
    assert (said.severity, said.action, said.subjects) == (
        "warning", "tag", (Ref("user", "u"),)
    )  # fmt: skip
