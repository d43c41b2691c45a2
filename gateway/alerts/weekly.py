"""Weekly windows: on some days of the week, by local time."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Days to search: if a clock change skips a window, the next one is a week later.
_LOOK_AHEAD_DAYS = 15
_DAY = timedelta(days=1)


class WeeklyError(ValueError):
    """An invalid window; the text says why."""


class Weekly(msgspec.Struct, frozen=True):
    """From ``starts`` to ``ends`` (``HH:MM``) of ``zone`` on each of ``days``, as long
    as it is between ``first`` and ``last`` (epoch seconds; None: without end). If
    ``ends`` is not after ``starts``, the window ends on the next day.

    When clocks are set back, a window starts at the first and ends at the last of two
    equal local times, so that it has no gap. When they are set forward, a local time that
    does not exist is taken an hour later (RFC 5545).
    """

    days: tuple[str, ...]
    starts: str
    ends: str
    zone: str
    first: float = 0.0
    last: float | None = None

    def check(self) -> None:
        """Check days, times and time zone. Raises WeeklyError."""
        if not self.days or set(self.days) - set(DAYS):
            raise WeeklyError(f"days are some of {', '.join(DAYS)}")
        _time(self.starts), _time(self.ends)
        try:
            _zone(self.zone)
        except (KeyError, ValueError, OSError) as error:
            raise WeeklyError(f'"{self.zone:.60}" is not a known time zone') from error

    def window(self, now: float) -> tuple[float, float] | None:
        """Start and end (epoch seconds) of the current or next window; None if all are
        over.
        """
        zone = _zone(self.zone)
        today = datetime.fromtimestamp(max(now, self.first), zone).date()
        # Windows of earlier days may end today.
        for ahead in range(-2, _LOOK_AHEAD_DAYS):
            day = today + ahead * _DAY
            if DAYS[day.weekday()] not in self.days:
                continue
            since, until = self._on(day, zone)
            since = max(since, self.first)
            until = until if self.last is None else min(until, self.last)
            if now < until and since < until:
                return since, until
        return None

    def _on(self, day: date, zone: ZoneInfo) -> tuple[float, float]:
        """Start and end of the window that starts on ``day``, epoch seconds."""
        starts, ends = _time(self.starts), _time(self.ends)
        last = day if ends > starts else day + _DAY
        since = _instants(day, starts, zone)[0]
        until = max(_instants(last, ends, zone))
        return since, until


def _instants(day: date, at: time, zone: ZoneInfo) -> tuple[float, float]:
    """The one or two instants of a local time (equal unless clocks are set back)."""
    local = datetime.combine(day, at, zone)
    first, second = local, local.replace(fold=1)
    return first.astimezone(UTC).timestamp(), second.astimezone(UTC).timestamp()


def _time(text: str) -> time:
    hours, _, minutes = text.partition(":")
    if len(text) != len("02:00") or not (hours + minutes).isascii():
        raise WeeklyError("a time of day is HH:MM")
    try:
        return time(int(hours), int(minutes))
    except ValueError as error:
        raise WeeklyError("a time of day is HH:MM") from error


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
