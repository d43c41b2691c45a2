"""Ordinary life: what every way of life sends in one slice of time.

An activity (a conversation, a run of a job) that begins in the slice is made whole;
what reaches beyond the slice waits in the world's own queue.
"""

from __future__ import annotations

import numpy as np

from loadtests.scenarios.population import (
    AGENT,
    ANONYMOUS,
    CONVERSATION,
    CRON,
    EVALUATOR,
    HEALTH,
    HUMAN,
    NIGHTLY,
    NO_FINGERPRINT,
    SERVERLESS,
    SERVICE,
    TEMPLATE,
    Population,
    Tenants,
)
from loadtests.scenarios.rows import (
    EMBEDDINGS,
    FLIPS_MAX,
    Block,
    Floats,
    Ints,
    Random,
    Words,
    block,
    clustered,
    flipped,
    positions,
    strange,
)
from loadtests.scenarios.sizes import draw_sizes, human_gaps, noise_step, tide, whole

DAY_S = 86_400.0
FAILURES = (400, 429, 500, 404, 401, 503)
FAILURE_SHARES = (0.4, 0.25, 0.15, 0.08, 0.05, 0.07)
# Median pause in seconds and mean number of turns of a conversation.
TALKS = {HUMAN: (38.0, 5.0), AGENT: (5.0, 22.0)}
# The level of a day is that much of the day before's (log), and wanders so far.
LEVEL_RHO = 0.9
DRIFT = 0.3
# Chance per day that a line gets a new address.
NEW_ADDRESS = 0.08


class Ordinary:
    """Makes the traffic of a population, slice by slice, in order."""

    def __init__(
        self, rng: Random, people: Population, tenants: Tenants, pace: float
    ) -> None:
        self.rng = rng
        self.people = people
        self.tenants = tenants
        self.pace = pace
        # Multiplies the sessions of a tenant's people for a while (campaigns).
        self.crowding = np.ones(len(tenants.names))

    def slice(self, start: float, end: float) -> list[Block]:
        """Everything that begins in [start, end), epoch seconds."""
        people = self.people
        people.state = noise_step(self.rng, people.state, people.noise)
        awake = self._awake(start, end)
        made = [
            self._talks(HUMAN, start, end, awake),
            self._talks(AGENT, start, end, awake),
            self._steady(SERVICE, start, end, awake),
            self._steady(SERVERLESS, start, end, awake),
            self._clocks(start, end),
            self._checks(start, end),
            self._runs(NIGHTLY, self._tonight(start, end), start, end),
            self._runs(
                EVALUATOR, self._wants(EVALUATOR, start, end, awake), start, end
            ),
        ]
        return [rows for rows in made if len(rows)]

    # -- who is active ---------------------------------------------------------------

    def _local_hour(self, at: float) -> Floats:
        zone = self.tenants.zone[self.people.tenant]
        return np.asarray((at / 3600 + zone) % 24)

    def _awake(self, start: float, end: float) -> Floats:
        """Expected activity of each user in the slice, relative to a whole day."""
        people = self.people
        middle = (start + end) / 2
        shape = tide(self._local_hour(middle), people.tide)
        weekday = int(middle // DAY_S + 3) % 7  # 1 January 1970 was a Thursday
        rest = self.tenants.weekend[people.tenant] if weekday >= 5 else 1.0
        noise = np.exp(people.state - people.noise**2 / 2)
        here = people.born <= start
        return np.asarray(
            shape * rest * noise * people.level * here * ((end - start) / DAY_S)
        )

    def _wants(self, life: int, start: float, end: float, awake: Floats) -> Ints:
        """The users of one way of life that begin something, once per beginning."""
        who = self.people.of(life)
        mean = self.people.pace[who] * awake[who] * self.pace
        if life == HUMAN:
            mean = mean * self.crowding[self.people.tenant[who]]
        return np.repeat(who, self.rng.poisson(mean))

    def _tonight(self, start: float, end: float) -> Ints:
        """Nightly jobs whose hour begins in this slice; some nights are left out."""
        who = self.people.of(NIGHTLY)
        hours = self._local_hour(start)[who]
        due = (self.people.period[who] - hours) % 24 * 3600 < end - start
        lazy = self.rng.random(len(who)) < 0.04
        return who[due & ~lazy & (self.people.born[who] <= start)]

    # -- ways of life ----------------------------------------------------------------

    def _talks(self, life: int, start: float, end: float, awake: Floats) -> Block:
        """Conversations of people and tool loops of agents: prompts grow by turns."""
        who = self._wants(life, start, end, awake)
        begins = self.rng.uniform(start, end, len(who))
        return self.talks_of(who, begins, *TALKS[life])[0]

    def talks_of(
        self, who: Ints, begins: Floats, pause_s: float, turns: float
    ) -> tuple[Block, Ints]:
        """One conversation for each entry of ``who``, and the number of the entry that
        each request belongs to.
        """
        rng = self.rng
        sizes = np.minimum(rng.geometric(1 / turns, len(who)), 160)
        users = np.repeat(who, sizes)
        gaps = human_gaps(rng, len(users), pause_s)
        rows = self.rows(users, clustered(begins, sizes, gaps))
        turn = positions(sizes)
        # Most clients send the history along and cut it at some length.
        keeps = np.repeat(rng.choice((0, 8, 20, 40), len(who)), sizes)
        growth = np.repeat(rng.uniform(100, 900, len(who)), sizes)
        rows["prompt"] += (np.minimum(turn, keeps) * growth).astype(np.int32)
        self._print_talks(rows, users, np.repeat(strange(rng, len(who)), sizes))
        rows["ip"] = np.repeat(self._whereabouts(who), sizes)
        return rows, np.repeat(np.arange(len(who)), sizes)

    def _print_talks(self, rows: Block, users: Ints, own: Words) -> None:
        """Whole histories look alike from turn to turn."""
        mine = self.people.print_mode[users] == CONVERSATION
        rows["fp"][mine] = flipped(self.rng, own[mine], 2)

    def _whereabouts(self, who: Ints) -> Words:
        """The address of a whole session."""
        people = self.people
        usual = people.address[who]
        away = self.rng.random(len(who)) < people.roaming[who]
        for i in np.flatnonzero(away).tolist():
            usual[i] = self.rng.choice(people.pool[who[i]])
        return np.asarray(usual)

    def _steady(self, life: int, start: float, end: float, awake: Floats) -> Block:
        """Services: independent requests at a rate with tides and noise."""
        who = np.sort(self._wants(life, start, end, awake))
        rows = self.rows(who, self.rng.uniform(start, end, len(who)))
        if life == SERVERLESS:
            rows["ip"] = self._whereabouts(who)
        return rows

    def _clocks(self, start: float, end: float) -> Block:
        """Jobs that all start at full quarters, hours and six-hour marks."""
        who = self.people.of(CRON)
        period = self.people.period[who]
        first = np.ceil(start / period) * period
        due = (first < end) & (self.people.born[who] <= start)
        who, first = who[due], first[due]
        sizes = 1 + self.rng.poisson(self.people.burst[who])
        begins = first + self.rng.exponential(1.2, len(who))
        users = np.repeat(who, sizes)
        gaps = human_gaps(self.rng, len(users), 0.7, 0.5)
        return self.rows(users, clustered(begins, sizes, gaps))

    def _checks(self, start: float, end: float) -> Block:
        """Health checks: the same small request for ever, almost to the second."""
        who = self.people.of(HEALTH)
        who = who[self.people.born[who] <= start]
        period = self.people.period[who]
        phase = (who * 7.31) % period
        first = np.ceil((start - phase) / period) * period + phase
        counts = np.maximum(0, np.ceil((end - first) / period)).astype(np.int64)
        users = np.repeat(who, counts)
        ts = np.repeat(first, counts) + positions(counts) * np.repeat(period, counts)
        rows = self.rows(users, ts + self.rng.uniform(0, 0.05, len(ts)))
        rows["prompt"] = 9 + users % 40
        rows["completion"] = 1 + users % 5
        keep = self.people.template[users]
        rows["fp"] = np.where(self.people.endpoint[users] == 5, 0, keep)
        return rows

    def _runs(self, life: int, who: Ints, start: float, end: float) -> Block:
        """Nightly batches and evaluations: a data set walked, one or a few at a time."""
        rng = self.rng
        begins = rng.uniform(start, end, len(who))
        if life == NIGHTLY:
            hours = self._local_hour(start)[who]
            begins = start + (self.people.period[who] - hours) % 24 * 3600
            begins += rng.exponential(20, len(who))
        usual = self.people.burst[who] * rng.lognormal(0, 0.25, len(who))
        sizes = 5 + rng.poisson(usual)
        return self.run_of(who, begins, sizes, rng.uniform(0.2, 3, len(who)))

    def run_of(self, who: Ints, begins: Floats, sizes: Ints, pause_s: Floats) -> Block:
        """Walks through data sets: the same template, gaps of ``pause_s`` on average."""
        users = np.repeat(who, sizes)
        gaps = self.rng.gamma(2.0, 0.5, len(users)) * np.repeat(pause_s, sizes)
        return self.rows(users, clustered(begins, sizes, gaps))

    # -- one request -----------------------------------------------------------------

    def rows(self, users: Ints, ts: Floats) -> Block:
        """Requests as these users make them, each by itself."""
        rng, people = self.rng, self.people
        count = len(users)
        prompt, answer = draw_sizes(rng, count)
        other = rng.random(count) < 0.06
        endpoint = people.endpoint[users]
        made = block(
            ts,
            user=np.where(self._nameless(users), ANONYMOUS, users),
            tenant=people.tenant[users],
            ip=people.address[users],
            model=np.where(other, people.second[users], people.model[users]),
            endpoint=endpoint,
            prompt=whole(prompt * people.prompt_scale[users]),
            completion=whole(answer * people.answer_scale[users], 16_000),
            fp=self._prints(users),
            status=self.statuses(people.errors[users]),
        )
        made["completion"][endpoint == EMBEDDINGS] = 0
        return made

    def _nameless(self, users: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        people = self.people
        public = people.tenant[users] == self.tenants.public
        return np.asarray(public & (people.life[users] == HUMAN))

    def _prints(self, users: Ints) -> Words:
        mode = self.people.print_mode[users]
        made = strange(self.rng, len(users))
        form = mode == TEMPLATE
        made[form] = flipped(self.rng, self.people.template[users[form]], FLIPS_MAX)
        made[mode == NO_FINGERPRINT] = 0
        return made

    def statuses(self, failing: Floats) -> Ints:
        """200, or an ordinary failure with the given chance each."""
        rng = self.rng
        failed = rng.random(len(failing)) < failing
        how = rng.choice(FAILURES, len(failing), p=FAILURE_SHARES)
        return np.where(failed, how, 200)

    def next_day(self) -> None:
        """Once a day: levels drift, some lines get a new address."""
        rng, people = self.rng, self.people
        drift = DRIFT * rng.standard_normal(len(people.level))
        people.level = np.exp(LEVEL_RHO * np.log(people.level) + drift)
        moved = (rng.random(len(people.address)) < NEW_ADDRESS) & (people.life == HUMAN)
        people.address[moved] = rng.permutation(people.address[moved])
