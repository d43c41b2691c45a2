"""Up at once, down slowly."""

from __future__ import annotations

import pytest

from gateway.core.model import Ladder
from gateway.detect.ladder import (
    FORGIVE_S,
    LEAST_RATE,
    EnforcementState,
    allowed_rate,
    block_ttl,
    decide_action,
    forgive,
    raise_to,
    relax,
)
from gateway.detect.model import (
    EvidenceWindow,
    Output,
    Ref,
    format_time,
)

SETTINGS = Ladder()


@pytest.mark.parametrize(
    ("score", "behaviour", "rung"),
    [
        (2.9, True, "allow"),
        (3.0, True, "tag"),
        (4.0, True, "throttle"),
        (5.0, True, "block"),
        (4.9, False, "tag"),
        (12.0, False, "throttle"),
    ],
)
def test_actions(score, behaviour, rung):
    """Volume tags, and throttles at a critical score; behaviour may block."""
    assert decide_action(score, SETTINGS, behaviour=behaviour, critical=5.0) == rung


def test_a_block_doubles_with_every_return():
    """Blocks last 10, 20, 40 minutes and so on, at most ``max_block_ttl_s``."""
    state, now = EnforcementState(), 0.0
    for minutes in (10, 20, 40):
        assert raise_to(state, "block", now, SETTINGS)
        assert state.until == now + minutes * 60
        assert not raise_to(state, "tag", now + 1, SETTINGS)
        now = state.until
        assert relax(state, now) == "block"
    state.strikes = 99
    assert block_ttl(state, SETTINGS) == SETTINGS.max_block_ttl_s


def test_good_conduct_is_forgiven():
    """Each ``FORGIVE_S`` without a block removes one strike, down to zero."""
    state = EnforcementState(strikes=3, forgiven_at=0.0)
    forgive(state, 2.5 * FORGIVE_S)
    assert state.strikes == 1
    forgive(state, 99 * FORGIVE_S)
    assert state.strikes == 0
    forgive(state, 999 * FORGIVE_S)
    assert state.strikes == 0


def test_a_tag_is_prolonged_by_evidence_and_ends_on_calm():
    """New evidence prolongs a tag, which then ends."""
    state = EnforcementState()
    assert raise_to(state, "tag", 0.0, SETTINGS)
    assert not raise_to(state, "tag", 100.0, SETTINGS)
    assert relax(state, 399.0) is None
    assert relax(state, 400.0) == "tag"
    assert relax(state, 401.0) is None


@pytest.mark.parametrize(
    ("cls", "expected", "share", "rate"),
    [
        ("scraping", {"requests_1m": 40.0}, 0.5, 20),
        ("scraping", {"requests_10m": 400.0}, 0.25, 10),
        ("volume", {"requests_10m": 400.0}, 0.5, 80),
        ("cost_spike", {"requests_1m": 40.0}, 0.5, 80),
        ("probing", {}, 0.5, LEAST_RATE),
    ],
)
def test_the_rate_of_a_throttle(cls, expected, share, rate):
    """A share of the expected rate, twice that rate for volume; at least 2 a minute."""
    moment = format_time(0.0)
    output = Output(
        type="client.throttled", id="inc_1", ts=moment, severity="critical", cls=cls,
        score=6.5, subject=Ref("client_ip", "203.0.113.9"), tenant="acme",
        action="throttle", until=moment, window=EvidenceWindow(moment, moment), observed={},
        expected=expected, reasons=(),
    )  # fmt: skip
    assert allowed_rate(output, share) == rate
