"""From surprises to scores: calibrated tails.

A score has a published frequency: on ordinary traffic about one window in 800 reaches a
score of 3 and about one in 3,000 a score of 5; each further point is the same factor.
These are not standard deviations: a normal tail would give one in three million for 5,
which real traffic does not have (levels step, jobs start).
"""

from __future__ import annotations

from math import exp, log

import msgspec

# Share of ordinary windows that reach a score of 3 and of 5.
SHARE_AT_3 = 0.0011
SHARE_AT_5 = 0.00034
_PER_SIGMA = log(SHARE_AT_3 / SHARE_AT_5) / 2.0
MOST = 12.0
# The tail is fitted to what exceeds this share of all windows.
TAIL_SHARE = 0.02
# Standardised surprises are counted in bins of this width.
_BIN = 0.05
_BINS = 400
# A fresh tail believes in this one, found on production traffic, as strongly as in so
# many windows of its own: exceedances over `u` are generalised Pareto.
_PRIOR_WINDOWS = 20_000.0
_PRIOR_U = 0.1
_PRIOR_SCALE = 0.376
_PRIOR_SHAPE = 0.2
# Counts are halved when this many windows were seen: the tail follows the traffic.
_HALVE_AT = 200_000.0
# How far over its promise the share of windows over 5 may be before they are taken for
# floods and not for tail; and the surprise that is worth a 5 whatever the tail says.
OVERRUN = 1.5
FAR_MOST = 2.25
_STRAIGHT = 1e-6  # a shape this small is an exponential tail
_LEAST_SHAPE, _MOST_SHAPE = 0.0, 0.6


def score_of(share: float) -> float:
    """The score of an event that this share of ordinary windows reaches."""
    if share <= 0.0:
        return MOST
    if share >= 1.0:
        return 0.0
    if share > SHARE_AT_3:
        # Below 3 the scale bends so that certainty is 0.
        return 3.0 * log(share) / log(SHARE_AT_3)
    return min(MOST, 3.0 + log(SHARE_AT_3 / share) / _PER_SIGMA)


class Tail(msgspec.Struct, array_like=True):
    """Peaks over threshold of the standardised surprises of one class of subjects.

    ``counts`` is a histogram of positive surprises (in spreads), ``seen`` all windows
    scored, so that ``share`` is the frequency at which a surprise is exceeded.
    """

    counts: list[float]
    seen: float
    u: float = _PRIOR_U
    u_share: float = TAIL_SHARE
    scale: float = _PRIOR_SCALE
    shape: float = _PRIOR_SHAPE
    far: float = 2.33  # the surprise that scores 5
    beyond: float = 0.0  # windows counted over it

    def score(self, surprise: float) -> float:
        """The calibrated score of a surprise (in spreads)."""
        return 0.0 if surprise <= 0.0 else score_of(self.share(surprise))

    def share(self, surprise: float) -> float:
        """Share of ordinary windows with at least this surprise."""
        over = surprise - self.u
        if over <= 0.0:
            return min(1.0, self.u_share * exp(-over / self.scale))
        if self.shape < _STRAIGHT:
            return self.u_share * exp(-over / self.scale)
        reach = 1.0 + self.shape * over / self.scale
        return self.u_share * float(reach ** (-1.0 / self.shape))

    def learn(self, surprise: float) -> None:
        """Count one window; ``refit`` makes it matter.

        Windows over 5 count up to twice their promised share: the tail follows traffic
        that is wilder than believed, and floods in the history cannot hide others.
        """
        self.seen += 1.0
        if surprise <= 0.0:
            return
        if surprise > self.far:
            if self.beyond > OVERRUN * SHARE_AT_5 * self.seen:
                return
            self.beyond += 1.0
        self.counts[min(_BINS - 1, int(surprise / _BIN))] += 1.0

    def refit(self) -> None:
        """Fit the tail again (say, once an hour). Forgets slowly."""
        if self.seen >= _HALVE_AT:
            self.seen /= 2.0
            self.beyond /= 2.0
            self.counts = [count / 2.0 for count in self.counts]
        self._threshold()
        over = count = rising = 0.0
        # Probability-weighted moments of the exceedances, from the top down.
        for at in range(_BINS - 1, int(self.u / _BIN) - 1, -1):
            here = self.counts[at]
            excess = max(0.0, (at + 0.5) * _BIN - self.u)
            over += here * excess
            rising += excess * here * (count + here / 2.0)
            count += here
        if count <= 0.0:
            return
        mean = over / count
        weighted = rising / (count * count)
        spare = mean - 2.0 * weighted
        shape = 2.0 - mean / spare if spare > 0.0 else _MOST_SHAPE
        self.shape = min(_MOST_SHAPE, max(_LEAST_SHAPE, shape))
        self.scale = max(_BIN, mean * (1.0 - self.shape))
        self.far = self._at(SHARE_AT_5)
        if self.far > FAR_MOST:
            self.scale *= (FAR_MOST - self.u) / (self.far - self.u)
            self.far = FAR_MOST

    def _at(self, share: float) -> float:
        """The surprise that this share of windows reaches."""
        reach = self.u_share / share
        if self.shape < _STRAIGHT:
            return self.u + self.scale * log(reach)
        return self.u + self.scale * (float(reach**self.shape) - 1.0) / self.shape

    def _threshold(self) -> None:
        """Put ``u`` where ``TAIL_SHARE`` of all windows lie above it."""
        wanted = TAIL_SHARE * self.seen
        above = 0.0
        for at in range(_BINS - 1, -1, -1):
            above += self.counts[at]
            if above >= wanted:
                self.u = at * _BIN
                self.u_share = above / self.seen
                return
        self.u, self.u_share = 0.0, max(above, 1.0) / self.seen


def new_tail() -> Tail:
    """A tail that believes what production traffic showed until it has seen its own."""
    reached = [_prior_share(at * _BIN) for at in range(_BINS)] + [0.0]
    counts = [
        _PRIOR_WINDOWS * (reached[at] - reached[at + 1] if at * _BIN >= _PRIOR_U else 0)
        for at in range(_BINS)
    ]
    return Tail(counts=counts, seen=_PRIOR_WINDOWS)


def _prior_share(surprise: float) -> float:
    over = max(0.0, surprise - _PRIOR_U)
    reach = 1.0 + _PRIOR_SHAPE * over / _PRIOR_SCALE
    return TAIL_SHARE * float(reach ** (-1.0 / _PRIOR_SHAPE))
