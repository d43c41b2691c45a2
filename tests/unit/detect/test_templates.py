"""Index of prompt templates by fingerprint."""

from __future__ import annotations

import random

from gateway.detect.templates import SOURCES, Templates

T = 1_767_607_200.0


def flip(chance: random.Random, print_: int, bits: int) -> int:
    """The fingerprint with so many bits changed."""
    for bit in chance.sample(range(64), bits):
        print_ ^= 1 << bit
    return print_


def test_members_find_their_leader():
    """A fingerprint with four changed bits finds its template, an unrelated one not."""
    chance = random.Random(1)
    templates = Templates()
    leader = templates.add(chance.getrandbits(64), T)
    for _ in range(50):
        found, bits = templates.find(flip(chance, leader.print, 4))
        assert found is leader
        assert bits == 4
    assert templates.find(chance.getrandbits(64)) == (None, 0)


def test_a_lasting_template_is_not_evicted():
    """A template of three windows is not evicted by thousands of unrelated prompts."""
    chance = random.Random(2)
    templates = Templates()
    leader = templates.add(chance.getrandbits(64), T)
    leader.windows = 3
    templates.place(leader)
    for _ in range(5000):
        templates.add(chance.getrandbits(64), T + 60)
    assert templates.find(leader.print)[0] is leader
    assert leader in templates.all()
    weaker = templates.add(leader.print ^ 1, T + 90)
    weaker.windows = 3
    templates.place(weaker)
    assert templates._lasting.count(leader) == 8


def test_a_place_of_one_long_forgotten_is_free():
    """A template without a hit for over three days is replaced."""
    templates = Templates()
    old = templates.add(7, T)
    old.windows = 9
    templates.place(old)
    new = templates.add(7, T + 4 * 86_400)
    new.windows = 3
    templates.place(new)
    assert templates.find(7)[0] is new


def test_counts_turn_with_minutes_and_windows():
    """Rates slide over two minutes, windows keep the peak, and sources are bounded."""
    template = Templates().add(5, T)
    for n in range(100):
        template.count(T + n * 0.1, f"s{n}", 2, fresh=n % 2 == 0)
    assert (template.requests, template.fresh, len(template.sources)) == (
        100,
        50,
        SOURCES,
    )
    template.count(T + 60, "s", 2, fresh=False)
    assert template.rate_m(T + 60) == 101
    assert template.rate_m(T + 90) == 51
    template.count(T + 50, "s", 2, fresh=False)
    template.count(T + 600, "s", 2, fresh=False)
    assert (template.requests, template.peak, template.windows) == (1, 102, 1)
    assert template.requests_b == 0


def test_a_flood_is_not_learned_as_usual():
    """Windows in which a template is abusive are not learned."""
    template = Templates().add(5, T)
    template.abusive_until = T + 100
    template.count(T + 1, "s", 0, fresh=True)
    template.count(T + 700, "s", 0, fresh=True)
    assert (template.peak, template.windows) == (0.0, 0)


def test_known_takes_windows_and_time():
    """A template is known after three windows and over an hour."""
    template = Templates().add(5, T)
    template.windows = 3
    assert not template.known(T + 3600)
    assert template.known(T + 4 * 3600)


def test_a_flooded_template_is_not_evicted():
    """A template is not evicted while it is flooded; afterwards a lasting one replaces
    it.
    """
    templates = Templates()
    flooded = templates.add(7, T)
    flooded.abusive_until = T + 600
    templates.place(flooded)
    lasting = templates.add(7 ^ 1, T + 5)
    lasting.windows = 9
    templates.place(lasting)
    assert templates._lasting.count(flooded) == 8
    lasting.last = T + 700
    templates.place(lasting)
    assert templates._lasting.count(lasting) == 8


def test_sources_are_estimated_from_repetitions():
    """The number of sources is estimated from repetitions: hundreds with one in thirty
    prompts, about fifteen with half.
    """
    templates = Templates()
    many, few = templates.add(1, T), templates.add(2**60, T)
    for n in range(30):
        many.count(T, f"s{n % 29}", 0, fresh=True)
        few.count(T, f"s{n % 15}", 0, fresh=True, refused=True)
    assert 150 < many.crowd() < 400
    assert 14.0 < few.crowd() < 25.0
    assert templates.add(5, T).crowd() == 0.0
    assert (many.refused, few.refused) == (0, 30)


def test_members_are_seen_first_with_or_after_the_template():
    """Clients first seen at most 60 s before a template are members for hours, other
    newcomers for half an hour.
    """
    template = Templates().add(1, T)
    assert template.brought(T - 30, T + 7200)
    assert not template.brought(T - 90, T + 60)
    assert not template.brought(T, T + 7 * 3600)
    assert template.fresh_to(T - 90, T + 60)
    assert not template.fresh_to(T - 90, T + 3600)


def test_flooded_templates_are_found_without_the_others():
    """``flooded`` lists the templates flooded at that time by age."""
    templates = Templates()
    for n in range(3000):
        one = templates.add(n * 0x9E37_79B9_7F4A_7C15 % 2**64, T + n)
        if n % 1000 == 0:
            one.abusive_until = T + 9e6 if n else T
            templates.place(one)
    found = [one for one in templates.all() if one.abusive_until > T + 5000]
    assert templates.flooded(T + 5000) == found
    assert [one.born for one in found] == [T + 1000, T + 2000]
