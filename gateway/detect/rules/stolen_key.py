"""Rule for stolen keys: networks, models and hours that are new to a key."""

# ruff: noqa: PLR2004 - the thresholds of a rule are read best where they stand

from __future__ import annotations

from collections.abc import Iterator
from math import log

from gateway.detect.rules.facts import (
    Facts,
    Signal,
    count_score,
    excess,
    familiarity,
    how_much_more,
)
from gateway.detect.score import MOST
from gateway.detect.subject import FAN_OUT, LITTLE_NOVELTY

# Networks from which a new key is in too many hands.
SHARED_NETWORKS = 8
# A key with so many networks roams: where it comes from says nothing. One that met so
# many new ones within an hour before may do so again.
ROAMING = 44
ROAMS = 3.0
# Requests from networks that abused a key before.
SUSPICIOUS = 2
# Evidence of a stolen key: nats for each sigma.
NATS = 2.4
# What an hour at which a key was never used adds to that.
ODD_NATS = 1.5
# New networks within an hour that weigh enough by themselves.
MANY_NETWORKS = 8
# New networks within an hour that a settled key never had, and goings back and forth
# from which it is used in several places at once.
SETTLED = 1.0
SPLIT = 12.0
# Networks of a key on its first day, from before the last hour.
FEW_NETWORKS = 3


def judge_key(facts: Facts) -> Signal | None:
    """A known key in strange hands: new networks, and other news besides.

    Each kind of news is a count against the most that was usual; what else is new
    (models, endpoints, prompts, volume, coming and going between networks) counts up
    to twice what the networks say, because news come together when a customer moves.
    """
    roams = max(facts.company - facts.new_networks, facts.most_new_networks) >= ROAMING
    if facts.kind != "user" or roams:
        return None
    if facts.outage and facts.new_networks < MANY_NETWORKS:
        return None  # what is tried again may go out another way
    if facts.suspicious >= SUSPICIOUS and facts.most_new_networks < ROAMS:
        return _still_stolen(facts)
    if not facts.known and facts.older > FEW_NETWORKS:
        return None  # it roams; what is usual can be said after its first day
    familiar = familiarity(facts)
    if not familiar:
        return _shared(facts)
    if facts.new_networks < LITTLE_NOVELTY or not facts.newcomers:
        return None
    # What happened once at most is not to be expected every hour; and who roams may
    # roam farther.
    part = 0.5 if facts.most_new_networks < ROAMS else 2.0
    # Of who came today little is known: more of everything is to be expected.
    least = 0.3 / (familiar * familiar)
    places = _nats(facts.new_networks, max(least, part * facts.most_new_networks))
    news, supported = _other_novelty(facts, least)
    # A key that never left its place is in two places at once: no move looks like that.
    split = (
        facts.most_new_networks < SETTLED
        and facts.alternations >= SPLIT + 2.0 * facts.most_alternations
    )
    score = min(MOST, (places + min(news, (4.0 if split else 2.0) * places)) / NATS)
    supported = supported and (split or facts.new_networks >= 2.5)
    if not facts.known and not supported and facts.new_networks < MANY_NETWORKS:
        return None
    many = facts.new_networks >= MANY_NETWORKS and facts.most_new_networks < ROAMS
    # Nobody moves to so many places within an hour.
    supported = supported or (many and facts.new_networks >= 2.0 * MANY_NETWORKS)
    if not supported:  # a customer who moves: tagged, and told when it is much
        score = min(score, 4.3)
    return Signal(
        "credential_abuse",
        score,
        behaviour=True,
        reasons=tuple(_strange_hands(facts)),
        page_worthy=score >= 4.0 and (supported or many),
    )


def _other_novelty(facts: Facts, least: float) -> tuple[float, bool]:
    """Nats of what else is new of a key, and whether it supports the rest."""
    news = _nats(facts.new_models, max(least, 0.5 * facts.most_new_models))
    supported = news >= 2.0
    news += _nats(facts.alternations, max(1.0, facts.most_alternations))
    if facts.odd:  # as of who travels, too: no support by itself
        news += ODD_NATS
    if facts.usual_alike >= 0.5 and facts.alike <= 0.5 * facts.usual_alike:
        news, supported = news + 3.0, True
    if excess(facts) >= 3.0 or facts.peer_score >= 3.0:
        news, supported = news + excess(facts), True
    return news, supported


def _strange_hands(facts: Facts) -> Iterator[str]:
    yield (
        f"The key came from {facts.new_networks:.0f} networks within an hour that it was never"
        f" used from before (usual: at most {facts.most_new_networks:.0f})."
    )
    if facts.new_models >= 0.5:
        yield f"{facts.new_models:.0f} models or endpoints are new to it, too."
    if facts.odd:
        yield "At this time of day it was never used before."
    if excess(facts) >= 3.0:
        yield how_much_more(facts)


def _still_stolen(facts: Facts) -> Signal:
    """Networks from which a key was abused use it again."""
    score = 6.0 + min(4.0, facts.suspicious / 10.0)
    reason = "Networks from which the key was abused go on using it."
    return Signal("credential_abuse", score, behaviour=True, reasons=(reason,))


def _nats(seen: float, usual: float) -> float:
    """How surprising a count is where so much is usual (Chernoff's bound)."""
    if seen <= usual:
        return 0.0
    return seen * log(seen / usual) - (seen - usual)


def _shared(facts: Facts) -> Signal | None:
    """A key nobody knew yet, in many hands at once and far busier than its peers."""
    if facts.cold:
        return _fanned_out(facts)
    if facts.newcomers < SHARED_NETWORKS or max(facts.alike, facts.templated) > 0.3:
        return None
    reason = f"A new key is used from {facts.newcomers} networks at once."
    score = min(count_score(facts.newcomers, 2.0), facts.peer_score)
    return Signal("credential_abuse", score, True, (reason, how_much_more(facts)))


def _fanned_out(facts: Facts) -> Signal | None:
    """On the first day: one key spreads over networks within minutes, others do not."""
    if facts.fan_out < FAN_OUT:
        return None
    reason = f"A key came from {facts.fan_out} new networks within two minutes."
    score = min(count_score(facts.fan_out, 1.0), max(4.6, facts.peer_score))
    return Signal("credential_abuse", score, True, (reason,))
