"""What a worker knows about a request before it is forwarded: microseconds, no I/O.

Control runs the whole detector a moment later; a worker only needs to enforce what
control has decided, and to notice by itself what cannot wait: a subject far over what
it may be expected to do, with prompts that are all alike. Score first, then learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log

import msgspec

from gateway.core.lru import Lru
from gateway.detect.fingerprint import ALIKE_BITS
from gateway.detect.model import Output, Rung

_SIGMAS_PER_FOLD = 2.2
_RING = 8
_STEP = 1 / 16
_LEAST_PROMPTS = 6
_ACTING = frozenset(
    {"client.tagged", "client.throttled", "client.blocked", "client.unblocked"}
)
_ALIKE = "its recent prompts are alike"
_BUSY = "far more requests than usual"


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What control has decided about a subject. ``until`` is epoch seconds."""

    rung: Rung
    until: float
    cls: str
    score: float


class Inline(msgspec.Struct, frozen=True, gc=False):
    """The worker's score of one request."""

    score: float = 0.0
    rung: Rung = "allow"
    cls: str | None = None
    reasons: tuple[str, ...] = ()


NOTHING = Inline()


class _Seen:
    """The last prompts of one subject."""

    __slots__ = ("alike", "count", "prints")

    def __init__(self) -> None:
        self.prints: list[int] = []
        self.count = 0
        self.alike = 0.0


class InlineScorer:
    """Scores requests of one worker; at most ``capacity`` subjects are remembered."""

    __slots__ = ("_busy", "_expected", "_seen", "_standings")

    def __init__(self, capacity: int = 20_000) -> None:
        self._standings: dict[tuple[str, str, str], Standing] = {}
        self._expected: Mapping[tuple[str, str, str], float] = {}
        self._busy: Mapping[str, float] = {}
        self._seen: Lru[tuple[str, str, str], _Seen] = Lru(capacity)

    def take_verdicts(self, outputs: Iterable[Output], now: float) -> None:
        """Take what control has decided; what is over is dropped on the way."""
        over = [key for key, held in self._standings.items() if held.until <= now]
        for key in over:
            del self._standings[key]
        for out in outputs:
            if out.type not in _ACTING:
                continue
            key = (out.tenant, out.subject.kind, out.subject.id)
            if out.action == "allow":
                self._standings.pop(key, None)
            elif out.until is not None:
                until = msgspec.structs.replace(out, ts=out.until).at
                self._standings[key] = Standing(out.action, until, out.cls, out.score)

    def take_baselines(
        self,
        expected: Mapping[tuple[str, str, str], float],
        busy: Mapping[str, float],
    ) -> None:
        """Requests a minute that a subject (tenant, kind, id), and the busiest peers of
        a tenant, are expected to make.
        """
        self._expected = expected
        self._busy = busy

    def score_one(
        self, key: tuple[str, str, str], requests_m: int, now: float
    ) -> Inline:
        """Score one request of a subject that made ``requests_m`` in this minute."""
        standing = self._standings.get(key)
        if standing is not None and now < standing.until:
            return Inline(standing.score, standing.rung, standing.cls)
        usual = self._expected.get(key) or self._busy.get(key[0], 0.0)
        if usual <= 0.0 or requests_m <= usual:
            return NOTHING
        excess = min(12.0, _SIGMAS_PER_FOLD * log(requests_m / usual))
        seen = self._seen.get(key)
        if seen is None or seen.count < _LEAST_PROMPTS:
            return NOTHING
        score = min(excess, 8.0 * seen.alike)
        if score < 1.0:
            return NOTHING
        return Inline(score, "allow", "scraping", (_BUSY, _ALIKE))

    def learn_one(self, key: tuple[str, str, str], fingerprint: int) -> None:
        """Remember the prompt of a request that was scored."""
        seen = self._seen.get(key)
        if seen is None:
            seen = _Seen()
            self._seen.put(key, seen)
        prints = seen.prints
        near = 0
        for other in prints:
            near += (fingerprint ^ other).bit_count() <= ALIKE_BITS
        if prints:
            seen.alike += (near / len(prints) - seen.alike) * max(_STEP, 1 / seen.count)
        if len(prints) < _RING:
            prints.append(fingerprint)
        else:
            prints[seen.count % _RING] = fingerprint
        seen.count += 1
