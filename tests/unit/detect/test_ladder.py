"""Up at once, down slowly."""

from __future__ import annotations

import pytest

from gateway.detect.ladder import (
    Standing,
    block_ttl,
    decide_rung,
    forgive,
    raise_to,
    relax,
)
from gateway.detect.model import LadderSettings

SETTINGS = LadderSettings()


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
def test_rungs(score, behaviour, rung):
    """Volume alone tags, and throttles when critical; behaviour may block."""
    assert decide_rung(score, SETTINGS, behaviour=behaviour, critical=5.0) == rung


def test_a_block_doubles_with_every_return():
    """Ten minutes, twenty, forty, up to a day."""
    standing, now = Standing(), 0.0
    for minutes in (10, 20, 40):
        assert raise_to(standing, "block", now, SETTINGS)
        assert standing.until == now + minutes * 60
        assert not raise_to(standing, "tag", now + 1, SETTINGS)
        now = standing.until
        assert relax(standing, now) == "block"
    standing.strikes = 99
    assert block_ttl(standing, SETTINGS) == SETTINGS.max_ttl_s


def test_good_conduct_is_forgiven():
    """Each quarter of a day takes a strike back; nothing below zero."""
    standing = Standing(strikes=3, forgiven_at=0.0)
    forgive(standing, 2.5 * SETTINGS.forgive_s, SETTINGS)
    assert standing.strikes == 1
    forgive(standing, 99 * SETTINGS.forgive_s, SETTINGS)
    assert standing.strikes == 0
    forgive(standing, 999 * SETTINGS.forgive_s, SETTINGS)
    assert standing.strikes == 0


def test_a_tag_is_prolonged_by_evidence_and_ends_on_calm():
    """The same rung again prolongs; afterwards nothing is left."""
    standing = Standing()
    assert raise_to(standing, "tag", 0.0, SETTINGS)
    assert not raise_to(standing, "tag", 100.0, SETTINGS)
    assert relax(standing, 399.0) is None
    assert relax(standing, 400.0) == "tag"
    assert relax(standing, 401.0) is None
