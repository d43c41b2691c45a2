"""Concurrent peer group: the subjects of a tenant in the current minutes.

Requests per minute of one subject are Poisson with its own rate, and rates follow a
gamma distribution, so counts over all subjects are negative binomial and described by
mean and variance. Tokens are log-normal. The more the peers differ, the less a subject
stands out. Needs no history.
"""

from __future__ import annotations

from math import log, sqrt

from gateway.detect.score import MOST

# Subjects that are counted in one minute.
COUNTED = 512
# Fewer peers in a minute than this are no crowd to stand out from; from so many on, and
# so many minutes of subjects, mean and variance mean something by themselves.
FEW_PEERS = 3
LEAST_PEERS = 10
_FEW_MINUTES = 6.0
_LEAST_MINUTES = 20.0
# Among few it takes so many requests, and so many times what the others do. So it does
# before the first whole minute, when they are compared by what they did so far.
FEW_COUNT = 40.0
_FEW_TIMES_AT_3 = 16.0
# What a minute long past still weighs, per minute: half after half an hour.
_KEPT = 0.977
# One in so many of a minute's subjects does not make the spread.
_ODD_ONES = 40
# A score of 3 for odds of e**-9 (one in 8,000 minutes of a subject, at most), 5 for
# e**-18; and at the same time for 3.5 and for 20 times what peers do.
_EXPONENTS = 4.5
_TIMES_AT_3 = 3.5
_PER_FOLD = 2.0 / log(20.0 / _TIMES_AT_3)
LEAST_COUNT = 10.0
# Minutes of its peers' conduct that a subject is believed to share before its own count.
_BELIEF_MIN = 2.0
# Tokens: a score of 3 at four deviations of their logarithm, each of at least so much.
_DEVIATIONS_AT_3 = 4.0
_LEAST_DEVIATION = 0.5


class ConcurrentPeers:
    """Counts of one kind of subject: of the current minute, and decayed moments of the
    past ones. ``tokens`` and ``tokens_b`` are of this minute and of the one before.
    """

    __slots__ = (
        "_mean",
        "_size",
        "_size_square",
        "_sized",
        "_square",
        "_weight",
        "_whole",
        "counts",
        "loud",
        "peers",
        "tokens",
        "tokens_b",
    )

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.tokens_b: dict[str, int] = {}
        self.loud: set[str] = set()  # who stands out is no peer for a while
        self.peers = 0  # subjects of the last minute
        self._whole = False  # whether the running minute was seen from its start
        self._weight = 0.0
        self._mean = 0.0
        self._square = 0.0
        self._size = 0.0
        self._size_square = 0.0
        self._sized = 0.0

    def count(self, id_: str, tokens: int, times: int = 1) -> None:
        """So many more requests of a subject."""
        counts = self.counts
        seen = counts.get(id_)
        if seen is not None:
            counts[id_] = seen + times
            self.tokens[id_] += tokens
        elif len(counts) < COUNTED:
            counts[id_] = times
            self.tokens[id_] = tokens

    def turn(self, minutes: int) -> None:
        """The minute is over, ``minutes`` after it began: learn what was counted, if
        it was all of it.
        """
        if self._whole:
            self._learn(_KEPT ** min(10_000, minutes))
        self._whole = minutes == 1
        self.tokens_b = self.tokens if minutes == 1 else {}
        self.counts, self.tokens = {}, {}
        if minutes > 1:
            self.loud = set()

    def _learn(self, kept: float) -> None:
        self._weight *= kept
        minute = sorted(n for id_, n in self.counts.items() if id_ not in self.loud)
        self.peers = len(minute)
        odd = 1 + self.peers // _ODD_ONES
        if self.peers > odd:
            minute[-odd:] = [minute[-odd - 1]] * odd
        for seen in minute:
            self._weight += 1.0
            self._mean += (seen - self._mean) / self._weight
            self._square += (seen * seen - self._square) / self._weight
        self._learn_sizes(kept)

    def _learn_sizes(self, kept: float) -> None:
        loud = self.loud
        sizes = [log(n) for id_, n in self.tokens.items() if n and id_ not in loud]
        self._sized *= kept
        for size in sizes:
            self._sized += 1.0
            self._size += (size - self._size) / self._sized
            self._size_square += (size * size - self._size_square) / self._sized

    @property
    def mean(self) -> float:
        """Requests a minute of a subject that makes any."""
        return self._mean

    @property
    def silent(self) -> bool:
        """Whether there are too few peers to say anything of one that asks little."""
        return self._few() or self.peers < LEAST_PEERS

    def _few(self) -> bool:
        return self._weight < _LEAST_MINUTES

    def score(self, count: float, before: float = 0.0, minutes: float = 0.0) -> float:
        """How far ``count`` requests of the last minute stand out among peers, for a
        subject that made ``before`` in so many minutes until then; 0 without peers.
        """
        few = self.silent
        if few and (
            count < FEW_COUNT or self.peers < FEW_PEERS or self._weight < _FEW_MINUTES
        ):
            return 0.0
        believed = self._mean * _BELIEF_MIN + before
        mean = max(self._mean, believed / (_BELIEF_MIN + minutes), 1.0)
        if count < max(LEAST_COUNT, mean):
            return 0.0
        at_3 = _FEW_TIMES_AT_3 if few else _TIMES_AT_3
        fold = 3.0 + _PER_FOLD * log(count / mean / at_3)
        return max(0.0, min(MOST, fold, 1.0 + self._exponent(count, mean) / _EXPONENTS))

    def mean_of_others(self, id_: str) -> float:
        """Requests a minute of its peers, so far in this one if no other is known."""
        if self._weight or len(self.counts) <= 1:
            return self._mean
        others = sum(self.counts.values()) - self.counts.get(id_, 0)
        return others / (len(self.counts) - 1)

    def early_score(self, id_: str) -> float:
        """How far a subject stands out by what all did so far in the running minute,
        before a whole one is known; 0 later on.
        """
        if self._weight or len(self.counts) <= LEAST_PEERS:
            return 0.0
        count = self.counts.get(id_, 0)
        mean = max(1.0, self.mean_of_others(id_))
        if count < max(FEW_COUNT, mean):
            return 0.0
        fold = 3.0 + _PER_FOLD * log(count / mean / _FEW_TIMES_AT_3)
        # Rates as unlike as waiting times: the odds of a geometric distribution.
        odds = count * log(count / mean) - (count + 1.0) * log(
            (count + 1.0) / (mean + 1.0)
        )
        return max(0.0, min(MOST, fold, 1.0 + odds / _EXPONENTS))

    def _exponent(self, count: float, mean: float) -> float:
        """Chernoff's bound of reaching ``count``: odds of at most e to the minus it."""
        seen = count * log(count / mean)
        spare = self._square - self._mean * self._mean - self._mean
        if spare <= 1e-3 * mean:  # no wider than Poisson
            return seen - (count - mean)
        shape = self._mean * self._mean / spare
        return seen - (count + shape) * log((count + shape) / (mean + shape))

    def size_score(self, id_: str, part: float) -> float:
        """How far the tokens of a subject's last minute stand out; ``part`` of the
        running minute has passed.
        """
        if self.silent:
            return 0.0
        tokens = self.tokens.get(id_, 0) + self.tokens_b.get(id_, 0) * (1.0 - part)
        spread = self._size_square - self._size * self._size
        spread = max(_LEAST_DEVIATION, sqrt(max(0.0, spread)))
        deviations = (log(max(1.0, tokens)) - self._size) / spread
        return max(0.0, min(MOST, deviations - (_DEVIATIONS_AT_3 - 3.0)))
