"""Expectations that are sent to workers."""

from __future__ import annotations

from gateway.detect.engine import Engine
from gateway.detect.export import expectations, expected_rate_of, subject_activity
from gateway.detect.model import Event

T0 = 1_767_600_000.0
WINDOW_S = 600.0


def fed(rates, windows):
    """A detector that has seen each user at this rate in every window."""
    engine = Engine()
    engine.advance(T0)
    for window in range(windows):
        for n in range(max(rates.values())):
            for user, rate in rates.items():
                if n < rate:
                    at = T0 + window * WINDOW_S + n * WINDOW_S / rate
                    engine.observe(Event(at, f"10.0.0.{len(user)}", user, "acme"))
    return engine


def test_the_busiest_subjects_are_listed():
    """Only subjects whose usual rate exceeds that of their peers are listed."""
    engine = fed({"big": 400, "s": 4}, windows=5)
    expected, busy = expectations(engine)
    assert busy.keys() == {"acme"}
    assert ("acme", "user", "big") in expected
    assert ("acme", "user", "s") not in expected
    assert expected["acme", "user", "big"] > busy["acme"] >= 1.0


def test_the_list_is_bounded_and_drops_inactive_subjects():
    """The list has at most the requested number of subjects, all of them active."""
    engine = fed({"big": 400, "huge": 900}, windows=5)
    expected, _ = expectations(engine, 1)
    assert len(expectations(engine)[0]) > len(expected) == 1
    engine.advance(T0 + 20 * WINDOW_S)
    assert expectations(engine)[0] == {}


def test_without_history_only_the_tenant_rate_is_exported():
    """In the first windows no subject is listed, only the tenant's rate."""
    expected, busy = expectations(fed({"big": 400}, windows=1))
    assert expected == {}
    assert busy["acme"] > 0


def test_the_expected_rate_is_known_after_six_hours():
    """After six hours a tenant has an expected rate and a higher notable rate."""
    assert expected_rate_of(fed({"big": 60}, windows=5), "acme") is None
    rate = expected_rate_of(fed({"big": 60}, windows=40), "acme")
    assert 0.09 < rate.expected < rate.notable
    assert expected_rate_of(Engine(), "acme") is None


def test_activity_of_a_subject():
    """The activity of a subject has its current and expected requests, score and
    history.
    """
    engine = fed({"big": 60}, windows=12)
    now = T0 + 12 * WINDOW_S - 1
    usual = subject_activity(engine, "acme", "user", "big", now, history=True)
    assert usual.requests_10m in (59, 60)
    assert usual.expected_10m > 40
    assert usual.score < 1.0
    assert len(usual.requests) == len(usual.tokens) > 5
    assert max(usual.requests) > 40
    later = subject_activity(engine, "acme", "user", "big", now + 7200.0)
    assert (later.requests_10m, later.requests) == (0, ())
    assert later.expected_10m < usual.expected_10m


def test_unknown_subjects_have_no_activity():
    """Unknown tenants, kinds and subjects have no activity; a new subject has no
    expectation.
    """
    engine = fed({"big": 60}, windows=1)
    assert subject_activity(engine, "other", "user", "big", T0) is None
    assert subject_activity(engine, "acme", "tenant", "acme", T0) is None
    assert subject_activity(engine, "acme", "user", "nobody", T0) is None
    young = subject_activity(engine, "acme", "user", "big", T0 + 300, history=True)
    assert (young.expected_1m, young.score, young.requests) == (None, None, ())
