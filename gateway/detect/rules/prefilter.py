"""A cheap check whether any rule can apply to a subject; nearly always none can.

What is not notable here is found by no rule of ``classify``, or with a score of 0. Rules
may be stricter than this check, never laxer (a property test compares them).
"""

# ruff: noqa: PLR2004 - one question for each rule, and its own thresholds

from __future__ import annotations

from gateway.detect.rules.facts import COLD_M
from gateway.detect.rules.stolen_key import SHARED_NETWORKS
from gateway.detect.subject import (
    DENIED,
    FAN_OUT,
    FEW_IN_A_MINUTE,
    FEW_REFUSED,
    FEW_REQUESTS,
    FEW_TOKENS,
    LITTLE_NOVELTY,
    MISSING,
    REJECTED,
    SHORT_RUN,
    SPIKE_REQUESTS,
    SPIKE_TOKENS,
    SPOKEN_TAGGED,
    STEADY_WINDOWS,
    SubjectState,
)

# Requests a minute from which a newcomer of any day is compared with its live peers.
LOUD_M = 60.0


def notable(track: SubjectState, rate: float, *, known: bool, cold: bool) -> bool:
    """Whether any rule may apply, but for comparisons with live peers on a tenant's
    first day. ``rate`` is ``track.rate_m``.
    """
    if refusals(track) >= FEW_REFUSED:
        return True
    if track.kind == "user" and _handed_on(track, cold=cold):
        return True
    if not track.keyed and _spends(track):
        return True
    much = (_much(track) and not cold) or _spikes(track)
    if known:
        return much and not track.backed
    if rate >= LOUD_M:
        return True
    return not track.backed and (much or _enumerates(track, rate, cold=cold))


def refusals(track: SubjectState) -> int:
    """Requests of this window and the one before that were answered 4xx."""
    now, before = track.outcomes, track.outcomes_b
    bad = now[DENIED] + now[MISSING] + now[REJECTED]
    return bad + before[DENIED] + before[MISSING] + before[REJECTED]


def _handed_on(track: SubjectState, *, cold: bool) -> bool:
    """A key in other hands."""
    if track.suspects is not None or track.new_networks >= LITTLE_NOVELTY:
        return True
    if cold and len(track.company) >= FAN_OUT:
        return True
    return track.newcomers + track.newcomers_b >= SHARED_NETWORKS


def _spends(track: SubjectState) -> bool:
    """A loop, or answers longer than ever."""
    if track.repetition_run >= SHORT_RUN and track.alike >= 0.75:
        return True
    if track.spoken + track.spoken_w < SPOKEN_TAGGED:
        return False
    return track.longer() >= 2.0


def _much(track: SubjectState) -> bool:
    return track.requests >= 100 or track.tokens >= FEW_TOKENS


def _spikes(track: SubjectState) -> bool:
    """More than twice of what it lately made at most."""
    requests, tokens = track.baseline, track.token_baseline
    if track.windows < STEADY_WINDOWS or requests is None or tokens is None:
        return False
    if track.tokens >= SPIKE_TOKENS and tokens.leaps(track.tokens):
        return True
    return track.requests >= SPIKE_REQUESTS and requests.leaps(track.requests)


def _enumerates(track: SubjectState, rate: float, *, cold: bool) -> bool:
    """Alike prompts for long, or many."""
    if max(track.alike, track.templated) <= 0.15 or (cold and rate < COLD_M):
        return False
    busy = track.requests >= FEW_REQUESTS or track.repetition_run >= SHORT_RUN
    return busy or track.requests_m + track.requests_b >= FEW_IN_A_MINUTE
