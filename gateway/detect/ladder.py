"""From scores to actions: allow, tag, throttle, block; up at once, down slowly.

Volume alone is tagged, and throttled when it is critical; a block needs behaviour. The
time of a block doubles with every repetition and shrinks again after calm periods.
"""

from __future__ import annotations

import msgspec

from gateway.core.model import Ladder
from gateway.detect.model import ACTIONS, Output, ResponseAction

# Lowest rate of a throttle, requests per minute.
LEAST_RATE = 2
# A tag or throttle ends this many seconds after its last evidence.
CALM_S = 300.0
# Seconds of good conduct that take one doubling of the block time back.
FORGIVE_S = 21_600.0
# Throttle by volume alone: this multiple of the subject's expected rate.
VOLUME_TIMES = 2.0
_VOLUME = frozenset({"volume", "cost_spike"})


class EnforcementState(msgspec.Struct, array_like=True, gc=False):
    """The enforcement state of one subject. ``until`` is epoch seconds; ``strikes`` counts
    its earlier blocks (less those forgiven until ``forgiven_at``).
    """

    action: ResponseAction = "allow"
    until: float = 0.0
    strikes: int = 0
    forgiven_at: float = 0.0
    evidence: int = 0  # looks in a row that found something
    first: float = 0.0  # when the running evidence began
    incident: str = ""


def decide_action(
    score: float, settings: Ladder, *, behaviour: bool, critical: float
) -> ResponseAction:
    """The action for a score; ``behaviour`` as in Signal."""
    if score < settings.tag:
        return "allow"
    if not behaviour:
        return "throttle" if score >= max(critical, settings.throttle) else "tag"
    if score >= settings.block:
        return "block"
    return "throttle" if score >= settings.throttle else "tag"


def raise_to(
    standing: EnforcementState,
    rung: ResponseAction,
    now: float,
    settings: Ladder,
) -> bool:
    """Put a subject on ``rung`` or prolong what it stands on; whether it rose."""
    rose = ACTIONS.index(rung) > ACTIONS.index(standing.action)
    if rose:
        standing.action = rung
        if rung == "block":
            forgive(standing, now)
            standing.strikes += 1
            standing.forgiven_at = now
            standing.until = now + block_ttl(standing, settings)
            return True
    if standing.action == "block":
        return rose
    standing.until = now + CALM_S
    return rose


def block_ttl(standing: EnforcementState, settings: Ladder) -> float:
    """Seconds of a block, by the number of times it happened."""
    doubled = settings.block_ttl_s * 2.0 ** min(20, max(0, standing.strikes - 1))
    return float(min(settings.max_block_ttl_s, doubled))


def forgive(standing: EnforcementState, now: float) -> None:
    """Take one strike back for each FORGIVE_S of good conduct."""
    good = int((now - standing.forgiven_at) // FORGIVE_S)
    if standing.strikes and good > 0:
        standing.strikes = max(0, standing.strikes - good)
        standing.forgiven_at = now


def relax(standing: EnforcementState, now: float) -> ResponseAction | None:
    """Come down when the time is over; the rung that was left, or None."""
    if standing.action == "allow" or now < standing.until:
        return None
    left = standing.action
    standing.action = "allow"
    standing.evidence = 0
    return left


def allowed_rate(output: Output, share: float) -> int:
    """Requests per minute that a throttled subject may send: ``share`` of its expected
    rate, or VOLUME_TIMES that rate when volume is the only evidence.
    """
    usual = output.expected.get("requests_1m")
    if usual is None:
        usual = output.expected.get("requests_10m", 0.0) / 10.0
    times = VOLUME_TIMES if output.cls in _VOLUME else share
    return max(LEAST_RATE, round(times * usual))
