"""The retry schedule, ``Retry-After`` and the circuit breaker of a receiver."""

from __future__ import annotations

from gateway.alerts.retry import Breaker, next_attempt, parse_retry_after

NOW = 1_767_600_000.0


def test_the_next_attempt_follows_the_schedule():
    """The next attempt follows the schedule with jitter and ``Retry-After``; after its
    last entry there is none.
    """
    schedule = (5.0, 300.0)
    assert next_attempt(1, NOW, 0.0, 0.0, schedule) == NOW + 5.0
    assert next_attempt(1, NOW, 60.0, 0.0, schedule) == NOW + 60.0
    assert next_attempt(2, NOW, 0.0, 0.5, schedule) == NOW + 315.0
    assert next_attempt(3, NOW, 0.0, 0.0, schedule) is None
    assert parse_retry_after("120", NOW) == 120.0
    assert parse_retry_after("Mon, 05 Jan 2026 08:01:40 GMT", NOW) == 100.0
    assert parse_retry_after("soon", NOW) == 0.0


def test_the_breaker_opens_after_three_failures():
    """The breaker opens after three failures and closes at the first success."""
    breaker = Breaker()
    for _ in range(2):
        breaker.failed(NOW, 0.0)
    assert not breaker.is_open(NOW)
    breaker.failed(NOW, 0.0)
    assert (breaker.is_open(NOW + 4), breaker.is_open(NOW + 5)) == (True, False)
    breaker.succeeded()
    assert not breaker.is_open(NOW)
