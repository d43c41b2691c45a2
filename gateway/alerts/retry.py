"""When to try again: the schedule, ``Retry-After``, and a breaker for each receiver."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

HOUR = 3600.0
# Standard Webhooks' recommendation: ten attempts over three days.
SCHEDULE_S = (
    5.0, 300.0, 1800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR,
)  # fmt: skip
JITTER = 0.1
# A receiver that asks for more than this is not obeyed further.
LONGEST_S = 24 * HOUR
# Failures in a row after which the receiver is left alone, and for how long.
BREAK_AFTER = 3
_BREAK_S = (5.0, 10.0, 20.0, 40.0, 60.0)


def next_attempt(
    attempts: int, now: float, asked_s: float, chance: float, schedule: Sequence[float]
) -> float | None:
    """When to try again after ``attempts`` failures; None: never. ``chance`` is from
    [0, 1), ``asked_s`` what the receiver asked for.
    """
    if attempts > len(schedule):
        return None
    wait_s = schedule[attempts - 1] * (1.0 + JITTER * chance)
    return now + max(wait_s, min(asked_s, LONGEST_S))


def parse_retry_after(value: str, now: float) -> float:
    """Seconds of a ``Retry-After`` header; 0 when it says nothing."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_S)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, until - now), LONGEST_S)


class Breaker:
    """Leaves a receiver that only fails alone for a while, so that what waits is not
    worn out on it. After a pause one message tries.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.open_until = 0.0
        self._failed_at = 0.0

    def is_open(self, now: float) -> bool:
        """Whether nothing is to be sent now; a clock that was set back closes it."""
        return self._failed_at <= now < self.open_until

    def succeeded(self) -> None:
        """It answers."""
        self.failures, self.open_until = 0, 0.0

    def failed(self, now: float, asked_s: float) -> None:
        """It does not, or asks for ``asked_s`` seconds of peace."""
        self.failures += 1
        self._failed_at = now
        pause_s = asked_s
        if self.failures >= BREAK_AFTER:
            step = min(self.failures - BREAK_AFTER, len(_BREAK_S) - 1)
            pause_s = max(asked_s, _BREAK_S[step])
        self.open_until = max(self.open_until, now + pause_s)
