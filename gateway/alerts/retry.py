"""Retries: the schedule, ``Retry-After``, and a circuit breaker per receiver."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

HOUR = 3600.0
# Recommended by Standard Webhooks: ten attempts over three days.
SCHEDULE_S = (
    5.0, 300.0, 1800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR,
)  # fmt: skip
JITTER = 0.1
# Upper bound of a receiver's ``Retry-After``, in seconds.
LONGEST_S = 24 * HOUR
# Consecutive failures that open the breaker, and the pauses of the first, second, …
# failure from then on, in seconds.
BREAK_AFTER = 3
_BREAK_S = (5.0, 10.0, 20.0, 40.0, 60.0)


def next_attempt(
    attempts: int, now: float, asked_s: float, chance: float, schedule: Sequence[float]
) -> float | None:
    """Time of the next attempt after ``attempts`` failures; None: give up, the alert is a
    dead letter.

    ``asked_s``: the receiver's ``Retry-After``. ``chance``: uniform in [0, 1), jitter.
    """
    if attempts > len(schedule):
        return None
    wait_s = schedule[attempts - 1] * (1.0 + JITTER * chance)
    return now + max(wait_s, min(asked_s, LONGEST_S))


def parse_retry_after(value: str, now: float) -> float:
    """Seconds of a ``Retry-After`` header (RFC 9110, 10.2.3); 0 if unusable."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_S)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, until - now), LONGEST_S)


class Breaker:
    """Circuit breaker: pauses delivery to a failing receiver, so that waiting messages
    do not use up their attempts. After the pause one message is tried.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.open_until = 0.0
        self._failed_at = 0.0

    def is_open(self, now: float) -> bool:
        """Whether to send nothing now. A clock that was set back closes it."""
        return self._failed_at <= now < self.open_until

    def succeeded(self) -> None:
        """Record a success: close the breaker."""
        self.failures, self.open_until = 0, 0.0

    def failed(self, now: float, asked_s: float) -> None:
        """Record a failure; ``asked_s``: the receiver's ``Retry-After``."""
        self.failures += 1
        self._failed_at = now
        pause_s = asked_s
        if self.failures >= BREAK_AFTER:
            step = min(self.failures - BREAK_AFTER, len(_BREAK_S) - 1)
            pause_s = max(asked_s, _BREAK_S[step])
        self.open_until = max(self.open_until, now + pause_s)
