"""The upper baseline of a subject's windows."""

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


def learned(days: float, count: float = 100.0) -> UpperBaseline:
    """A baseline that learned the same count in every window."""
    baseline = new_upper_baseline(600, 10.0)
    for index in range(int(days * DAY)):
        baseline.learn(index, count)
    return baseline


def test_a_steady_subject_is_expected_to_stay():
    """For a steady subject the level is its count, with the least spread."""
    baseline = learned(8)
    expected = baseline.expect(8 * DAY)
    assert baseline.count(expected.level) == pytest.approx(100, rel=0.05)
    assert expected.spread == LEAST_SPREAD
    assert baseline.age == 8 * DAY
    assert baseline.most() == pytest.approx(100, rel=0.05)


def test_nothing_learned_expects_nothing():
    """A new baseline has level 0 and a wide spread."""
    baseline = new_upper_baseline(600, 10.0)
    assert baseline.age == 0
    assert baseline.expect(5) == baseline.expect(5)
    assert baseline.expect(5).level == 0.0
    assert baseline.expect(5).spread == YOUNG_SPREAD


def test_a_nightly_job_is_expected_at_its_hour():
    """A nightly job is expected at its hour and not at noon."""
    baseline = new_upper_baseline(600, 10.0)
    for index in range(6 * DAY):
        baseline.learn(index, 500.0 if index % DAY in {12, 13} else 0.0)
    night = baseline.expect(6 * DAY + 12).level
    assert baseline.count(night) == pytest.approx(500, rel=0.1)
    assert baseline.count(baseline.expect(6 * DAY + 72).level) < 5


def test_an_odd_hour_is_one_at_which_nothing_ever_happens():
    """After days of history an hour without any earlier request, half an hour around
    included, is odd.
    """
    baseline = new_upper_baseline(600, 10.0)
    for index in range(4 * DAY):
        baseline.learn(index, 50 if 54 <= index % DAY < 108 else 0)
        if index == 2 * DAY:
            assert not baseline.is_odd(index + 1)
    assert baseline.is_odd(4 * DAY + 20)
    assert not baseline.is_odd(4 * DAY + 52)
    assert not baseline.is_odd(4 * DAY + 80)
    assert not new_upper_baseline(600, 10.0).is_odd(5)


def test_a_single_flood_does_not_become_usual():
    """A judged flood is not expected the next day."""
    baseline = learned(7)
    for index in range(7 * DAY, 7 * DAY + 3):
        baseline.learn(index, 5000.0, judged=True)
    for index in range(7 * DAY + 3, 8 * DAY):
        baseline.learn(index, 100.0)
    assert baseline.count(baseline.expect(8 * DAY).level) < 130


def test_the_level_shift_decays():
    """After a jump the level is higher, and hours later it is not."""
    baseline = learned(7)
    calm = baseline.expect(7 * DAY).level
    baseline.learn(7 * DAY, 1000.0)
    after = baseline.expect(7 * DAY + 1).level
    assert after > calm + 2.0
    for index in range(7 * DAY + 1, 7 * DAY + 60):
        baseline.learn(index, 100.0)
    assert baseline.expect(7 * DAY + 60).level < calm + 0.3


def test_the_level_shift_of_a_young_baseline_is_bounded():
    """In a baseline of one day the level shift is bounded."""
    baseline = learned(1)
    calm = baseline.expect(DAY).level
    baseline.learn(DAY, 100_000.0)
    assert baseline.level_shift == 1.0
    assert baseline.expect(DAY + 1).level <= calm + 8
    assert baseline.spread <= YOUNG_SPREAD


def test_silence_counts_as_empty_windows():
    """Windows without requests count as zero, also a gap longer than the ring."""
    baseline = learned(2)
    before = baseline.expect(2 * DAY).level
    assert baseline.expect(2 * DAY + 40).level < before
    baseline.learn(30 * DAY, 100.0)
    assert sum(level > 0 for level in baseline.levels) == 1
    assert baseline.last == 30 * DAY


def test_wild_subjects_get_a_wide_spread():
    """The spread of a variable subject is wider."""
    chance = random.Random(5)
    baseline = new_upper_baseline(600, 10.0)
    for index in range(7 * DAY):
        baseline.learn(index, 10.0 * 60 ** chance.random() ** 4)
    assert baseline.expect(7 * DAY).spread >= LEAST_SPREAD
    for index in range(7 * DAY, 8 * DAY):
        baseline.learn(index, 3000.0 if index % 16 == 0 else 0.0)
    assert baseline.expect(8 * DAY).spread > LEAST_SPREAD


def test_a_saved_baseline_is_equal():
    """A baseline encoded in MessagePack and decoded is equal."""
    baseline = learned(3)
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(baseline), type=UpperBaseline)
    assert copy == baseline
    assert copy.expect(3 * DAY) == baseline.expect(3 * DAY)


@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.sampled_from([0, 3, 40, 900])), max_size=60
    )
)
def test_the_highest_count_is_that_of_the_week(counts):
    """``most`` is the highest count of the ring after any sequence."""
    baseline = new_upper_baseline(600.0, 10.0)
    at = 0
    for step, count in counts:
        at += step
        baseline.learn(at, count)
        assert baseline.most() == baseline.count(max(baseline.levels) / LEVEL_STEPS)


def test_the_highest_count_is_forgotten_after_a_week():
    """A count is no longer in ``most`` after a week."""
    baseline = new_upper_baseline(600.0, 10.0)
    for index in range(7 * DAY + 1):
        baseline.learn(index, 0 if index else 900)
        most = baseline.most()
    assert most == 0


def test_steadiness_is_the_share_of_the_last_days_windows():
    """Steadiness is the share of non-empty windows of the last day; without history it
    is 0.
    """
    baseline = new_upper_baseline(600.0, 10.0)
    assert baseline.steadiness() == 0.0
    for n in range(100):
        baseline.learn(n, 50.0 * (n % 4 > 0))
    assert baseline.steadiness() == 0.75
    for n in range(100, 244):
        baseline.learn(n, 50.0)
    assert baseline.steadiness() == 1.0
    assert not baseline.leaps(100.0)
    assert baseline.leaps(150.0)
