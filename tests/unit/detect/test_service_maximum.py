"""What the busiest subjects of a service reach."""

from __future__ import annotations

from gateway.detect.service_maximum import (
    HELD,
    METERS,
    RANK,
    SPAN_S,
    ServiceMaximum,
    new_service_maxima,
)

T = 1_767_607_200.0


def test_one_alone_is_no_measure():
    """The third highest subject counts; each subject counts once."""
    reach = ServiceMaximum()
    for n in range(RANK - 1):
        reach.learn(f"s{n}", 1000.0)
        reach.learn(f"s{n}", 2000.0)
    reach.refresh(T, 10)
    assert reach.usual == 0
    reach.learn("other", 50.0)
    reach.refresh(T, 10)
    assert reach.usual == 50


def test_many_subjects_reach_far():
    """One in a thousand may be beyond; what is held is bounded."""
    reach = ServiceMaximum()
    for n in range(3 * HELD):
        reach.learn(f"s{n}", float(n + 1))
    assert len(reach.now) == HELD
    reach.learn("low", 2.0)
    assert "low" not in reach.now
    reach.refresh(T, 10_000)
    assert reach.usual == 3 * HELD - 9
    reach.refresh(T, 10**9)
    assert reach.usual == 2 * HELD + 1


def test_figures_are_forgotten():
    """After one span they still count, after two no more."""
    reach = ServiceMaximum()
    for n in range(RANK):
        reach.learn(f"s{n}", 100.0)
    reach.refresh(T, 10)
    reach.refresh(T + SPAN_S + 1, 10)
    assert reach.usual == 100
    reach.learn("s1", 5.0)
    reach.refresh(T + 2 * SPAN_S + 2, 10)
    assert reach.usual == 0


def test_meters():
    """One for each."""
    assert tuple(new_service_maxima()) == METERS
