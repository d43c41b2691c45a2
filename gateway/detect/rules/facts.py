"""The facts about a subject, and functions from evidence to a score.

A score of 3 is a warning, 5 is critical.
"""

# ruff: noqa: PLR2004 - the thresholds of a rule are read best where they stand

from __future__ import annotations

from math import log

import msgspec

from gateway.core.model import AttackClass
from gateway.detect.score import MOST, score_of

# Trying several classes on the same subject multiplies chances of a false alarm by
# their number; this is what that is worth in sigma.
TRIALS = 0.4
FULL = 5.0
# Requests a minute from which a source is loud on a tenant's first day.
COLD_M = 90.0
# Windows in which a subject must have been active before its own history counts alone.
SEASONED = 12
# What a factor of e beyond the usual is worth in sigma.
PER_FOLD = 2.2
# The score from which behaviour names a finding before mere volume does.
CLEAR = 4.0
EARLY_S = 3600.0
# Requests a minute that a newcomer's first job makes at most.
JOB_M = 300.0
# A key of so many networks is many people's on the first day.
MANY_HANDS = 4


class Facts(msgspec.Struct, gc=False):
    """What is known of one subject at one moment. Shares are 0 to 1, ``*_sigma`` are
    calibrated scores, counts are of the last ten to twenty minutes unless they end in
    ``_m`` (one minute). ``familiar`` is how well its ways are known: 1 for who is
    known, less for who came within the last day. ``met``, ``used`` and ``swaps`` fade within an hour,
    ``most_*`` are the subject's own highest figures, ``reach_*`` those that several of
    the service's busiest subjects reach (0: not known yet).
    """

    kind: str = "client_ip"
    known: bool = False
    familiar: float = 0.0
    anonymous: bool = False
    age_s: float = 0.0
    requests_m: float = 0.0
    requests: int = 0
    tokens: int = 0
    expected_m: float = 0.0
    expected_requests: float = 0.0
    expected_tokens: float = 0.0
    request_score: float = 0.0
    token_score: float = 0.0
    peer_score: float = 0.0
    token_peer_score: float = 0.0
    concurrent_m: float = 0.0
    concurrent_score: float = 0.0
    concurrent_size: float = 0.0
    expected_rate_m: float = 0.0
    heads: int = 1
    fan_out: int = 0
    alike: float = 0.0
    usual_alike: float = 0.0
    apart: float = 0.0
    ok: int = 0
    denied: int = 0
    missing: int = 0
    rejected: int = 0
    targets: int = 0
    newcomers: int = 0
    company: int = 0
    older: int = 0
    new_networks: float = 0.0
    most_new_networks: float = 0.0
    new_models: float = 0.0
    odd: bool = False
    alternations: float = 0.0
    most_alternations: float = 0.0
    most_new_models: float = 0.0
    suspicious: int = 0
    windows: int = 0
    steady: float = 0.0
    repetition_run: int = 0
    repetition_tokens: int = 0
    repetition_judged: bool = False
    most_repetition_run: float = 0.0
    most_repetition_tokens: float = 0.0
    same_size: float = 0.0
    same_size_streak: int = 0
    most_same_size_streak: float = 0.0
    asked: int = 0
    longest: int = 0
    most_longest: float = 0.0
    service_longest: float = 0.0
    spoken: int = 0
    louder_answers: float = 1.0
    service_m: float = 0.0
    service_requests: float = 0.0
    service_tokens: float = 0.0
    service_repetition_run: float = 0.0
    service_repetition_tokens: float = 0.0
    longer_asks: float = 1.0
    sized: int = 30
    longer_answers: float = 1.0
    templated: float = 0.0
    backed: bool = False
    keyed: bool = False
    most_requests: float = 0.0
    most_tokens: float = 0.0
    failed: int = 0
    cold: bool = False
    early: bool = False
    regular: float = 1.0
    outage: bool = False
    surge: bool = False


class Signal(msgspec.Struct, frozen=True):
    """A class that the facts support. ``behaviour``: the evidence is what was done, not
    only how much, so a block is allowed. ``page_worthy``: enough for an incident with an
    alert, otherwise the subject is only tagged. ``sudden``: the evidence need not last.
    ``informational``: the incident never pages.
    """

    cls: AttackClass
    score: float
    behaviour: bool
    reasons: tuple[str, ...]
    page_worthy: bool = True
    sudden: bool = False
    informational: bool = False


def count_score(seen: float, expected: float) -> float:
    """The score of a count where so many were expected (Chernoff's bound of Poisson)."""
    if seen <= expected or seen <= 0.0:
        return 0.0
    surprise = seen * log(seen / expected) - (seen - expected)
    # exp(-surprise), on the scale of scores, without underflow.
    return score_of(max(1e-30, 2.718281828459045**-surprise)) if surprise < 60 else MOST


def ramp(value: float, low: float, high: float) -> float:
    """0 at ``low``, five at ``high``, linear between and beyond."""
    return min(MOST, max(0.0, FULL * (value - low) / (high - low)))


def familiarity(facts: Facts) -> float:
    """How well its ways are known: 1 for who is known, 0 for who just came."""
    return 1.0 if facts.known else facts.familiar


def excess(facts: Facts) -> float:
    """How far beyond itself, or beyond its peers where it has little history."""
    if facts.known and facts.windows >= SEASONED:
        return max(facts.request_score, facts.token_score)
    return facts.peer_score


def folds(value: float, usual: float) -> float:
    """3 where ``value`` is the usual, and some more for each factor of e beyond it."""
    if value <= 0.0 or usual <= 0.0:
        return 0.0
    return min(MOST, max(0.0, 3.0 + PER_FOLD * log(value / usual)))


def peer_score(rate: float, busy: float) -> float:
    """How far beyond the busiest of its peers, in sigma; 0 up to them."""
    if rate <= busy:
        return 0.0
    return min(MOST, PER_FOLD * log(rate / busy))


def how_much_more(facts: Facts) -> str:
    """How much more it asks than was expected, as a sentence."""
    if facts.known:
        return (
            f"{facts.requests} requests in the window where at most"
            f" {facts.expected_requests:.0f} are usual for it."
        )
    return (
        f"{facts.requests_m:.0f} requests in a minute; busy peers send"
        f" {facts.expected_m:.0f}."
    )


def job_m(facts: Facts) -> float:
    """Requests a minute that the first job of a newcomer makes at most; in a tenant's
    first hour there are few of those.
    """
    return 2.0 * COLD_M if facts.early else JOB_M
