"""Rules for volume: more requests, tokens or longer answers than expected."""

# ruff: noqa: PLR2004 - the thresholds of a rule are read best where they stand

from __future__ import annotations

from math import log

from gateway.core.model import AttackClass
from gateway.detect.rules.facts import (
    FULL,
    MANY_HANDS,
    SEASONED,
    TRIALS,
    Facts,
    Signal,
    excess,
    familiarity,
    how_much_more,
    job_m,
    ramp,
)
from gateway.detect.rules.repetition import RUN_LONG
from gateway.detect.subject import (
    FEW_TOKENS,
    SPIKE_REQUESTS,
    SPIKE_TOKENS,
    SPOKEN_TAGGED,
    STEADY_WINDOWS,
)

# Completion tokens of two windows from which longer answers are worth an incident.
SPOKEN_LONG = 12_000
# Sigma above the peers of these minutes, and requests, at which there is little to wait
# for before somebody is told.
TOWERING = 5.0
HASTY = 100
RUN_LARGE = 300
# Requests a minute at which a job of the first hour is slowed down.
HURRIED_M = 300.0
# Of a client that is there in so large a share of a day's windows, so many times the
# most of its week stand out.
STEADY = 0.8
SPIKE_TIMES = 3.0


def judge_answers(facts: Facts) -> Signal | None:
    """Answers far longer than any it ever got, and more than a few of them."""
    if facts.keyed or facts.outage or facts.spoken < SPOKEN_TAGGED:
        return None
    # Answers only: prompts grow with every honest conversation (see judge_loop).
    larger = min(facts.longer_answers, 2.0 * facts.louder_answers)
    familiar = familiarity(facts)
    larger *= 0.5 + 0.5 * familiar
    if larger < 2.5 or not familiar:
        return None
    score = ramp(log(larger), log(1.2), log(4.0))
    return Signal(
        "cost_spike",
        score,
        behaviour=larger >= 4.0,
        reasons=(
            (
                f"Answers are {facts.longer_answers:.1f} times as long as usual, and"
                f" {facts.louder_answers:.1f} times as long as the longest before."
            ),
            f"{facts.spoken:,} tokens were generated in the last minutes.",
        ),
        page_worthy=larger >= 4.0 and facts.spoken >= SPOKEN_LONG,
    )


def judge_volume(facts: Facts) -> Signal | None:
    """More than ever, and nothing sharper to say about it."""
    if facts.backed or facts.outage or facts.surge:
        return None
    if (spike := _spike(facts)) is not None:
        return spike
    if facts.cold or (facts.requests < 100 and facts.tokens < FEW_TOKENS):
        return None
    own = facts.known and facts.windows >= SEASONED
    score = excess(facts) if own else 0.5 * excess(facts)
    # What it did within the week it may do again, at whatever hour.
    more = facts.requests > 2.0 * facts.most_requests
    more = more or facts.tokens > 2.0 * facts.most_tokens
    if score <= 0.0 or (facts.known and not more):
        return None
    if facts.requests < facts.service_requests and facts.tokens < facts.service_tokens:
        return None
    spending = facts.token_score > facts.request_score + 1.5
    cls: AttackClass = "cost_spike" if spending else "volume"
    # What several others do now and then, a job, is tagged and not told.
    alert = (
        facts.requests > 3.0 * facts.service_requests
        or facts.tokens > 3.0 * facts.service_tokens
    )
    if not alert:
        score = min(score, 3.9)
    return Signal(cls, score, False, (how_much_more(facts),), alert)


def _spike(facts: Facts) -> Signal | None:
    """A client that is there all day, and suddenly makes several times the most of its
    week: there is nothing that others do to hold it against.
    """
    if facts.steady < STEADY or facts.windows < STEADY_WINDOWS:
        return None
    fold = 0.0
    for seen, most, weight in (
        (facts.requests, facts.most_requests, SPIKE_REQUESTS),
        (facts.tokens, facts.most_tokens, SPIKE_TOKENS),
    ):
        if seen >= weight:
            fold = max(fold, seen / max(1.0, most))
    score = max(facts.request_score, facts.token_score)
    if fold < SPIKE_TIMES or score < FULL:
        return None
    costs = facts.token_score >= FULL and facts.tokens >= SPIKE_TOKENS
    reasons = (
        (
            f"{facts.requests:,} requests and {facts.tokens:,} tokens in the window:"
            f" {fold:.1f} times the most of its last week."
        ),
        "It is there all day, and this is not what it does.",
    )
    return Signal("cost_spike" if costs else "volume", score, False, reasons)


def judge_newcomer(facts: Facts) -> Signal | None:
    """A newcomer far beyond what its peers do in these very minutes."""
    if facts.known or facts.backed or facts.outage:
        return None
    if facts.kind == "user" and facts.company >= MANY_HANDS:
        return None
    if not facts.cold and facts.concurrent_score < FULL:
        return None  # later on newcomers are busy at times: first jobs, evaluations
    share = max(facts.alike, facts.templated)
    job = share >= 0.5
    if job and facts.repetition_run < 1.5 * facts.most_repetition_run:
        return None  # its own runs are as long
    # Many requests are many tokens: sizes say more only where they are clearly beyond.
    few = facts.requests < 5 or facts.concurrent_size <= facts.concurrent_score + 1.0
    if not few and not (job and facts.concurrent_score >= 3.0):
        return _oversized(facts)
    reason = (
        f"{facts.requests_m:.0f} requests in a minute;"
        f" its peers send {facts.concurrent_m:.1f} on average right now."
    )
    # One comparison by one number: there is nothing to pay TRIALS for.
    score = facts.concurrent_score + TRIALS
    reasons: tuple[str, ...] = (reason,)
    if job:
        reasons += (f"{100 * share:.0f} % of its recent prompts follow few templates.",)
    cls: AttackClass = "scraping" if job else "volume"
    hurried = job and facts.early and facts.requests_m >= HURRIED_M
    if facts.requests_m < job_m(facts) and not hurried:
        score = min(score, 3.9 + TRIALS)  # a person's job may be as large: told only
    # Somebody's first job is as large every day, until it is larger than those.
    small = facts.requests_m < job_m(facts) and facts.requests < RUN_LONG
    mild = small and not facts.early
    alert = _beyond_others(facts)
    return Signal(cls, score, False, reasons, alert, sudden=True, informational=mild)


def _beyond_others(facts: Facts) -> bool:
    """Whether nobody did as much in the last days, as far as that is known."""
    # Somebody's first job is beyond others every day, if it fills a template in; and
    # everybody's is on the first day.
    if max(facts.alike, facts.templated) >= 0.5:
        if facts.requests_m < job_m(facts) and facts.requests < RUN_LONG:
            return False
    elif facts.cold or facts.requests_m < job_m(facts):
        # Fewer are enough to be told of where nobody comes near it; and after a while,
        # when the first jobs of the day come, more are needed.
        hasty = facts.early and facts.concurrent_score >= TOWERING
        if facts.requests < (HASTY if hasty else RUN_LARGE):
            return False
    return facts.requests_m > facts.service_m or facts.tokens > facts.service_tokens


def _oversized(facts: Facts) -> Signal:
    """Tokens far beyond what its peers use in these very minutes."""
    reason = f"{facts.tokens:,} tokens in the window, far more than its peers use."
    score = facts.concurrent_size + TRIALS
    return Signal("cost_spike", score, False, (reason,), _beyond_others(facts))
