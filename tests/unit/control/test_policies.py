"""Policies in the form of the admin API."""

from __future__ import annotations

from gateway.control.policies import public_policy
from gateway.core.model import Anomaly, Ladder, Policy


def test_scores_and_block_times_of_detection_stand_beside_its_other_settings() -> None:
    """The keys of the API are flat; a class shows its three scores only."""
    own = Ladder(tag=1.0, throttle=2.0, block=6.0, block_ttl_s=60.0)
    anomaly = Anomaly(
        ladder=Ladder(tag=2.0, throttle=3.5, block=7.0, block_ttl_s=60.0),
        classes={"scraping": own},
    )
    shown = public_policy(Policy(name="default", anomaly=anomaly))["anomaly"]
    assert shown == {
        "enabled": True,
        "warning": 3.0,
        "critical": 5.0,
        "tag": 2.0,
        "throttle": 3.5,
        "block": 7.0,
        "classes": {"scraping": {"tag": 1.0, "throttle": 2.0, "block": 6.0}},
        "grace_s": 86_400.0,
        "block_ttl_s": 60.0,
        "max_block_ttl_s": 86_400.0,
        "max_blocked_share": 0.2,
        "throttle_share": 0.5,
        "delay_s": 0.0,
        "max_delayed": 100,
    }
