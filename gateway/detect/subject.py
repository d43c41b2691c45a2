"""State of one subject: counts, outcomes, prompts, networks or users.

Bounded and cheap: an event costs a few additions, and windows turn when the next event
falls into a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt

import msgspec

from gateway.detect.baseline import UpperBaseline
from gateway.detect.fingerprint import ALIKE_BITS
from gateway.detect.model import REFUSED_STATUS, Event

MINUTE_S = 60
WINDOW_S = 600
# The last prompts of a subject that a new one is compared with.
RING = 8
# Networks from which a key was abused are remembered for so long.
_SUSPECTED_S = 6 * 3600.0
# Weight of the newest prompt in the share of alike ones.
_ALIKE_STEP = 1 / 16
_ALIKE_WARM = 6
_STEADY = 15  # prompts before a newest one that weighs no more than that
# Mean bits between prompts that are the same but for a word.
SAME_BITS = 2.4
# Networks of a user, or users of an address, that are remembered; and what it failed at.
COMPANY = 48
TARGETS = 16
_USUAL_STEP = 1 / 64
# Answers of a window from which its sizes are compared.
_FEW_SIZES = 6
# Weight of the newest answer among the last ones; and by how much (log) one window may
# raise what the longest ever were.
_LATELY = 1 / 8
_LOUDER = 0.3
# A run: alike prompts (or prompts of young templates) without a longer pause. One that
# goes on for so long is how its subject lives.
_RUN_SHARE = 0.5
_RUN_OVER = 0.25
_RUN_GAP_S = 600.0
# Weight of older gaps between requests beside a newer one, and how many are too few.
_GAP_KEPT = 63 / 64
_FEW_GAPS = 15.0
_RUN_USUAL_S = 21_600.0
# What a run leaves of the highest one before it.
_RUN_KEPT = 0.95
# Two prompts are of one size within this share.
_SAME_SIZE = 0.02
# News of a key (networks, models, endpoints) add up and fade: time constant, seconds,
# and what an active window leaves of the most that was usual.
NOVELTY_S = 3600.0
# A newcomer on a tenant's first day is looked into from here on.
_FEW = 8
_FEW_TOKENS = 30_000
_FEW_NEWCOMERS = 3
# The floors of all rules: who stays under them is not looked into.
FEW_REQUESTS = 40
FEW_IN_A_MINUTE = 15
FEW_TOKENS = 200_000
FEW_REFUSED = 8
SHORT_RUN = 20
LITTLE_NOVELTY = 1.5
SPOKEN_TAGGED = 5_000
# Windows of its own from which a subject is compared with itself alone.
STEADY_WINDOWS = 72
# Requests or tokens of a window from which that is done.
SPIKE_REQUESTS = 300
SPIKE_TOKENS = 50_000
FAN_OUT = 10
_NOVELTY_KEPT = 0.99

OK, DENIED, MISSING, REJECTED, FAILED = range(5)
_NONE = (0,) * 5  # no answers of any kind
_OUTCOMES = {401: DENIED, 403: DENIED, 404: MISSING, 405: MISSING}


def outcome_of(status: int) -> int:
    """Which kind of answer it was: one of the five above."""
    if status < 400:  # noqa: PLR2004 - HTTP's own classes
        return OK
    if status >= 500:  # noqa: PLR2004
        return FAILED
    return _OUTCOMES.get(status, REJECTED)


def network_of(address: str) -> str:
    """The network that an address belongs to: its /24, or its /48."""
    if ":" in address:
        return ":".join(address.split(":", 3)[:3])
    return address.rpartition(".")[0] or address


def nearness(prints: list[int], fingerprint: int) -> tuple[int, int]:
    """How many of ``prints`` are alike to a prompt, and in how many bits they differ."""
    near = bits = 0
    for other in prints:
        distance = (fingerprint ^ other).bit_count()
        if distance <= ALIKE_BITS:
            near += 1
            bits += distance
    return near, bits


class SubjectState(msgspec.Struct, array_like=True):
    """State of one client_ip or user of one tenant. Times are epoch seconds.

    ``*_m`` are of the current minute and ``*_b`` of the one before; ``window`` is the
    current ten-minute window. ``outcomes`` counts answers by kind in this window,
    ``outcomes_b`` in the one before.
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
    outcomes: list[int] = msgspec.field(default_factory=lambda: [0] * 5)
    outcomes_b: Sequence[int] = _NONE
    answered: int = 0  # good answers ever
    prints: list[int] = []
    printed: int = 0
    alike: float = 0.0
    apart: float = 0.0  # mean bits between alike prompts
    usual_alike: float = 0.0
    gap: float = 0.0
    gap_square: float = 0.0
    company: dict[str, float] = {}  # who with, and since when
    newcomers: int = 0  # company that is new in this window, and in the one before
    newcomers_b: int = 0
    # Only who was refused has targets; models and endpoints are few: no set for those.
    targets: set[str] | None = None
    models: list[str] = []
    peak_m: int = 0  # busiest minute of this window
    templated: float = 0.0  # share of prompts of young templates
    windows: int = 0  # windows learned
    answers: float = 0.0  # sum of log completion tokens of this window, and of prompts
    asks: float = 0.0
    sized: int = 0
    waited: bool = False
    usual_answer: float = 0.0  # mean log size of an answer, and of a prompt
    usual_ask: float = 0.0
    usual_sized: int = 0
    skip: int = 3  # events until it is looked at again
    backed: bool = False  # an address whose last user is known
    keyed: bool = False  # an address whose last request carried a key
    judged: bool = False  # found abusive in this window
    repetition_run: int = 0  # requests of the running run, and what they cost
    repetition_tokens: int = 0
    repetition_since: float = 0.0
    repetition_judged: bool = False
    most_repetition_run: float = 0.0  # the most that one before was
    most_repetition_tokens: float = 0.0
    asked: int = 0  # prompt tokens of the last request
    same_size: float = 0.0  # share of prompts as long as the one before
    new_networks: float = (
        0.0  # fading count of new networks, and of new models and endpoints
    )
    new_models: float = 0.0
    last_company: str = (
        ""  # where it came from last, and its comings and goings, fading
    )
    alternations: float = 0.0
    peak_alternations: float = 0.0
    most_alternations: float = 0.0
    novelty_at: float = 0.0
    novelty_since: float = 0.0
    peak_new_networks: float = (
        0.0  # the most of the running news, and of the ones before
    )
    peak_new_models: float = 0.0
    most_new_networks: float = 0.0
    most_new_models: float = 0.0
    suspects: set[str] | None = None  # networks from which the key was abused
    suspicious: int = 0  # requests from there in this window, and in the one before
    suspicious_b: int = 0
    suspected: float = 0.0  # when it was last seen in strange hands
    gaps: float = 0.0  # weight of the gaps that ``gap`` and ``gap_square`` add up
    spoken: int = 0  # completion tokens of this window, and of the one before
    spoken_w: int = 0
    most_answer: float = 0.0  # highest mean log size of a window's answers
    baseline: UpperBaseline | None = None
    token_baseline: UpperBaseline | None = None
    same_size_streak: int = 0  # prompts of one size in a row, and the most before
    most_same_size_streak: float = 0.0
    longest: int = 0  # longest prompt since the last run, and before
    most_longest: float = 0.0
    tokens_m: int = 0
    tokens_b: int = 0
    lately: float = 0.0  # mean log size of the last answers
    latest: int = 0  # how many there were
    peak_lately: float = 0.0  # the highest of this window
    worded: int = 0  # prompts that said in other words what newcomers share

    def count(
        self,
        event: Event,
        kind: int,
        company: str,
        near: tuple[int, int] | None = None,
    ) -> bool:
        """Take one event in; whether a window has turned (see ``turned``). ``near``:
        the ``nearness`` of its prompt, where the caller knows it.
        """
        ts = event.ts
        minute = int(ts // MINUTE_S)
        turned = minute != self.minute and self._turn(minute)
        times = event.times
        self.requests_m += times
        self.requests += times
        if event.status != REFUSED_STATUS:
            self.count_outcome(event, kind, company)
        gap = ts - self.last
        if gap >= 0.0:
            if gap <= _RUN_GAP_S:
                kept = _GAP_KEPT
                self.gaps = 1.0 + kept * self.gaps
                self.gap = gap + kept * self.gap
                self.gap_square = gap * gap + kept * self.gap_square
            else:
                self._pause()
            self.last = ts
        if event.fingerprint is not None:
            self._compare(event.fingerprint, near)
            self._run_on(ts, times)
        if company != self.last_company:
            if company not in self.company:
                self._meet(company, ts)
            elif self.kind == "user":
                self._swap(ts)
            self.last_company = company
        if self.suspects is not None and company in self.suspects:
            if ts - self.suspected > _SUSPECTED_S:
                self.suspects = None  # whoever moved was taken for a thief, perhaps
            else:
                self.suspicious += 1
                self.skip = 0
        if event.model not in self.models and event.model:
            self._use(event.model, ts)
        if event.endpoint not in self.models:
            self._use(event.endpoint, ts)
        return turned

    def count_outcome(self, event: Event, kind: int, company: str) -> None:
        """Count how a request was answered, and what it cost."""
        asked, answered = event.prompt_tokens, event.completion_tokens
        tokens = event.total_tokens or asked + answered
        times = event.times
        self.tokens += tokens
        self.tokens_m += tokens
        if self.repetition_run:
            self.repetition_tokens += tokens
        if asked:
            size = asked // times
            near = abs(size - self.asked) <= _SAME_SIZE * size
            self.same_size += (near - self.same_size) * _ALIKE_STEP
            if self.same_size >= _RUN_SHARE:
                self.same_size_streak += times
            elif self.same_size_streak and self.same_size < _RUN_OVER:
                self._end_streak()
            self.asked = size
            self.longest = max(self.longest, size)
        if answered:
            self.answers += times * log(answered / times)
            self._hear(log(answered / times), times)
            if asked > times:
                self.asks += times * log(asked / times)
            self.sized += times
            self.spoken += answered
        self.outcomes[kind] += times
        if kind == OK:
            self.answered += times
        else:
            self._miss(event, company)

    def _hear(self, size: float, times: int) -> None:
        """The log size of so many answers."""
        self.latest += times
        step = (
            max(_LATELY, 1 / self.latest) if times == 1 else min(1.0, _LATELY * times)
        )
        self.lately += (size - self.lately) * step
        if self.latest >= _FEW_SIZES:
            self.peak_lately = max(self.peak_lately, self.lately)

    def _miss(self, event: Event, company: str) -> None:
        """It did not get what it asked for."""
        if self.targets is None:
            self.targets = set()
        if len(self.targets) < TARGETS:
            # Keys tried from one address count; where a key comes from does not.
            key = company if self.kind == "client_ip" else ""
            self.targets.add(f"{key}|{event.endpoint}|{event.model}")

    def rate_m(self, now: float) -> float:
        """Requests of the last sixty seconds (the minute before counts by its part)."""
        part = now / MINUTE_S - self.minute
        if part >= 1.0:
            left = max(0.0, 2.0 - part)
            return self.requests_m * left
        return self.requests_m + self.requests_b * (1.0 - part)

    def tokens_1m(self, now: float) -> float:
        """Tokens of the last sixty seconds, likewise."""
        part = now / MINUTE_S - self.minute
        if part >= 1.0:
            return self.tokens_m * max(0.0, 2.0 - part)
        return self.tokens_m + self.tokens_b * (1.0 - part)

    def quiet(self) -> bool:
        """Whether there is too little of it to look into."""
        return (
            self.requests + self.requests_w < _FEW
            and self.tokens < _FEW_TOKENS
            and self.newcomers + self.newcomers_b < _FEW_NEWCOMERS
        )

    def earlier(self, now: float) -> tuple[float, float]:
        """Requests of this window and the one before it, without the last one to two
        minutes, and in how many minutes they were made.
        """
        begun = max(self.born, (self.window - 1) * WINDOW_S)
        minutes = (self.minute - 1) - begun / MINUTE_S
        made = self.requests + self.requests_w - self.requests_m - self.requests_b
        return (float(made), minutes) if minutes > 0.0 else (0.0, 0.0)

    def known(self, now: float) -> bool:
        """Whether this subject has been here for a day and was well served."""
        return now - self.born > KNOWN_AFTER_S and self.answered >= KNOWN_ANSWERS

    def familiar(self, now: float) -> float:
        """How well its ways are known: the part of a day that it has been here, once it
        got answers enough; 0 for a newcomer.
        """
        age = now - self.born
        if age < FAMILIAR_AFTER_S or self.answered < FAMILIAR_ANSWERS:
            return float(self.known(now))
        return min(1.0, age / KNOWN_AFTER_S)

    def _turn(self, minute: int) -> bool:
        if minute < self.minute:
            return False  # a late event counts where the clock is
        self.requests_b = self.requests_m if minute == self.minute + 1 else 0
        self.tokens_b = self.tokens_m if minute == self.minute + 1 else 0
        self.tokens_m = 0
        self.peak_m = max(self.peak_m, self.requests_m)
        self.requests_m = 0
        self.minute = minute
        return minute * MINUTE_S // WINDOW_S != self.window

    def _compare(self, fingerprint: int, found: tuple[int, int] | None) -> None:
        prints = self.prints
        near, bits = nearness(prints, fingerprint) if found is None else found
        printed = self.printed
        count = len(prints)
        if count:
            step = _ALIKE_STEP if printed >= _STEADY else 1 / (printed + 1)
            self.alike += (near / count - self.alike) * step
            if near:
                self.apart += (bits / near - self.apart) * step
        if count < RING:
            prints.append(fingerprint)
        else:
            prints[printed % RING] = fingerprint
        self.printed = printed + 1

    def _run_on(self, ts: float, times: int) -> None:
        """One more prompt: whether it goes on with the run."""
        share = max(self.alike, self.templated)
        if self.repetition_run:
            if share < _RUN_OVER:
                self._end_run()
            else:
                self.repetition_run += times
        elif share >= _RUN_SHARE and self.printed >= RING:
            self.repetition_since = ts
            self.repetition_run = times

    def _pause(self) -> None:
        self.gaps = self.gap = self.gap_square = 0.0
        if self.repetition_run:
            self._end_run()

    def _end_streak(self) -> None:
        if not self.repetition_judged:
            self.most_same_size_streak = max(
                _RUN_KEPT * self.most_same_size_streak, self.same_size_streak
            )
        self.same_size_streak = 0

    def _learn_longest(self) -> None:
        if not self.repetition_judged:
            self.most_longest = max(_NOVELTY_KEPT * self.most_longest, self.longest)
        self.longest = 0

    def _learn_run(self) -> None:
        self._learn_longest()
        if not self.repetition_judged:
            self.most_same_size_streak = max(
                self.most_same_size_streak, self.same_size_streak
            )
            self.most_repetition_run = max(
                self.most_repetition_run, self.repetition_run
            )
            self.most_repetition_tokens = max(
                self.most_repetition_tokens, self.repetition_tokens
            )

    def _end_run(self) -> None:
        if self.repetition_run >= RING:
            self.most_repetition_run *= _RUN_KEPT
            self.most_repetition_tokens *= _RUN_KEPT
            self._learn_run()
        self.repetition_run = self.repetition_tokens = 0
        self.repetition_judged = False

    def _meet(self, company: str, ts: float) -> None:
        if len(self.company) >= COMPANY:
            # The newest goes: whoever sends many strangers cannot push out the known.
            self.company.popitem()
        self.company[company] = ts
        self.newcomers += 1
        self.fade(ts)
        self.new_networks += 1.0
        self.peak_new_networks = max(self.peak_new_networks, self.new_networks)
        self.skip = min(self.skip, 1)

    def _swap(self, ts: float) -> None:
        """Back to a network where it was before."""
        self.fade(ts)
        self.alternations += 1.0
        self.peak_alternations = max(self.peak_alternations, self.alternations)

    def _use(self, what: str, ts: float) -> None:
        """A model or an endpoint that it never used before."""
        if len(self.models) < TARGETS:
            self.models.append(what)
        self.fade(ts)
        self.new_models += 1.0
        self.peak_new_models = max(self.peak_new_models, self.new_models)
        self.skip = min(self.skip, 1)

    def fade(self, now: float) -> None:
        """Let news become old."""
        kept = exp(min(0.0, self.novelty_at - now) / NOVELTY_S)
        self.new_networks *= kept
        self.new_models *= kept
        self.alternations *= kept
        self.novelty_at = max(now, self.novelty_at)

    def _learn_novelty(self) -> None:
        """Take in what news were usual, once they are over or go on for long."""
        self.fade(self.last)
        if self.windows == 1:  # whatever it did first was new
            self.new_networks = self.new_models = self.peak_new_networks = (
                self.peak_new_models
            ) = 0.0
            self.alternations = self.peak_alternations = 0.0
        if self.new_networks >= 1.0 and self.last - self.novelty_since < _RUN_USUAL_S:
            return
        self.most_new_networks = max(
            _NOVELTY_KEPT * self.most_new_networks, self.peak_new_networks
        )
        self.most_new_models = max(
            _NOVELTY_KEPT * self.most_new_models, self.peak_new_models
        )
        self.most_alternations = max(
            _NOVELTY_KEPT * self.most_alternations, self.peak_alternations
        )
        self.peak_new_networks = self.peak_new_models = self.peak_alternations = 0.0
        self.novelty_since = self.last

    def suspect(self, now: float) -> None:
        """The key is in strange hands: remember the networks that are new to it."""
        since = max(self.novelty_since, now - NOVELTY_S)
        new = {net for net, met in self.company.items() if met >= since}
        self.suspects = new if self.suspects is None else self.suspects | new
        self.suspected = now

    def alike_share(self) -> float:
        """Share of alike pairs among the last prompts; 0 until there are a few."""
        return self.alike if self.printed >= _ALIKE_WARM else 0.0

    def regular(self) -> float:
        """Coefficient of variation of the gaps between requests since a pause; 0 is
        clockwork, 1 chance, and while there are few.
        """
        if self.gaps < _FEW_GAPS:
            return 1.0
        mean = self.gap / self.gaps
        if mean <= 0.0:
            return 1.0
        return sqrt(max(0.0, self.gap_square / self.gaps - mean * mean)) / mean

    def _learn_sizes(self) -> None:
        if not self.sized:
            return
        self.usual_sized += self.sized
        step = max(_USUAL_STEP, self.sized / self.usual_sized)
        answer = self.answers / self.sized
        if self.peak_lately:
            # One window of an attack that nobody was sure of is no habit yet.
            known = self.most_answer and self.windows >= _FEW_SIZES
            most = self.most_answer + _LOUDER if known else self.peak_lately
            self.most_answer = max(self.most_answer, min(most, self.peak_lately))
            self.peak_lately = 0.0
        self.usual_answer += (answer - self.usual_answer) * step
        self.usual_ask += (self.asks / self.sized - self.usual_ask) * step

    def growth(self) -> float:
        """Times the usual that prompts of this window are long (geometric mean); 1
        while too few are known.
        """
        if self.sized < _FEW_SIZES or self.usual_sized < KNOWN_ANSWERS:
            return 1.0
        return exp(min(20.0, self.asks / self.sized - self.usual_ask))

    def longer(self) -> float:
        """Times the usual that the last answers are long (geometric mean)."""
        if self.latest < _FEW_SIZES or self.usual_sized < KNOWN_ANSWERS:
            return 1.0
        return exp(min(20.0, self.lately - self.usual_answer))

    def louder(self) -> float:
        """Times the longest answers that it ever had in a row (geometric mean)."""
        if self.latest < _FEW_SIZES or self.usual_sized < KNOWN_ANSWERS:
            return 1.0
        most = max(self.most_answer, self.usual_answer)
        return exp(min(20.0, self.lately - most))

    def template(self, *, young: bool) -> None:
        """Whether the last prompt belongs to a template that nobody knew before."""
        self.templated += (young - self.templated) / 16

    def turn_window(self, window: int) -> None:
        """Begin window ``window``; what the last one was is remembered as usual."""
        next_one = window == self.window + 1
        # Few answers wait for more, a window long.
        enough = self.sized >= _FEW_SIZES or self.waited or not next_one
        if self.requests and not self.judged:
            if enough:
                self._learn_sizes()
            self.usual_alike += (self.alike_share() - self.usual_alike) * _USUAL_STEP
            self.windows += 1
            self._learn_novelty()
        if self.repetition_run and self.last - self.repetition_since > _RUN_USUAL_S:
            self._learn_run()
        self.requests_w = self.requests if next_one else 0
        self.tokens_w = self.tokens if next_one else 0
        self.outcomes_b = self.outcomes if next_one else _NONE
        self.newcomers_b = self.newcomers if next_one else 0
        self.suspicious_b = self.suspicious if next_one else 0
        self.suspicious = 0
        self.outcomes = [0] * 5
        self.requests = self.tokens = self.newcomers = 0
        self.worded >>= 1
        self.spoken_w = self.spoken if next_one else 0
        self.peak_m = self.spoken = 0
        self.waited = not enough and self.sized > 0
        if not self.repetition_run:
            self._learn_longest()
        if enough or self.judged:
            self.sized = 0
            self.peak_lately = 0.0
            self.answers = self.asks = 0.0
        if not next_one:
            self.targets = None
        self.judged = False
        self.window = window


# A subject is known after a day and so many good answers; what is usual for it can be
# said sooner, of one that was answered more.
KNOWN_AFTER_S = 86_400.0
KNOWN_ANSWERS = 12
FAMILIAR_AFTER_S = 21_600.0
FAMILIAR_ANSWERS = 40
