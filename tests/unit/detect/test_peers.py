"""Comparison of a subject with its concurrent peer group."""

from __future__ import annotations

import random

import pytest

from gateway.detect.peers import COUNTED, ConcurrentPeers


def started() -> ConcurrentPeers:
    """A peer group at the start of a minute."""
    live = ConcurrentPeers()
    live.turn(1)
    return live


def peopled(minutes: int = 3, clients: int = 40, most: int = 6) -> ConcurrentPeers:
    """A peer group of clients with one to ``most`` requests a minute of about 500
    tokens.
    """
    chance = random.Random(1)
    live = started()
    for _ in range(minutes):
        for n in range(clients):
            for _ in range(chance.randint(1, most)):
                live.count(f"c{n}", chance.randint(200, 1000))
        live.turn(1)
    return live


def test_scores_grow_with_the_multiple_of_the_mean():
    """The busiest peers score 0, seven times the mean is a warning, thirty times is
    critical.
    """
    live = peopled()
    assert 3.0 < live.mean < 4.0
    assert live.score(7.0) == 0.0
    assert live.score(11.0) < 3.0 < live.score(7 * live.mean) < 5.0
    assert 5.0 < live.score(30 * live.mean) < 7.0


def test_without_peers_every_score_is_zero():
    """Without peers, or with two, every score is 0."""
    for live in (ConcurrentPeers(), peopled(clients=2)):
        assert live.silent
        assert (live.score(900.0), live.size_score("x", 0.0)) == (0.0, 0.0)


def test_few_peers_need_a_larger_excess():
    """With few peers, or after one minute of them, a score needs a larger excess."""
    for live in (peopled(clients=9), peopled(minutes=1, clients=12)):
        assert live.silent
        assert live.score(39.0) == 0.0
        assert live.score(900.0) >= 5.0
        assert live.size_score("x", 0.0) == 0.0
    assert peopled(minutes=1, clients=12).score(42.0) < peopled().score(42.0)


def test_in_the_first_minute_others_so_far_are_the_peers():
    """In the first minute ``early_score`` compares with the others so far; later it is
    0.
    """
    live = ConcurrentPeers()
    for n in range(12):
        live.count(f"c{n}", 500, 1 + n % 2)
    live.count("x", 500, 39)
    assert live.early_score("x") == 0.0
    live.count("x", 500, 60)
    assert live.early_score("x") >= 4.0
    assert live.early_score("c1") == 0.0
    assert live.mean_of_others("x") == 1.5
    alone = ConcurrentPeers()
    alone.count("x", 500, 400)
    assert (alone.early_score("x"), alone.mean_of_others("x")) == (0.0, 0.0)
    known = peopled()
    known.count("x", 500, 400)
    assert known.early_score("x") == 0.0
    assert known.mean_of_others("x") == known.mean


def test_uneven_peers_lower_the_score():
    """Where some peers are far busier than most, another busy one scores less."""
    live = started()
    for _ in range(5):
        for n in range(40):
            live.count(f"c{n}", 500, 2 if n % 8 else 40)
        live.turn(1)
    assert live.score(60.0) < 3.0 < peopled().score(60.0)


def test_one_odd_peer_does_not_make_the_spread():
    """One flooding peer does not widen the spread, and a subject's own history lowers
    its score.
    """
    live = started()
    for _ in range(5):
        for n in range(30):
            live.count(f"c{n}", 500, 2 + n % 2)
        live.count("flood", 500, 90)
        live.turn(1)
    assert live.score(90.0) > 5.0
    assert live.score(90.0, before=900.0, minutes=10.0) < 3.0


def test_the_spread_is_at_least_that_of_poisson():
    """The spread of perfectly regular peers is at least that of a Poisson process."""
    live = peopled(most=1)
    assert live.score(9.0) == 0.0
    assert live.score(12.0) > 3.0


def test_token_scores_are_logarithmic():
    """Token counts are compared by logarithm, also across the turn of a minute."""
    live = peopled()
    for n in range(20):
        live.count(f"c{n}", 700)
    live.count("big", 80_000)
    assert live.size_score("c1", 0.5) < 1.0
    assert live.size_score("big", 0.5) > 3.0
    live.turn(1)
    assert live.size_score("big", 0.1) > 3.0 > live.size_score("big", 1.0)


def test_flagged_subjects_are_no_peers_until_a_pause():
    """Flagged subjects are not learned; a minute without requests clears the flags."""
    live = peopled()
    mean = live.mean
    live.loud.add("flood")
    live.count("flood", 500, 5000)
    live.turn(1)
    assert live.peers == 0
    assert live.mean == mean
    live.turn(3)
    assert live.loud == set()


def test_partial_minutes_are_not_learned():
    """A minute that began in its middle or after a pause is not learned."""
    live = ConcurrentPeers()
    for minutes in (1, 7, 1):
        for n in range(40):
            live.count(f"c{n}", 500)
        live.turn(minutes)
    assert live.mean == 1.0
    assert live.peers == 40
    live.counts = {"c": 99}
    live.turn(1)
    assert live.mean > 1.0


@pytest.mark.parametrize("minutes", [1, 50_000])
def test_counting_is_bounded(minutes):
    """At most ``COUNTED`` subjects are counted a minute, and any pause is accepted."""
    live = ConcurrentPeers()
    for n in range(2 * COUNTED):
        live.count(f"c{n}", 0)
    assert len(live.counts) == COUNTED
    live.turn(minutes)
    live.turn(minutes)
    assert live.counts == {}
