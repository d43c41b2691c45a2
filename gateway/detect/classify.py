"""Which class of abuse the facts speak for, how strongly, and why in plain words.

A class needs all of its evidence, so its score is the smallest of its parts: parts that
are noise on their own do not add up to an alarm. Between classes the highest score
wins, after paying for the number of classes that were tried.
"""

# ruff: noqa: PLR2004 - the thresholds of a rule are read best where they stand

from __future__ import annotations

from math import log

import msgspec

from gateway.detect.features import SAME_BITS
from gateway.detect.model import AttackClass
from gateway.detect.score import MOST, sigma_of

# Trying several classes on the same subject multiplies chances of a false alarm by
# their number; this is what that is worth in sigma.
TRIALS = 0.4
_FULL = 5.0
# Requests a minute from which a source is loud on a tenant's first day.
COLD_M = 90.0
# The score from which behaviour names a finding before mere volume does.
CLEAR = 4.0
# Networks from which a new key is in too many hands.
SHARED_NETWORKS = 8
# A key with so many networks roams: where it comes from says nothing.
ROAMING = 44
# A newcomer is slowed or blocked for its templates from here on, before TRIALS.
SURE = 5.4
# Tokens of a window from which a context that grows is worth an incident.
GROWN_TOKENS = 400_000


class Facts(msgspec.Struct, gc=False):
    """What is known of one subject at one moment. Shares are 0 to 1, ``*_sigma`` are
    calibrated scores, counts are of the last ten to twenty minutes unless they end in
    ``_m`` (one minute).
    """

    kind: str = "client_ip"
    known: bool = False
    anonymous: bool = False
    age_s: float = 0.0
    requests_m: float = 0.0
    requests: int = 0
    tokens: int = 0
    expected_m: float = 0.0
    expected_requests: float = 0.0
    expected_tokens: float = 0.0
    request_sigma: float = 0.0
    token_sigma: float = 0.0
    peer_sigma: float = 0.0
    token_peer_sigma: float = 0.0
    alike: float = 0.0
    usual_alike: float = 0.0
    apart: float = 0.0
    ok: int = 0
    denied: int = 0
    missing: int = 0
    rejected: int = 0
    targets: int = 0
    newcomers: int = 0
    usual_newcomers: float = 0.0
    company: int = 0
    strange_models: int = 0
    longer_asks: float = 1.0
    longer_answers: float = 1.0
    most_newcomers: float = 0.0
    templated: float = 0.0
    backed: bool = False
    keyed: bool = False
    most_same: float = 0.0
    most_requests: float = 0.0
    most_tokens: float = 0.0
    failed: int = 0
    cold: bool = False
    regular: float = 1.0
    outage: bool = False
    surge: bool = False


class Finding(msgspec.Struct, frozen=True):
    """A class that the facts speak for. ``behaviour``: the evidence is what was done
    and not only how much, so a block is allowed.
    """

    cls: AttackClass
    score: float
    behaviour: bool
    reasons: tuple[str, ...]


def classify(facts: Facts) -> Finding | None:
    """The strongest class, or None when nothing reaches a score above 0."""
    found = [
        finding
        for rule in (_probing, _stolen, _walking, _looping, _spending, _volume)
        if (finding := rule(facts)) is not None
    ]
    if not found:
        return None
    # What was done says more than how much it was, once it is clear enough.
    best = max(found, key=lambda one: (one.behaviour and one.score >= CLEAR, one.score))
    return msgspec.structs.replace(best, score=max(0.0, best.score - TRIALS))


def count_sigma(seen: float, expected: float) -> float:
    """The score of a count where so many were expected (Chernoff's bound of Poisson)."""
    if seen <= expected or seen <= 0.0:
        return 0.0
    surprise = seen * log(seen / expected) - (seen - expected)
    # exp(-surprise), on the scale of scores, without underflow.
    return sigma_of(max(1e-30, 2.718281828459045**-surprise)) if surprise < 60 else MOST


def _ramp(value: float, low: float, high: float) -> float:
    """0 at ``low``, five at ``high``, linear between and beyond."""
    return min(MOST, max(0.0, _FULL * (value - low) / (high - low)))


def _excess(facts: Facts) -> float:
    """How far beyond itself, or beyond its peers where it has no history."""
    if facts.known:
        return max(facts.request_sigma, facts.token_sigma)
    return facts.peer_sigma


def _probing(facts: Facts) -> Finding | None:
    """Sweeps of refused requests: keys, paths or models tried one after the other."""
    bad = facts.denied + facts.missing + 0.5 * facts.rejected
    total = bad + facts.ok
    if bad < 8 or bad < 0.5 * total:
        return None
    broken = facts.known and facts.targets <= 3
    if broken:
        # The same calls as ever, refused all at once: a broken deployment.
        return None
    score = min(
        count_sigma(bad, 2.0),
        _ramp(bad / total, 0.3, 0.7),
        _ramp(facts.targets + bad / 10.0, 0.0, 4.0),
    )
    what = f"{int(bad)} of {int(total)} requests were refused (401, 403, 404)"
    reasons = [what + "."]
    if facts.targets > 1:
        reasons.append(f"They tried {facts.targets} different keys, paths or models.")
    return Finding("probing", score, behaviour=True, reasons=tuple(reasons))


def _stolen(facts: Facts) -> Finding | None:
    """A key that is suddenly used from many networks."""
    if facts.kind != "user" or facts.newcomers < 3 or facts.company >= ROAMING:
        return None
    if facts.outage:
        return None
    if not facts.known:
        return _shared(facts)
    usual = max(0.3, 4.0 * facts.usual_newcomers, facts.most_newcomers)
    score = count_sigma(facts.newcomers, usual)
    reasons = [
        (
            f"The key came from {facts.newcomers} networks it was never used from"
            f" before (usual: {facts.usual_newcomers:.1f} in ten minutes)."
        )
    ]
    if facts.strange_models:
        reasons.append(f"{facts.strange_models} requests use models new to this key.")
    if _excess(facts) >= 3.0:
        reasons.append(_more(facts))
    # Networks alone tag and slow down; what is done there has to be strange as well.
    support = max(_ramp(facts.strange_models, 0.0, 3.0), _excess(facts))
    score = min(score, max(4.6, 1.0 + support))
    return Finding("credential_abuse", score, behaviour=True, reasons=tuple(reasons))


def _shared(facts: Facts) -> Finding | None:
    """A key nobody knew yet, in many hands at once and far busier than its peers."""
    if facts.newcomers < SHARED_NETWORKS or max(facts.alike, facts.templated) > 0.3:
        return None
    reason = f"A new key is used from {facts.newcomers} networks at once."
    score = min(count_sigma(facts.newcomers, 2.0), facts.peer_sigma)
    return Finding("credential_abuse", score, True, (reason, _more(facts)))


def _walking(facts: Facts) -> Finding | None:
    """Alike prompts at a rate that stands out: a template walked, or a flood."""
    if facts.backed or (facts.requests_m < 15 and facts.requests < 40):
        return None
    if facts.known or (facts.cold and facts.requests_m < COLD_M):
        # In the first day of a tenant everybody is new: only a loud one stands out.
        return None
    share = max(facts.alike, facts.templated)
    score = min(_ramp(share, 0.15, 0.6), _excess(facts))
    if score <= 0.0:
        return None
    flood = facts.apart <= 4.5 and facts.requests_m >= 100
    what = f"{100 * share:.0f} % of its recent prompts follow few templates."
    return Finding(
        "ddos" if flood else "scraping",
        score if facts.templated > 0.3 else min(score, 4.6),
        behaviour=score >= SURE,
        reasons=(what, _more(facts)),
    )


def _looping(facts: Facts) -> Finding | None:
    """A client that was reasonable before sends the same again and again."""
    if facts.keyed or facts.requests < 12:
        return None
    if facts.alike < 0.75 or facts.outage or facts.failed > 0.1 * facts.requests:
        return None
    if not facts.known:
        return _burning(facts)
    same = facts.apart <= SAME_BITS and facts.most_same < 0.6
    growing = (
        facts.apart <= 2 * SAME_BITS
        and facts.longer_asks >= 1.8
        and facts.tokens >= max(GROWN_TOKENS, 2.0 * facts.most_tokens)
    )
    if not same and not growing:
        return None
    excess = facts.token_sigma if growing and not same else _excess(facts)
    score = min(_ramp(facts.alike, 0.4, 0.8), excess)
    grown = facts.longer_asks >= 2.0
    reasons = [
        (
            f"{100 * facts.alike:.0f} % of its recent prompts are the same, usually"
            f" {100 * facts.usual_alike:.0f} %."
        ),
        _more(facts),
    ]
    if grown:
        reasons.append(f"Prompts grew to {facts.longer_asks:.1f} times the usual.")
    return Finding("cost_spike", score, behaviour=True, reasons=tuple(reasons))


def _burning(facts: Facts) -> Finding | None:
    """A newcomer repeats itself and burns tokens like nobody else."""
    if facts.cold or facts.apart > 2 * SAME_BITS or facts.tokens < 2 * GROWN_TOKENS:
        return None
    score = min(_ramp(facts.alike, 0.4, 0.8), facts.token_peer_sigma)
    what = f"{100 * facts.alike:.0f} % of its prompts are the same"
    reason = f"{what}, with {facts.tokens:,} tokens in the window."
    return Finding("cost_spike", score, behaviour=True, reasons=(reason,))


def _spending(facts: Facts) -> Finding | None:
    """Tokens far beyond the usual, by larger requests rather than by more of them."""
    if facts.keyed or facts.tokens < 30_000:
        return None
    # Answers only: prompts grow with every honest conversation (see _looping).
    larger = facts.longer_answers
    if larger < 2.5 or facts.outage or facts.tokens < 1.5 * facts.most_tokens:
        return None
    score = min(facts.token_sigma, _ramp(larger, 1.5, 4.5))
    return Finding(
        "cost_spike",
        score,
        behaviour=facts.known and larger >= 4.0,
        reasons=(
            f"{facts.tokens:,} tokens, usually at most {facts.expected_tokens:,.0f}.",
            f"Answers are {larger:.1f} times as long as usual.",
        ),
    )


def _volume(facts: Facts) -> Finding | None:
    """More than ever, and nothing sharper to say about it."""
    if facts.backed or facts.outage or facts.surge:
        return None
    if facts.cold or (facts.requests < 100 and facts.tokens < 200_000):
        return None
    score = _excess(facts) if facts.known else 0.5 * _excess(facts)
    # What it did within the week it may do again, at whatever hour.
    more = facts.requests > 2.0 * facts.most_requests
    more = more or facts.tokens > 2.0 * facts.most_tokens
    if score <= 0.0 or (facts.known and not more):
        return None
    looping = facts.alike > 0.75 and facts.apart <= SAME_BITS
    spending = looping or facts.token_sigma > facts.request_sigma + 1.5
    cls: AttackClass = "cost_spike" if spending else "volume"
    return Finding(cls, score, behaviour=False, reasons=(_more(facts),))


def _more(facts: Facts) -> str:
    if facts.known:
        return (
            f"{facts.requests} requests in the window where at most"
            f" {facts.expected_requests:.0f} are usual for it."
        )
    return (
        f"{facts.requests_m:.0f} requests in a minute; busy peers make"
        f" {facts.expected_m:.0f}."
    )
