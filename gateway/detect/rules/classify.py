"""The strongest class of abuse for the facts about a subject.

A class needs all of its evidence, so its score is the minimum of its parts: parts that
are noise on their own do not add up to an alert. Between classes the highest score
wins, less a correction for the number of classes tried.
"""

# ruff: noqa: PLR2004 - the thresholds of a rule are read best where they stand

from __future__ import annotations

import msgspec

from gateway.detect.rules.facts import (
    CLEAR,
    TRIALS,
    Facts,
    Signal,
    count_score,
    familiarity,
    ramp,
)
from gateway.detect.rules.repetition import judge_enumeration, judge_loop
from gateway.detect.rules.stolen_key import judge_key
from gateway.detect.rules.volume import judge_answers, judge_newcomer, judge_volume
from gateway.detect.subject import FEW_REFUSED

# Keys, paths and models that a newcomer was refused, from which it tries doors.
MANY_TARGETS = 4


def classify(facts: Facts) -> Signal | None:
    """The strongest class, or None when nothing reaches a score above 0."""
    found = [
        finding
        for rule in (
            _probing,
            judge_key,
            judge_enumeration,
            judge_loop,
            judge_answers,
            judge_volume,
            judge_newcomer,
        )
        if (finding := rule(facts)) is not None
    ]
    if not found:
        return None
    # What was done says more than how much it was, once it is clear enough.
    best = max(found, key=lambda one: (one.behaviour and one.score >= CLEAR, one.score))
    return msgspec.structs.replace(best, score=max(0.0, best.score - TRIALS))


def _probing(facts: Facts) -> Signal | None:
    """Sweeps of refused requests: keys, paths or models tried one after the other."""
    bad = facts.denied + facts.missing + 0.5 * facts.rejected
    total = bad + facts.ok
    if bad < FEW_REFUSED or bad < 0.5 * total:
        return None
    broken = familiarity(facts) > 0.0 and facts.targets <= 3
    if broken or (facts.known and facts.kind == "user" and facts.denied > 0.8 * bad):
        # The same calls as ever, refused all at once: a broken deployment; and a key
        # that is refused was taken back, which tries nothing.
        return None
    # Who is new and tries many different things has nothing that may have broken.
    tries = not familiarity(facts) and facts.targets >= MANY_TARGETS
    score = min(
        count_score(bad, 1.5 if tries else 2.0),
        ramp(bad / total, 0.3, 0.7),
        ramp(facts.targets + bad / 10.0, 0.0, 4.0),
    )
    what = f"{int(bad)} of {int(total)} requests were refused (401, 403, 404)"
    reasons = [what + "."]
    if facts.targets > 1:
        reasons.append(f"They tried {facts.targets} different keys, paths or models.")
    return Signal("probing", score, behaviour=True, reasons=tuple(reasons))
