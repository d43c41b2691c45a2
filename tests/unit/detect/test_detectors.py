"""Detectors by settings: routing of events, and state across changes."""

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
    """Detectors with a running clock."""
    detectors = Detectors(settings, baselines)
    detectors.advance(T0)
    return detectors


def two_detectors(baselines=None):
    """Detectors of a stricter tenant, one without detection, and the rest."""
    return begun(DetectionSettings(tenants={"strict": STRICT, "off": None}), baselines)


def test_settings_follow_each_tenants_policy():
    """Scores, ladders, shares and campaigns follow the tenant's policy, which may
    switch detection off.
    """
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
    """There is one detector for each distinct setting, none where detection is off."""
    detectors = two_detectors()
    for name in ("acme", "other", "strict", "off"):
        detectors.observe(event(name))
    assert [engine.events for engine in detectors.engines] == [2, 1]
    assert (
        detectors.engine_of("acme")
        is detectors.engine_of("other")
        is not detectors.engine_of("strict")
    )
    assert (
        detectors.observe_outcome(event("off"))
        == detectors.advance(T0 + 60)
        == detectors.close()
        == []
    )
    assert detectors.misplaced == 0


def test_outcomes_reach_the_detector():
    """The tokens of an outcome are added to the subject of its request."""
    detectors = begun(DetectionSettings())
    detectors.observe(event(status=0))
    detectors.observe_outcome(event(total_tokens=90))
    track = detectors.engine_of("acme").tenants["acme"].subjects["user"].get("u1")
    assert (track.requests, track.tokens, track.answered) == (1, 90, 1)


def test_state_is_loaded_by_the_detector_of_its_tenant():
    """Each detector loads the state of its own tenants."""
    detectors = two_detectors()
    detectors.observe(event("acme"))
    detectors.observe(event("strict"))
    again = two_detectors(detectors.state())
    assert [list(engine.tenants) for engine in again.engines] == [["acme"], ["strict"]]
    alone = Detectors(DetectionSettings(), again.state())
    assert list(alone.engine_of("acme").tenants) == ["acme", "strict"]
    assert Engine(baselines=alone.state()).tenants.keys() == {"acme", "strict"}


def test_new_settings_keep_what_is_known():
    """New settings keep the learned state, and equal settings change nothing."""
    detectors = begun(DetectionSettings())
    detectors.observe(event())
    assert not detectors.configure(DetectionSettings())
    assert detectors.configure(DetectionSettings(STRICT))
    assert detectors.settings == DetectionSettings(STRICT)
    assert list(detectors.engine_of("acme").tenants) == ["acme"]
    assert detectors.configure(DetectionSettings(None))
    assert detectors.engines == ()


def test_state_of_a_tenant_without_detection_is_parked():
    """The state of a tenant whose detection is off is kept over a restart and used when
    it is on again.
    """
    detectors = begun(DetectionSettings())
    detectors.observe(event("acme"))
    detectors.observe(event("other"))
    off = DetectionSettings(tenants={"acme": None})
    assert detectors.configure(off)
    assert list(detectors.engine_of("other").tenants) == ["other"]
    assert detectors.observe(event("acme", 1.0)) == []
    detectors = begun(off, detectors.state())
    assert detectors.configure(DetectionSettings())
    assert (
        detectors.engine_of("acme").tenants["acme"].subjects["user"].get("u1").requests
        == 1
    )
    assert Engine(baselines=detectors.state()).tenants.keys() == {"acme", "other"}


@pytest.mark.parametrize("text", [b"\x93abc", b"", b"\x80", b"\x91\xc4\x01a"])
def test_what_is_no_state_is_refused(text):
    """Invalid bytes raise BaselinesError."""
    with pytest.raises(BaselinesError, match="no baselines"):
        Detectors(DetectionSettings(), text)
