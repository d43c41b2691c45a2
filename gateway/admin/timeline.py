"""Received and expected traffic in 10-second buckets for one day.

Minutes are summed from the buckets on request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.core.model import RequestRecord

STEP_S = 10
KEPT = 86_400 // STEP_S
# Ranges up to an hour use 10-second buckets, longer ones minutes.
FINE_MINUTES = 60
DAY_MINUTES = 1440
COARSE_S = 60
SERVER_FAULT = 500
STOPPED = frozenset({"limit", "throttle", "block"})
_REFUSED = "refused"


class TrafficBucket:
    """Sums of 10 seconds. ``nanos``: 1e-9 USD; ``expected`` and ``notable``: requests
    per second, None until the seasonal baseline is known.
    """

    __slots__ = (
        "blocked", "errors", "expected", "limited", "nanos", "notable", "overhead_ms",
        "refused", "requests", "tagged", "throttled", "tokens", "would",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests = self.tokens = self.nanos = self.errors = 0
        self.refused = self.limited = self.throttled = self.tagged = 0
        self.blocked = self.would = 0
        self.overhead_ms = 0.0
        self.expected: float | None = None
        self.notable: float | None = None

    def add(self, r: RequestRecord) -> None:
        """Count a finished exchange."""
        self.requests += 1
        self.tokens += r.total_tokens
        self.nanos += r.usd_nanos
        self.overhead_ms += r.overhead_ms
        if r.outcome == _REFUSED:
            self.refused += 1
        elif r.status >= SERVER_FAULT:
            self.errors += 1
        if r.action == "allow":
            return
        if not r.would:
            self._act(r.action)
        elif r.action in STOPPED:
            self.would += 1

    def _act(self, action: str) -> None:
        if action == "limit":
            self.limited += 1
        elif action == "throttle":
            self.throttled += 1
        elif action == "block":
            self.blocked += 1
        else:
            self.tagged += 1


class TrafficTimeline:
    """Buckets by number (epoch seconds // 10), kept for a day."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._buckets: dict[int, TrafficBucket] = {}
        self._newest = 0
        self.expected: float | None = None
        self.notable: float | None = None

    def observe(self, r: RequestRecord) -> None:
        """Count a record in the bucket in which its exchange ended."""
        at = int(r.ts + r.duration_ms * 1e-3) // STEP_S
        bucket = self._buckets.get(at)
        if bucket is None:
            if at <= self._newest - self._kept:
                return
            bucket = self._open(at)
        bucket.add(r)

    def expect(self, now: float, expected: float | None, notable: float | None) -> None:
        """Set the expected rate and the threshold from ``now`` on, requests per second."""
        self.expected, self.notable = expected, notable
        bucket = self._buckets.get(int(now) // STEP_S) or self._open(int(now) // STEP_S)
        bucket.expected, bucket.notable = expected, notable

    def _open(self, at: int) -> TrafficBucket:
        bucket = self._buckets[at] = TrafficBucket()
        bucket.expected, bucket.notable = self.expected, self.notable
        if at > self._newest:
            self._newest = at
            oldest = at - self._kept
            while (first := next(iter(self._buckets))) <= oldest:
                del self._buckets[first]
        return bucket

    def latest(self, now: float) -> list[dict[str, Any]]:
        """The previous and the current bucket, for the live stream."""
        at = int(now) // STEP_S
        return [self._public(index * STEP_S, (index,)) for index in (at - 1, at)]

    def public(self, now: float, minutes: int) -> dict[str, Any]:
        """The last ``minutes`` as the admin API shows them, oldest first. Buckets without
        requests are zero; the time before the first record is left out.
        """
        step = STEP_S if minutes <= FINE_MINUTES else COARSE_S
        end = int(now) // step * step
        first = min(self._buckets, default=end // STEP_S) * STEP_S // step * step
        begin = max(end - minutes * 60 + step, first)
        per = step // STEP_S
        items = [
            self._public(at, range(at // STEP_S, at // STEP_S + per))
            for at in range(begin, end + step, step)
        ]
        return {"step_s": step, "from": begin, "to": end + step, "items": items}

    def _public(self, at: int, indexes: Iterable[int]) -> dict[str, Any]:
        found = [b for i in indexes if (b := self._buckets.get(i)) is not None]
        requests = sum(b.requests for b in found)
        known = [b for b in found if b.expected is not None]
        return {
            "at": at,
            "requests": requests,
            "tokens": sum(b.tokens for b in found),
            "usd": sum(b.nanos for b in found) / 1e9,
            "errors": sum(b.errors for b in found),
            "refused": sum(b.refused for b in found),
            "limited": sum(b.limited for b in found),
            "throttled": sum(b.throttled for b in found),
            "blocked": sum(b.blocked for b in found),
            "tagged": sum(b.tagged for b in found),
            "would": sum(b.would for b in found),
            "overhead_ms": sum(b.overhead_ms for b in found) / max(1, requests),
            "expected_rps": known[-1].expected if known else None,
            "notable_rps": known[-1].notable if known else None,
        }
