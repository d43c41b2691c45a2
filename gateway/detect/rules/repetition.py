"""Rules for repetition: enumeration of a template, loops, growing contexts."""

# ruff: noqa: PLR2004 - the thresholds of a rule are read best where they stand

from __future__ import annotations

from math import exp, sqrt

from gateway.detect.rules.facts import (
    CLEAR,
    COLD_M,
    MANY_HANDS,
    Facts,
    Signal,
    excess,
    familiarity,
    folds,
    how_much_more,
    job_m,
    ramp,
)
from gateway.detect.subject import FEW_IN_A_MINUTE, FEW_REQUESTS, SAME_BITS, SHORT_RUN

# One source is a flood from so many times the tenant's own tide, requests a minute.
FLOOD_TIMES_EXPECTED = 3.0
FLOOD_M = 100.0
# New networks of a newcomer's key in ten to twenty minutes that are machines' all.
BOTNET = 20
# A newcomer is slowed or blocked for its templates from here on, before TRIALS.
SURE = 5.4
# Requests of a newcomer's run on new templates that are worth a tag: in general, and
# where slots are filled in (mean bits between alike prompts); an incident when it is
# fast, and even where nobody is known to run longer.
RUN_TAGGED = 150
RUN_FILLED = 20
RUN_FAST = 200
RUN_LONG = 1000
# Times as fast as that, whoever it is has to wait.
HURRIES = 1.8
# Clockwork: the spread of its gaps beside their mean, requests a minute and times its
# peers from which nobody but a machine asks like that; and its walk that is sure.
PACED = 0.4
PACED_CLEAR = 0.3
RUN_PACED_TAGGED = 10
PACED_M = 10.0
PACED_TIMES = 2.0
RUN_PACED = 60
RUN_PACED_SURE = 150
# Tokens of a run that repeats itself, and of one whose prompts grow: worth a tag, and
# an incident.
STILL_TAGGED = 50_000
STILL_LONG = 300_000
# Prompts of one size, by the clock, in a row.
STILL_PACED = 15.0
GROWN_TAGGED = 200_000
GROWN_LONG = 3_000_000
# Identical prompts in a row that are a loop.
LOOPED = 60
# Requests a minute from which the same prompt is hammered in, and its first score.
HAMMERS_M = 30.0
HAMMERED = 4.9
# Steps a minute that no person waits for. Times the longest prompt that it and several
# others ever sent: a context without end; and what it cost when somebody is told.
AGENT_M = 6.0
ENDLESS = 1.25
ENDLESS_FAST = 1.1
ENDLESS_LONG = 1_000_000
# Times the usual that a context has grown to be worth a tag.
GROWN_TIMES = 6.0
GROWN_DEAR = 3.5


def judge_enumeration(facts: Facts) -> Signal | None:
    """Alike prompts at a rate or for a time that stands out: a walk, or a flood."""
    if facts.backed or facts.known:
        return None
    paced = _paced(facts)
    few = facts.requests_m < FEW_IN_A_MINUTE and facts.requests < FEW_REQUESTS
    # A talk repeats itself; where slots are filled in, more of each prompt changes.
    filled = facts.templated >= 0.5 and facts.apart > SAME_BITS
    filled = filled and not facts.cold
    enough = RUN_FILLED if filled else RUN_TAGGED
    if few and facts.repetition_run < (RUN_PACED_TAGGED if paced else enough):
        return None
    if facts.cold and not _loud(facts):
        return None
    share = max(facts.alike, facts.templated)
    lasting = folds(facts.repetition_run, RUN_TAGGED) if facts.templated >= 0.5 else 0.0
    if paced:
        lasting = max(lasting, folds(facts.repetition_run, RUN_PACED))
    if paced and facts.regular <= PACED_CLEAR:
        lasting = max(
            lasting, min(CLEAR, folds(facts.repetition_run, RUN_PACED_TAGGED))
        )
    if filled:
        lasting = max(lasting, min(CLEAR, folds(facts.repetition_run, RUN_FILLED)))
    score = min(ramp(share, 0.15, 0.6), max(excess(facts), lasting))
    if score <= 0.0:
        return None
    # Evaluations and imports begin like this: it is told when it is more than those.
    fast = facts.requests_m / max(job_m(facts), 1.5 * facts.service_m)
    far = facts.repetition_run / max(RUN_LONG, facts.service_repetition_run)
    # On the first day every job is somebody's first.
    weight = (2.0 if facts.cold else 1.0) + facts.familiar
    fast = fast if facts.repetition_run >= RUN_FAST else min(fast, 0.9)
    alert = max(fast, far) >= weight
    # How long it lasts says little about who does it: twice as much is asked then.
    clear = max(fast, 0.5 * far)
    by_the_clock = paced and facts.repetition_run >= RUN_PACED_SURE
    # What was found abusive goes on until something else is asked.
    if facts.repetition_judged or by_the_clock:
        clear, alert = max(clear, weight, 2.0), True
    sure = score >= SURE and clear >= max(weight, 0.0 if facts.service_m else 1.2)
    sure = sure and (facts.templated > 0.3 or clear >= 2.0)
    if not sure:
        score = min(score, 5.0)
    elif not by_the_clock and 0.5 * far < weight and fast < HURRIES:
        score = min(score, 5.3)  # an evaluation in a hurry: slowed, and not blocked
    # Load is its point: the same over and over, or padded with whatever there is, and
    # beyond what all others send together.
    flood = facts.apart <= SAME_BITS or facts.templated < 0.85
    flood = flood and facts.expected_rate_m > 0.0
    flood = flood and facts.requests_m >= max(
        FLOOD_M, FLOOD_TIMES_EXPECTED * facts.expected_rate_m
    )
    # One key in the hands of a botnet.
    flood = flood or (facts.kind == "user" and facts.newcomers >= BOTNET)
    what = f"{100 * share:.0f} % of its recent prompts follow few templates"
    return Signal(
        "ddos" if flood else "scraping",
        score,
        behaviour=sure,
        reasons=(f"{what}, {facts.repetition_run} in a row.", how_much_more(facts)),
        page_worthy=alert,
        sudden=not alert,  # a tag need not wait; what is told has to last
    )


def _paced(facts: Facts) -> bool:
    """Whether a machine of one's own walks by the clock, far faster than others ask.
    A job that many run at once, or that sends as the answers come, is less even.
    """
    if facts.cold or facts.regular > PACED or facts.templated < 0.5:
        return False
    return facts.requests_m >= max(PACED_M, PACED_TIMES * facts.concurrent_m)


def _loud(facts: Facts) -> bool:
    """In the first day of a tenant everybody is new: only a loud one stands out, and
    neither an office's address nor a key that all share.
    """
    if facts.kind == "user" and facts.company >= MANY_HANDS:
        return False
    return facts.requests_m >= COLD_M * facts.heads


def judge_loop(facts: Facts) -> Signal | None:
    """A client sends the same again and again, or a context that only grows."""
    if (
        facts.keyed
        or facts.outage
        or facts.alike < 0.75
        or facts.repetition_run < SHORT_RUN
    ):
        return None
    bad = facts.failed + facts.denied + facts.missing + facts.rejected
    if facts.apart > 2 * SAME_BITS or bad > 0.1 * (bad + facts.ok):
        return None
    found = [one for one in (_same_size(facts), _grown(facts)) if one is not None]
    return max(found, key=lambda one: one.score) if found else None


def _same_size(facts: Facts) -> Signal | None:
    """The same, and of one size: a loop."""
    if facts.same_size < 0.8:
        return None
    own = 2.0 * facts.most_repetition_tokens
    score = folds(facts.repetition_tokens, max(STILL_TAGGED, own))
    longest = max(float(LOOPED), 2.0 * facts.most_repetition_run)
    if facts.known and facts.repetition_tokens >= STILL_TAGGED:
        # Whose work costs as much otherwise does not repeat itself as often.
        score = max(score, folds(facts.repetition_run, longest))
    # The same of one size so often in a row, whatever else it repeats at times.
    ever = max(float(LOOPED), 2.0 * facts.most_same_size_streak)
    looped = facts.same_size_streak * facts.asked if _had_other_work(facts) else 0
    if looped >= STILL_TAGGED:
        score = max(score, folds(facts.same_size_streak, ever))
    endlessly = looped >= STILL_LONG and facts.same_size_streak >= 4.0 * ever
    if not facts.known and not endlessly:
        score = min(score, max(facts.token_peer_score, 3.0 + 2.0 * familiarity(facts)))
    if looped and facts.regular <= PACED_CLEAR:
        usual = max(STILL_PACED, 2.0 * facts.most_same_size_streak)
        score = max(score, min(CLEAR, folds(facts.same_size_streak, usual)))
    reach = 0.0 if facts.known else facts.service_repetition_tokens
    alert = facts.repetition_tokens >= max(STILL_LONG, 1.5 * own, reach)
    alert = alert and facts.repetition_run >= max(
        LOOPED, 1.5 * facts.most_repetition_run
    )
    costly = facts.known and facts.repetition_tokens >= STILL_LONG
    alert = alert or (costly and facts.repetition_run >= 2.0 * longest)
    alert = alert or (looped >= STILL_LONG and facts.same_size_streak >= 2.0 * ever)
    if _hammers(facts, ever):
        alert, score = True, max(score, HAMMERED)
    if not alert:
        score = min(score, 4.9)
    return Signal("cost_spike", score, True, (_repeated(facts),), alert)


def _hammers(facts: Facts, ever: float) -> bool:
    """Whether somebody who has other work sends one prompt as fast as it can: nobody
    needs the same answer so often, however small it is.
    """
    many = (
        facts.same_size_streak >= 1.5 * ever
        and facts.repetition_run >= 1.5 * facts.most_repetition_run
    )
    many = many or facts.same_size_streak >= 3.0 * ever
    return many and facts.requests_m >= HAMMERS_M and _had_other_work(facts)


def _grown(facts: Facts) -> Signal | None:
    """Much the same, and longer each time: an agent that does not stop."""
    # Sizes of prompts scatter by a factor of e: few of them show no growth.
    growing = facts.longer_asks >= max(1.8, exp(3.0 / sqrt(max(1, facts.sized))))
    fast = facts.requests_m >= AGENT_M
    usual = max(facts.most_longest, facts.service_longest)
    beyond = facts.asked / usual if facts.service_longest and usual else 0.0
    grows = facts.asked >= 0.98 * facts.longest
    endless = grows and beyond >= (ENDLESS_FAST if fast else ENDLESS)
    if not growing and not endless:
        return None
    own = 2.0 * facts.most_repetition_tokens
    score = folds(facts.repetition_tokens, max(GROWN_TAGGED, own))
    if not facts.known:
        score = min(score, max(facts.token_peer_score, 3.0 + 2.0 * familiarity(facts)))
    long = max(GROWN_LONG, 1.5 * own, facts.service_repetition_tokens)
    # People's sessions with an agent cost as much at times, but take their time.
    alert = facts.repetition_tokens >= long and (fast or endless)
    if endless and facts.repetition_tokens >= GROWN_TAGGED:
        score = max(score, CLEAR)
        if fast and facts.repetition_tokens >= ENDLESS_LONG:
            # Slowed down at once, blocked when it has left everybody behind.
            alert, score = True, max(score, folds(beyond, ENDLESS_FAST) + 1.5)
    if not (alert or endless or _outgrown(facts)):
        return None  # as talks do
    if not alert:
        score = min(score, 4.9)
    reasons = [_repeated(facts)]
    if endless:
        reasons.append(
            f"The last one has {facts.asked:,} tokens, longer than anybody's before."
        )
    else:
        reasons.append(f"Prompts grew to {facts.longer_asks:.1f} times the usual.")
    # A newcomer's long talk may be its way of work.
    return Signal("cost_spike", score, facts.known, tuple(reasons), alert)


def _repeated(facts: Facts) -> str:
    return (
        f"{100 * facts.alike:.0f} % of its recent prompts are the same, {facts.repetition_run} in a"
        f" row with {facts.repetition_tokens:,} tokens (before: at most"
        f" {facts.most_repetition_tokens:,.0f})."
    )


def _had_other_work(facts: Facts) -> bool:
    """Whether it has been there for a while, and did not repeat itself."""
    return facts.known or (facts.familiar > 0.1 and facts.usual_alike < 0.3)


def _outgrown(facts: Facts) -> bool:
    """Whether its prompts grew as those of talks do not: many times, or some times in
    a run that costs more than any before.
    """
    if facts.longer_asks >= GROWN_TIMES:
        return True
    dear = facts.repetition_tokens >= 3.0 * facts.most_repetition_tokens > 0.0
    return facts.known and dear and facts.longer_asks >= GROWN_DEAR
