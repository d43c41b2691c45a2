"""Who stands out among live peers."""

from __future__ import annotations

import random

import pytest

from gateway.detect.peers import COUNTED, ConcurrentPeers


def started() -> ConcurrentPeers:
    """At the start of a minute."""
    live = ConcurrentPeers()
    live.turn(1)
    return live


def peopled(minutes: int = 3, clients: int = 40, most: int = 6) -> ConcurrentPeers:
    """Clients that make one to ``most`` requests a minute of about 500 tokens."""
    chance = random.Random(1)
    live = started()
    for _ in range(minutes):
        for n in range(clients):
            for _ in range(chance.randint(1, most)):
                live.count(f"c{n}", chance.randint(200, 1000))
        live.turn(1)
    return live


def test_a_multiple_of_its_peers_stands_out():
    """Five times the mean is worth a warning; the busiest peers are worth nothing."""
    live = peopled()
    assert 3.0 < live.mean < 4.0
    assert live.score(7.0) == 0.0
    assert live.score(11.0) < 3.0 < live.score(7 * live.mean) < 5.0
    assert 5.0 < live.score(30 * live.mean) < 7.0


def test_without_peers_nothing_stands_out():
    """Nobody, or two: no crowd to compare with."""
    for live in (ConcurrentPeers(), peopled(clients=2)):
        assert live.silent
        assert (live.score(900.0), live.size_score("x", 0.0)) == (0.0, 0.0)


def test_among_few_it_takes_more_to_stand_out():
    """A handful of clients, or one minute of a dozen: ten times as much, and many."""
    for live in (peopled(clients=9), peopled(minutes=1, clients=12)):
        assert live.silent
        assert live.score(39.0) == 0.0
        assert live.score(900.0) >= 5.0
        assert live.size_score("x", 0.0) == 0.0
    assert peopled(minutes=1, clients=12).score(42.0) < peopled().score(42.0)


def test_in_the_first_minute_others_so_far_are_the_peers():
    """Dozens of requests where a dozen others made one or two each; later, nothing."""
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


def test_unlike_peers_let_less_stand_out():
    """Where some are far busier than most, another busy one is no surprise."""
    live = started()
    for _ in range(5):
        for n in range(40):
            live.count(f"c{n}", 500, 2 if n % 8 else 40)
        live.turn(1)
    assert live.score(60.0) < 3.0 < peopled().score(60.0)


def test_one_odd_peer_does_not_make_the_spread():
    """A single flood in the minutes learned hides no other; its history is its own."""
    live = started()
    for _ in range(5):
        for n in range(30):
            live.count(f"c{n}", 500, 2 + n % 2)
        live.count("flood", 500, 90)
        live.turn(1)
    assert live.score(90.0) > 5.0
    assert live.score(90.0, before=900.0, minutes=10.0) < 3.0


def test_regular_peers_are_no_less_than_poisson():
    """Clockwork clients: the next one up is still allowed some chance."""
    live = peopled(most=1)
    assert live.score(9.0) == 0.0
    assert live.score(12.0) > 3.0


def test_tokens_stand_out_by_their_logarithm():
    """Forty times what peers use in a minute, also across the turn of a minute."""
    live = peopled()
    for n in range(20):
        live.count(f"c{n}", 700)
    live.count("big", 80_000)
    assert live.size_score("c1", 0.5) < 1.0
    assert live.size_score("big", 0.5) > 3.0
    live.turn(1)
    assert live.size_score("big", 0.1) > 3.0 > live.size_score("big", 1.0)


def test_the_loud_are_no_peers_until_a_pause():
    """Who stands out is not learned; a minute without anybody forgets who did."""
    live = peopled()
    mean = live.mean
    live.loud.add("flood")
    live.count("flood", 500, 5000)
    live.turn(1)
    assert live.peers == 0
    assert live.mean == mean
    live.turn(3)
    assert live.loud == set()


def test_half_a_minute_says_little():
    """What began in the middle of a minute, or after a pause, is not learned."""
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
    """So many subjects of a minute, whatever comes; any pause is fine."""
    live = ConcurrentPeers()
    for n in range(2 * COUNTED):
        live.count(f"c{n}", 0)
    assert len(live.counts) == COUNTED
    live.turn(minutes)
    live.turn(minutes)
    assert live.counts == {}
