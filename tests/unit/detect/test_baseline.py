"""The envelope of a subject's windows."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect.baseline import (
    LEAST_SPREAD,
    LEVEL_STEPS,
    YOUNG_SPREAD,
    UpperBaseline,
    new_upper_baseline,
)

DAY = 144


def grown(days: float, count: float = 100.0) -> UpperBaseline:
    """An envelope that saw the same count in every window."""
    envelope = new_upper_baseline(600, 10.0)
    for index in range(int(days * DAY)):
        envelope.learn(index, count)
    return envelope


def test_a_steady_subject_is_expected_to_stay():
    """The level is the count itself, the spread the least there is."""
    envelope = grown(8)
    expected = envelope.expect(8 * DAY)
    assert envelope.count(expected.level) == pytest.approx(100, rel=0.05)
    assert expected.spread == LEAST_SPREAD
    assert envelope.age == 8 * DAY
    assert envelope.most() == pytest.approx(100, rel=0.05)


def test_nothing_learned_expects_nothing():
    """A new envelope is wide and empty."""
    envelope = new_upper_baseline(600, 10.0)
    assert envelope.age == 0
    assert envelope.expect(5) == envelope.expect(5)
    assert envelope.expect(5).level == 0.0
    assert envelope.expect(5).spread == YOUNG_SPREAD


def test_a_nightly_job_is_expected_at_its_hour():
    """What came every night is no surprise the next night, but is one at noon."""
    envelope = new_upper_baseline(600, 10.0)
    for index in range(6 * DAY):
        envelope.learn(index, 500.0 if index % DAY in {12, 13} else 0.0)
    night = envelope.expect(6 * DAY + 12).level
    assert envelope.count(night) == pytest.approx(500, rel=0.1)
    assert envelope.count(envelope.expect(6 * DAY + 72).level) < 5


def test_an_odd_hour_is_one_at_which_nothing_ever_happens():
    """Told after days, and about the time of day: half an hour more or less is not odd."""
    envelope = new_upper_baseline(600, 10.0)
    for index in range(4 * DAY):
        envelope.learn(index, 50 if 54 <= index % DAY < 108 else 0)
        if index == 2 * DAY:
            assert not envelope.is_odd(index + 1)
    assert envelope.is_odd(4 * DAY + 20)
    assert not envelope.is_odd(4 * DAY + 52)
    assert not envelope.is_odd(4 * DAY + 80)
    assert not new_upper_baseline(600, 10.0).is_odd(5)


def test_a_single_flood_does_not_become_usual():
    """One day's flood is not expected the next day at the same time."""
    envelope = grown(7)
    for index in range(7 * DAY, 7 * DAY + 3):
        envelope.learn(index, 5000.0, judged=True)
    for index in range(7 * DAY + 3, 8 * DAY):
        envelope.learn(index, 100.0)
    assert envelope.count(envelope.expect(8 * DAY).level) < 130


def test_a_jump_echoes_and_fades():
    """Right after a jump another is expected; hours later not."""
    envelope = grown(7)
    calm = envelope.expect(7 * DAY).level
    envelope.learn(7 * DAY, 1000.0)
    after = envelope.expect(7 * DAY + 1).level
    assert after > calm + 2.0
    for index in range(7 * DAY + 1, 7 * DAY + 60):
        envelope.learn(index, 100.0)
    assert envelope.expect(7 * DAY + 60).level < calm + 0.3


def test_a_young_jump_echoes_little():
    """What a subject of one day does next is not expected to grow without bound."""
    envelope = grown(1)
    calm = envelope.expect(DAY).level
    envelope.learn(DAY, 100_000.0)
    assert envelope.level_shift == 1.0
    assert envelope.expect(DAY + 1).level <= calm + 8
    assert envelope.spread <= YOUNG_SPREAD


def test_silence_counts_as_empty_windows():
    """A gap is filled with zeros, even one longer than the ring."""
    envelope = grown(2)
    before = envelope.expect(2 * DAY).level
    assert envelope.expect(2 * DAY + 40).level < before
    envelope.learn(30 * DAY, 100.0)
    assert sum(level > 0 for level in envelope.levels) == 1
    assert envelope.last == 30 * DAY


def test_wild_subjects_get_a_wide_spread():
    """The spread comes from the subject's own surprises."""
    chance = random.Random(5)
    envelope = new_upper_baseline(600, 10.0)
    for index in range(7 * DAY):
        envelope.learn(index, 10.0 * 60 ** chance.random() ** 4)
    assert envelope.expect(7 * DAY).spread >= LEAST_SPREAD
    for index in range(7 * DAY, 8 * DAY):
        envelope.learn(index, 3000.0 if index % 16 == 0 else 0.0)
    assert envelope.expect(8 * DAY).spread > LEAST_SPREAD


def test_an_envelope_survives_being_saved():
    """MessagePack and back: the same expectation."""
    envelope = grown(3)
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(envelope), type=UpperBaseline)
    assert copy == envelope
    assert copy.expect(3 * DAY) == envelope.expect(3 * DAY)


@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.sampled_from([0, 3, 40, 900])), max_size=60
    )
)
def test_the_highest_count_is_that_of_the_week(counts):
    """However it is remembered, it is the highest of what is held."""
    envelope = new_upper_baseline(600.0, 10.0)
    at = 0
    for step, count in counts:
        at += step
        envelope.learn(at, count)
        assert envelope.most() == envelope.count(max(envelope.levels) / LEVEL_STEPS)


def test_the_highest_count_is_forgotten_after_a_week():
    """With each window full, nothing but the newer one overwrites it."""
    envelope = new_upper_baseline(600.0, 10.0)
    for index in range(7 * DAY + 1):
        envelope.learn(index, 0 if index else 900)
        most = envelope.most()
    assert most == 0


def test_steadiness_is_the_share_of_the_last_days_windows():
    """Of those since it came, at most a day; nothing learned is not steady."""
    envelope = new_upper_baseline(600.0, 10.0)
    assert envelope.steadiness() == 0.0
    for n in range(100):
        envelope.learn(n, 50.0 * (n % 4 > 0))
    assert envelope.steadiness() == 0.75
    for n in range(100, 244):
        envelope.learn(n, 50.0)
    assert envelope.steadiness() == 1.0
    assert not envelope.leaps(100.0)
    assert envelope.leaps(150.0)
