"""What is remembered of one subject: counts, conduct, prompts, company.

All of it is bounded and cheap: one event costs a few additions, and whatever is a
window turns by itself when the next event falls into another one.
"""

from __future__ import annotations

from math import exp, log, sqrt

import msgspec

from gateway.detect.baseline import Envelope
from gateway.detect.fingerprint import ALIKE_BITS
from gateway.detect.model import REFUSED_STATUS, Event

MINUTE_S = 60
WINDOW_S = 600
# The last prompts of a subject that a new one is compared with.
RING = 8
# Weight of the newest prompt in the share of alike ones.
_ALIKE_STEP = 1 / 16
_ALIKE_WARM = 6
# Mean bits between prompts that are the same but for a word.
SAME_BITS = 2.4
# Networks of a user, or users of an address, that are remembered; and what it failed at.
COMPANY = 48
TARGETS = 16
_USUAL_STEP = 1 / 64
# Answers of a window from which its sizes are compared.
_FEW_SIZES = 6

OK, DENIED, MISSING, REJECTED, FAILED = range(5)
_CONDUCT = {401: DENIED, 403: DENIED, 404: MISSING, 405: MISSING}


def conduct_of(status: int) -> int:
    """Which kind of answer it was: one of the five above."""
    if status < 400:  # noqa: PLR2004 - HTTP's own classes
        return OK
    if status >= 500:  # noqa: PLR2004
        return FAILED
    return _CONDUCT.get(status, REJECTED)


def network_of(address: str) -> str:
    """The network that an address belongs to: its /24, or its /48."""
    if ":" in address:
        return ":".join(address.split(":", 3)[:3])
    return address.rpartition(".")[0] or address


class Track(msgspec.Struct, array_like=True):
    """One client_ip or user of one tenant. Times are epoch seconds.

    ``*_m`` are of the running minute and ``*_b`` of the one before it; ``window`` is
    the running ten-minute window. ``conduct`` counts answers by kind in this window,
    ``conduct_b`` in the one before.
    """

    kind: str
    id: str
    tenant: str
    born: float
    last: float
    minute: int = 0
    requests_m: int = 0
    requests_b: int = 0
    window: int = -1
    requests: int = 0
    tokens: int = 0
    requests_w: int = 0  # of the window before
    tokens_w: int = 0
    conduct: list[int] = msgspec.field(default_factory=lambda: [0] * 5)
    conduct_b: list[int] = msgspec.field(default_factory=lambda: [0] * 5)
    answered: int = 0  # good answers ever
    prints: list[int] = []
    printed: int = 0
    alike: float = 0.0
    apart: float = 0.0  # mean bits between alike prompts
    usual_alike: float = 0.0
    most_same: float = 0.0  # leaking maximum of the share of equal prompts
    gap: float = 0.0
    gap_square: float = 0.0
    company: dict[str, float] = {}  # who with, and since when
    newcomers: int = 0  # company that is new in this window, and in the one before
    newcomers_b: int = 0
    usual_newcomers: float = 0.0
    targets: set[str] = msgspec.field(default_factory=set)
    models: set[str] = msgspec.field(default_factory=set)
    strange_models: int = 0  # requests of this window on models never used before
    peak_m: int = 0  # busiest minute of this window
    templated: float = 0.0  # share of prompts of young templates
    windows: int = 0  # windows learned
    most_newcomers: float = 0.0  # leaking maximum of newcomers in a window
    answers: float = 0.0  # sum of log completion tokens of this window, and of prompts
    asks: float = 0.0
    sized: int = 0
    usual_answer: float = 0.0  # mean log size of an answer, and of a prompt
    usual_ask: float = 0.0
    usual_sized: int = 0
    skip: int = 3  # events until it is looked at again
    backed: bool = False  # an address whose last user is known
    keyed: bool = False  # an address whose last request carried a key
    judged: bool = False  # found abusive in this window
    envelope: Envelope | None = None
    token_envelope: Envelope | None = None

    def count(self, event: Event, kind: int, company: str) -> bool:
        """Take one event in; whether a window has turned (see ``turned``)."""
        ts = event.ts
        turned = False
        minute = int(ts // MINUTE_S)
        if minute != self.minute:
            turned = self._turn(ts, minute)
        self.requests_m += 1
        self.requests += 1
        asked, answered = event.prompt_tokens, event.completion_tokens
        self.tokens += event.total_tokens or asked + answered
        if answered:
            self.answers += log(answered)
            self.asks += log(asked or 1)
            self.sized += 1
        if event.status != REFUSED_STATUS:
            self.conduct[kind] += 1
            if kind == OK:
                self.answered += 1
            elif len(self.targets) < TARGETS:
                self.targets.add(f"{company}|{event.endpoint}|{event.model}")
        self._time(ts)
        if event.fingerprint is not None:
            self._compare(event.fingerprint)
        if company not in self.company:
            self._meet(company, ts)
        if event.model not in self.models:
            self._use(event.model)
        return turned

    def rate_m(self, now: float) -> float:
        """Requests of the last sixty seconds (the minute before counts by its part)."""
        part = now / MINUTE_S - self.minute
        if part >= 1.0:
            left = max(0.0, 2.0 - part)
            return self.requests_m * left
        return self.requests_m + self.requests_b * (1.0 - part)

    def known(self, now: float) -> bool:
        """Whether this subject has been here for a day and was well served."""
        return now - self.born > KNOWN_AFTER_S and self.answered >= KNOWN_ANSWERS

    def _turn(self, ts: float, minute: int) -> bool:
        if minute < self.minute:
            return False  # a late event counts where the clock is
        self.requests_b = self.requests_m if minute == self.minute + 1 else 0
        self.peak_m = max(self.peak_m, self.requests_m)
        self.requests_m = 0
        self.minute = minute
        return minute * MINUTE_S // WINDOW_S != self.window

    def _time(self, ts: float) -> None:
        gap = ts - self.last
        if gap >= 0.0:
            self.gap += (gap - self.gap) * _ALIKE_STEP
            self.gap_square += (gap * gap - self.gap_square) * _ALIKE_STEP
            self.last = ts

    def _compare(self, fingerprint: int) -> None:
        prints = self.prints
        near = bits = 0
        for other in prints:
            distance = (fingerprint ^ other).bit_count()
            if distance <= ALIKE_BITS:
                near += 1
                bits += distance
        count = len(prints)
        if count:
            step = max(_ALIKE_STEP, 1 / (self.printed + 1))
            self.alike += (near / count - self.alike) * step
        if near:
            step = max(_ALIKE_STEP, 1 / (self.printed + 1))
            self.apart += (bits / near - self.apart) * step
        if count < RING:
            prints.append(fingerprint)
        else:
            prints[self.printed % RING] = fingerprint
        self.printed += 1

    def _meet(self, company: str, ts: float) -> None:
        if len(self.company) >= COMPANY:
            del self.company[next(iter(self.company))]
        self.company[company] = ts
        self.newcomers += 1

    def _use(self, model: str) -> None:
        if len(self.models) < TARGETS:
            self.models.add(model)
        if self.answered >= KNOWN_ANSWERS:
            self.strange_models += 1

    def alike_share(self) -> float:
        """Share of alike pairs among the last prompts; 0 until there are a few."""
        return self.alike if self.printed >= _ALIKE_WARM else 0.0

    def regular(self) -> float:
        """Coefficient of variation of the gaps between requests; 0 is clockwork."""
        if self.gap <= 0.0:
            return 1.0
        spread = self.gap_square - self.gap * self.gap
        return sqrt(max(0.0, spread)) / self.gap

    def _learn_sizes(self) -> None:
        if not self.sized:
            return
        self.usual_sized += self.sized
        step = max(_USUAL_STEP, self.sized / self.usual_sized)
        self.usual_answer += (self.answers / self.sized - self.usual_answer) * step
        self.usual_ask += (self.asks / self.sized - self.usual_ask) * step

    def growth(self) -> tuple[float, float]:
        """Times the usual that prompts and answers of this window are long (geometric
        mean); 1 while too few are known.
        """
        if self.sized < _FEW_SIZES or self.usual_sized < KNOWN_ANSWERS:
            return 1.0, 1.0
        asks = self.asks / self.sized - self.usual_ask
        answers = self.answers / self.sized - self.usual_answer
        return exp(min(20.0, asks)), exp(min(20.0, answers))

    def template(self, *, young: bool) -> None:
        """Whether the last prompt belongs to a template that nobody knew before."""
        self.templated += (young - self.templated) / 16

    def turn_window(self, window: int) -> None:
        """Begin window ``window``; what the last one was is remembered as usual."""
        if self.requests and not self.judged:
            self._learn_sizes()
            self.usual_alike += (self.alike_share() - self.usual_alike) * _USUAL_STEP
            same = self.alike_share() if self.apart <= SAME_BITS else 0.0
            self.most_same = max(0.99 * self.most_same, same)
            self.windows += 1
            step = max(1 / 32, 1 / self.windows)
            self.usual_newcomers += (self.newcomers - self.usual_newcomers) * step
            self.most_newcomers = max(0.98 * self.most_newcomers, self.newcomers)
        next_one = window == self.window + 1
        self.requests_w = self.requests if next_one else 0
        self.tokens_w = self.tokens if next_one else 0
        self.conduct_b = self.conduct if next_one else [0] * 5
        self.newcomers_b = self.newcomers if next_one else 0
        self.conduct = [0] * 5
        self.requests = self.tokens = self.newcomers = self.strange_models = 0
        self.peak_m = self.sized = 0
        self.answers = self.asks = 0.0
        if not next_one:
            self.targets = set()
        self.judged = False
        self.window = window


# A subject is known after a day and so many good answers.
KNOWN_AFTER_S = 86_400.0
KNOWN_ANSWERS = 12
