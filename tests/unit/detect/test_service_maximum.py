"""The highest values of a service's subjects."""

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


def test_the_maximum_is_that_of_the_third_subject():
    """The maximum is the value of the third highest subject; each counts once."""
    maximum = ServiceMaximum()
    for n in range(RANK - 1):
        maximum.learn(f"s{n}", 1000.0)
        maximum.learn(f"s{n}", 2000.0)
    maximum.refresh(T, 10)
    assert maximum.usual == 0
    maximum.learn("other", 50.0)
    maximum.refresh(T, 10)
    assert maximum.usual == 50


def test_the_rank_grows_with_the_subjects():
    """One in a thousand subjects may exceed the maximum; a bounded number is held."""
    maximum = ServiceMaximum()
    for n in range(3 * HELD):
        maximum.learn(f"s{n}", float(n + 1))
    assert len(maximum.now) == HELD
    maximum.learn("low", 2.0)
    assert "low" not in maximum.now
    maximum.refresh(T, 10_000)
    assert maximum.usual == 3 * HELD - 9
    maximum.refresh(T, 10**9)
    assert maximum.usual == 2 * HELD + 1


def test_values_expire_after_two_spans():
    """Values count for one to two spans."""
    maximum = ServiceMaximum()
    for n in range(RANK):
        maximum.learn(f"s{n}", 100.0)
    maximum.refresh(T, 10)
    maximum.refresh(T + SPAN_S + 1, 10)
    assert maximum.usual == 100
    maximum.learn("s1", 5.0)
    maximum.refresh(T + 2 * SPAN_S + 2, 10)
    assert maximum.usual == 0


def test_meters():
    """There is one maximum for each meter."""
    assert tuple(new_service_maxima()) == METERS
