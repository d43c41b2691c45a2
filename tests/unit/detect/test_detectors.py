"""Detectors by settings: whose events go where, and what survives a change."""

from __future__ import annotations

import pytest

from gateway.core.model import Anomaly, Campaign, Ladder, Policy
from gateway.detect.detectors import DetectionSettings, Detectors, settings_of
from gateway.detect.engine import Engine
from gateway.detect.model import DetectSettings, Event
from gateway.detect.packed_baselines import BaselinesError

T0 = 1_767_600_000.0
STRICT = DetectSettings(warning=2.0)


def event(tenant="acme", at=0.0, **fields):
    """An ordinary request."""
    return Event(T0 + at, "198.51.100.7", "u1", tenant, **fields)


def begun(settings, baselines=None):
    """Detectors that know what time it is."""
    rooms = Detectors(settings, baselines)
    rooms.advance(T0)
    return rooms


def two_rooms(baselines=None):
    """One tenant judged more strictly, one not at all."""
    return begun(DetectionSettings(tenants={"strict": STRICT, "off": None}), baselines)


def test_settings_follow_each_tenants_policy():
    """Sigmas, ladders, shares and campaigns; a policy may want no detection."""
    ladders = {"scraping": Ladder(block=6.0, block_ttl_s=60.0)}
    anomaly = Anomaly(warning=2.5, classes=ladders, grace_s=10.0)
    launch = Campaign(T0, T0 + 60, 3.0)
    policies = {
        "a": Policy("p", anomaly=anomaly, allow=("user:x",)),
        "b": Policy("q", anomaly=Anomaly(enabled=False)),
    }
    found = settings_of(policies, Policy("default"), [launch], 5.0)
    own = found.of("a")
    assert found.of("b") is None
    assert found.of("?") == DetectSettings(campaigns=(launch,), reorder_s=5.0)
    assert (own.warning, own.grace_s, own.allow) == (2.5, 10.0, {"user:x"})
    assert own.class_ladders["scraping"].block == 6.0
    assert own.class_ladders["scraping"].block_ttl_s == 60.0


def test_events_go_to_the_detector_of_their_tenant():
    """One detector for each distinct setting; none where detection is off."""
    rooms = two_rooms()
    for name in ("acme", "other", "strict", "off"):
        rooms.observe(event(name))
    assert [engine.events for engine in rooms.engines] == [2, 1]
    assert (
        rooms.engine_of("acme")
        is rooms.engine_of("other")
        is not rooms.engine_of("strict")
    )
    assert (
        rooms.observe_outcome(event("off"))
        == rooms.advance(T0 + 60)
        == rooms.close()
        == []
    )
    assert rooms.misplaced == 0


def test_settling_reaches_the_detector():
    """What an answer cost is added where its request was counted."""
    rooms = begun(DetectionSettings())
    rooms.observe(event(status=0))
    rooms.observe_outcome(event(total_tokens=90))
    track = rooms.engine_of("acme").tenants["acme"].subjects["user"].get("u1")
    assert (track.requests, track.tokens, track.answered) == (1, 90, 1)


def test_state_is_taken_up_by_the_detectors_it_belongs_to():
    """Each detector takes the tenants that are its own; one alone saves bare."""
    rooms = two_rooms()
    rooms.observe(event("acme"))
    rooms.observe(event("strict"))
    again = two_rooms(rooms.state())
    assert [list(engine.tenants) for engine in again.engines] == [["acme"], ["strict"]]
    alone = Detectors(DetectionSettings(), again.state())
    assert list(alone.engine_of("acme").tenants) == ["acme", "strict"]
    assert Engine(baselines=alone.state()).tenants.keys() == {"acme", "strict"}


def test_new_settings_keep_what_is_known():
    """A reload changes sigmas, not baselines; the same settings change nothing."""
    rooms = begun(DetectionSettings())
    rooms.observe(event())
    assert not rooms.configure(DetectionSettings())
    assert rooms.configure(DetectionSettings(STRICT))
    assert rooms.settings == DetectionSettings(STRICT)
    assert list(rooms.engine_of("acme").tenants) == ["acme"]
    assert rooms.configure(DetectionSettings(None))
    assert rooms.engines == ()


def test_a_tenant_that_is_switched_off_is_not_forgotten():
    """Its state is set aside, survives a restart, and counts when it is on again."""
    rooms = begun(DetectionSettings())
    rooms.observe(event("acme"))
    rooms.observe(event("other"))
    off = DetectionSettings(tenants={"acme": None})
    assert rooms.configure(off)
    assert list(rooms.engine_of("other").tenants) == ["other"]
    assert rooms.observe(event("acme", 1.0)) == []
    rooms = begun(off, rooms.state())
    assert rooms.configure(DetectionSettings())
    assert (
        rooms.engine_of("acme").tenants["acme"].subjects["user"].get("u1").requests == 1
    )
    assert Engine(baselines=rooms.state()).tenants.keys() == {"acme", "other"}


@pytest.mark.parametrize("text", [b"\x93abc", b"", b"\x80", b"\x91\xc4\x01a"])
def test_what_is_no_state_is_refused(text):
    """One clear error, whatever the bytes."""
    with pytest.raises(BaselinesError, match="no baselines"):
        Detectors(DetectionSettings(), text)
