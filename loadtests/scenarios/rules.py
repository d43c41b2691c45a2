"""The plain rules that a detector has to beat: what most gateways offer or advise.

Each counts requests and tokens by minute, per client_ip and per user, and slows down
whoever is over a threshold. They differ in where the threshold comes from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import sqrt
from statistics import median

import msgspec

from loadtests.scenarios.detectors import Finding, Subject
from loadtests.scenarios.labels import Ledger
from loadtests.scenarios.rows import Row

MINUTE_S = 60.0
# A subject that was over stays slowed down for so long, and is one incident as long.
HOLD_S = 600.0
# Minutes with traffic that a subject must have shown before it has a threshold.
MINUTES_NEEDED = 20
# No threshold is lower: a handful of requests a minute is nobody's alarm.
LEAST = (20.0, 20_000.0)
# Limits per minute as the example configuration has them.
REQUESTS_LIMIT = 600.0
TOKENS_LIMIT = 200_000.0
REMEMBERED = 400
# Thresholds are worked out again every so many minutes with traffic.
LEARN_EVERY = 10


class Minutes:
    """One subject's running minute and what is kept of those before."""

    __slots__ = ("at", "limits", "requests", "seen", "tokens", "turns")

    def __init__(self) -> None:
        self.at = 0.0
        self.requests = 0.0
        self.tokens = 0.0
        self.seen: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self.limits: tuple[float, float] | None = None
        self.turns = 0


class PlainRule:
    """Counts by minute; a subclass says what is too much."""

    name = "rule"

    def __init__(self) -> None:
        self._minutes: dict[Subject, Minutes] = {}
        self._held: dict[Subject, float] = {}
        self._now = 0.0

    @classmethod
    def knowing(cls, _ledger: Ledger) -> PlainRule:
        """One for a world; plain rules are told nothing beforehand."""
        return cls()

    def threshold(self, past: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """Requests and tokens a minute from which a subject is over."""
        return (REQUESTS_LIMIT, TOKENS_LIMIT)

    def observe(self, row: Row) -> Sequence[Finding]:
        """Count for the address and the user."""
        self._now = row.ts
        found = self._count(("client_ip", row.client_ip), row)
        if row.user != "anonymous":
            found += self._count(("user", row.user), row)
        return found

    def refused(self, row: Row, *, read: bool) -> Sequence[Finding]:
        """What is refused is not counted."""
        self._now = row.ts
        return ()

    def advance(self, now: float) -> Sequence[Finding]:
        """Nothing happens by time alone."""
        self._now = now
        return ()

    def floods(self, row: Row) -> bool:
        """No rule looks at prompts."""
        return False

    def action_for(self, kind: str, id_: str, tenant: str) -> str:
        """``throttle`` while held."""
        return "throttle" if self._held.get((kind, id_), 0.0) > self._now else "allow"

    def _count(self, subject: Subject, row: Row) -> list[Finding]:
        state = self._minutes.get(subject)
        if state is None:
            state = self._minutes[subject] = Minutes()
        if row.ts - state.at >= MINUTE_S:
            self._turn(state, row.ts)
        state.requests += 1
        state.tokens += row.total_tokens
        limits = state.limits
        if limits is None or (
            state.requests <= limits[0] and state.tokens <= limits[1]
        ):
            return []
        return self._over(subject, row)

    def _turn(self, state: Minutes, now: float) -> None:
        if state.at:
            state.seen.append((state.requests, state.tokens))
        state.at = now - now % MINUTE_S
        state.requests = state.tokens = 0.0
        if state.turns % LEARN_EVERY == 0:
            state.limits = self.threshold(state.seen)
        state.turns += 1

    def _over(self, subject: Subject, row: Row) -> list[Finding]:
        held = self._held.get(subject, 0.0)
        self._held[subject] = row.ts + HOLD_S
        if held > row.ts:
            return []
        opened = Finding(
            ts=row.ts,
            type="incident.opened",
            id=f"{subject[0]}:{subject[1]}:{row.ts}",
            severity="warning",
            cls="volume",
            subject=subject,
            tenant=row.tenant,
            action="throttle",
        )
        return [opened, msgspec.structs.replace(opened, type="client.throttled")]


class FixedLimits(PlainRule):
    """The same numbers for everybody."""

    name = "fixed limits"


class MeanAndDeviation(PlainRule):
    """Mean plus three standard deviations of the subject's own minutes."""

    name = "mean + 3 sd"

    def threshold(self, past: Sequence[tuple[float, float]]) -> tuple[float, float]:
        if len(past) < MINUTES_NEEDED:
            return (REQUESTS_LIMIT, TOKENS_LIMIT)
        return (self._limit(past, 0), self._limit(past, 1))

    def _limit(self, past: Sequence[tuple[float, float]], column: int) -> float:
        values = [minute[column] for minute in past]
        mean = sum(values) / len(values)
        spread = sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return max(LEAST[column], mean + 3 * spread)


class MedianAndMad(MeanAndDeviation):
    """Median plus five median absolute deviations of the subject's own minutes."""

    name = "median + 5 MAD"

    def _limit(self, past: Sequence[tuple[float, float]], column: int) -> float:
        values = [minute[column] for minute in past]
        middle = median(values)
        spread = median(abs(v - middle) for v in values)
        return max(LEAST[column], middle + 5 * 1.4826 * spread)


RULES = (FixedLimits, MeanAndDeviation, MedianAndMad)
