"""A worker's own score of a request before it is forwarded: microseconds, no I/O.

The control process runs the full detector and decides on actions; workers enforce
them. The inline score is for the record and the header: how far a subject is above its
expected rate with prompts that are alike. Score first, then learn.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import log
from typing import TYPE_CHECKING

import msgspec

from gateway.core.lru import Lru
from gateway.detect.fingerprint import ALIKE_BITS
from gateway.detect.model import ResponseAction
from gateway.detect.score import MOST

if TYPE_CHECKING:
    from gateway.identity.identify import Identity

CAPACITY = 20_000
MINUTE_S = 60.0
_SIGMAS_PER_FOLD = 2.2
_RING = 4
_STEP = 1 / 16
_LEAST_PROMPTS = 6
_NOTABLE = 1.0
_LOOK_AGAIN = 1.1
# What the busiest of a tenant are believed to send in a minute until control knows.
_BUSY = 20.0
Key = tuple[str, str, str]  # tenant, kind, id


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The score, the action and the reasons for one request."""

    score: float = 0.0
    action: ResponseAction = "allow"
    cls: str | None = None
    reasons: tuple[str, ...] = ()


NOTHING = Verdict()


class _Seen:
    """The minute and the last prompts of one client."""

    __slots__ = (
        "alike",
        "judge_at",
        "minute",
        "newest",
        "printed",
        "prints",
        "requests_m",
        "usual",
        "verdict",
    )

    def __init__(self) -> None:
        self.minute = 0
        self.requests_m = 0
        self.usual = self.judge_at = _BUSY
        self.verdict = NOTHING
        self.prints: list[int] = []
        self.newest = -1
        self.printed = 0
        self.alike = 0.0

    def learn(self, fingerprint: int) -> None:
        """Compare with the last prompts, then be one of them."""
        self.printed = printed = self.printed + 1
        if fingerprint == self.newest:
            self.alike += (1.0 - self.alike) * _STEP
            return
        self.newest = fingerprint
        prints = self.prints
        near = 0
        for other in prints:
            near += (fingerprint ^ other).bit_count() <= ALIKE_BITS
        if prints:
            step = max(_STEP, 1 / printed)
            self.alike += (near / len(prints) - self.alike) * step
        if len(prints) < _RING:
            prints.append(fingerprint)
        else:
            prints[printed % _RING] = fingerprint


class InlineScorer:
    """Scores requests of one worker; at most ``capacity`` clients (an address with one
    user) are remembered.
    """

    __slots__ = ("_busy", "_expected", "_seen")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._expected: Mapping[Key, float] = {}
        self._busy: Mapping[str, float] = {}
        self._seen: Lru[Hashable, _Seen] = Lru(capacity)

    def take_baselines(
        self, expected: Mapping[Key, float], busy: Mapping[str, float]
    ) -> None:
        """Requests a minute that a subject, and the busiest of a tenant, may be
        expected to make; counts from each client's next minute on.
        """
        self._expected = expected
        self._busy = busy

    @property
    def known(self) -> int:
        """Clients remembered."""
        return len(self._seen)

    def score_one(
        self,
        client: Identity,
        counted: int,
        fingerprint: int | None,
        now: float,
    ) -> Verdict:
        """Score one request, then learn it. ``counted``: the requests that the store
        counts for the client in a minute, 0 where it does not.
        """
        seen = self._seen.get(client.key)
        if seen is None:
            seen = _Seen()
            self._seen.put(client.key, seen)
        minute = int(now // MINUTE_S)
        if minute != seen.minute:
            seen.minute = minute
            seen.requests_m = 0
            seen.usual = seen.judge_at = self._usual(client)
            seen.verdict = NOTHING
        seen.requests_m = requests_m = seen.requests_m + 1
        requests_m = max(requests_m, counted)
        if requests_m > seen.judge_at and seen.printed >= _LEAST_PROMPTS:
            # A score moves with the logarithm of the count: not at every request.
            seen.judge_at = _LOOK_AGAIN * requests_m
            seen.verdict = _judge(requests_m, seen.usual, seen.alike)
        if fingerprint is not None:
            seen.learn(fingerprint)
        return seen.verdict

    def _usual(self, client: Identity) -> float:
        """The highest that is expected of any of its subjects."""
        tenant, expected = client.tenant.name, self._expected
        return max(
            self._busy.get(tenant, _BUSY),
            expected.get((tenant, "user", client.user), 0.0),
            expected.get((tenant, "client_ip", client.client_ip), 0.0),
        )


def _judge(requests_m: int, usual: float, alike: float) -> Verdict:
    score = min(MOST, _SIGMAS_PER_FOLD * log(requests_m / usual), 8.0 * alike)
    if score < _NOTABLE:
        return NOTHING
    reasons = (
        f"{requests_m} requests in a minute where {usual:.0f} are usual.",
        f"{100 * alike:.0f} % of its recent prompts follow few templates.",
    )
    return Verdict(round(score, 2), "allow", "scraping", reasons)
