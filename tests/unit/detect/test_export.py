"""What workers are told to expect."""

from __future__ import annotations

from gateway.detect.engine import Engine
from gateway.detect.export import expectations, expected_rate_of, subject_activity
from gateway.detect.model import Event

T0 = 1_767_600_000.0
WINDOW_S = 600.0


def fed(rates, windows):
    """An engine that has seen each user send so much in every window."""
    engine = Engine()
    engine.advance(T0)
    for window in range(windows):
        for n in range(max(rates.values())):
            for user, rate in rates.items():
                if n < rate:
                    at = T0 + window * WINDOW_S + n * WINDOW_S / rate
                    engine.observe(Event(at, f"10.0.0.{len(user)}", user, "acme"))
    return engine


def test_the_busiest_are_named_and_the_rest_share_their_tenants():
    """Only who usually sends more than its peers is worth a word."""
    engine = fed({"big": 400, "s": 4}, windows=5)
    expected, busy = expectations(engine)
    assert busy.keys() == {"acme"}
    assert ("acme", "user", "big") in expected
    assert ("acme", "user", "s") not in expected
    assert expected["acme", "user", "big"] > busy["acme"] >= 1.0


def test_the_list_is_bounded_and_forgets_who_left():
    """No more than asked for; nobody who has not been seen lately."""
    engine = fed({"big": 400, "huge": 900}, windows=5)
    expected, _ = expectations(engine, 1)
    assert len(expectations(engine)[0]) > len(expected) == 1
    engine.advance(T0 + 20 * WINDOW_S)
    assert expectations(engine)[0] == {}


def test_who_has_no_history_yet_is_one_of_its_peers():
    """In the first windows nobody has a usual of its own."""
    expected, busy = expectations(fed({"big": 400}, windows=1))
    assert expected == {}
    assert busy["acme"] > 0


def test_the_tide_is_known_after_six_hours():
    """Requests a second: what is usual at most, and from where on it stands out."""
    assert expected_rate_of(fed({"big": 60}, windows=5), "acme") is None
    tide = expected_rate_of(fed({"big": 60}, windows=40), "acme")
    assert 0.09 < tide.expected < tide.notable
    assert expected_rate_of(Engine(), "acme") is None


def test_a_subject_beside_its_usual():
    """Now, what is expected, how far above, and its windows of the day."""
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


def test_a_stranger_has_no_usual():
    """Unknown tenant, kind or subject; and one without a window of its own."""
    engine = fed({"big": 60}, windows=1)
    assert subject_activity(engine, "other", "user", "big", T0) is None
    assert subject_activity(engine, "acme", "tenant", "acme", T0) is None
    assert subject_activity(engine, "acme", "user", "nobody", T0) is None
    young = subject_activity(engine, "acme", "user", "big", T0 + 300, history=True)
    assert (young.expected_1m, young.score, young.requests) == (None, None, ())
