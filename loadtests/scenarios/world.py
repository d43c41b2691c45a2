"""One seeded world: a plan of episodes, and its traffic as one ordered stream.

    world = World(Settings(seed=1, users=3000, days=8))
    for row in world.rows():  # Row tuples in the order of their times
        ...
    world.ledger.attacks()  # what really happened

Time passes in slices of ten minutes. Each slice is made at once; what an activity sends
after the slice waits in a queue, so memory holds the open activities and no more.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from loadtests.scenarios.attacks import ATTACKS, HARD_ONLY
from loadtests.scenarios.honest import HONEST, announce
from loadtests.scenarios.labels import Cause, Ledger
from loadtests.scenarios.networks import Internet, spelled_all
from loadtests.scenarios.ordinary import Ordinary
from loadtests.scenarios.population import (
    LIVES,
    USERS_PER_TENANT,
    make_population,
    make_tenants,
)
from loadtests.scenarios.rows import ENDPOINTS, MODELS, Block, Row, join
from loadtests.scenarios.stage import Stage

SLICE_S = 600.0
DAY_S = 86_400.0
# Worlds begin on a Monday at midnight, UTC.
MONDAY = 1_767_571_200.0
# The figures of episodes are for so many users and days.
REFERENCE = 3000 * 8
LIFE_NAMES = (
    "human",
    "agent",
    "service",
    "serverless",
    "cron",
    "nightly",
    "health",
    "evaluator",
)
PROMPT_PRICES = np.array([price for _, price, _ in MODELS]) / 1e6
ANSWER_PRICES = np.array([price for _, _, price in MODELS]) / 1e6
MODEL_NAMES = [name for name, _, _ in MODELS]


class Settings(msgspec.Struct, frozen=True):
    """What a world is made from; equal settings make equal worlds.

    ``rate`` multiplies everybody's pace, ``attacks`` and ``honest`` the number of
    episodes (0: none). ``quiet_days``: no attack before (a detector's first days).
    """

    seed: int = 1
    users: int = 3000
    days: float = 8.0
    rate: float = 1.0
    attacks: float = 1.0
    honest: float = 1.0
    quiet_days: float = 1.5
    start: float = MONDAY


class World:
    """Generates the traffic of one set of settings, once, from front to back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        rng = np.random.default_rng(settings.seed)
        net = Internet(rng)
        count = max(8, settings.users // USERS_PER_TENANT)
        tenants = make_tenants(rng, net, count, later=2)
        people = make_population(
            rng, net, tenants, settings.users, (settings.start, self.end)
        )
        self.stage = Stage(
            rng=rng,
            net=net,
            tenants=tenants,
            people=people,
            ordinary=Ordinary(rng, people, tenants, settings.rate),
            ledger=Ledger(),
            hooks=[],
        )
        self.plan = self._plan()
        self._waiting: list[Block] = []

    @property
    def ledger(self) -> Ledger:
        """What really happened, complete when the stream has ended."""
        return self.stage.ledger

    @property
    def end(self) -> float:
        """Epoch seconds at which ordinary life ends."""
        return self.settings.start + self.settings.days * DAY_S

    def life_of(self, user: str) -> str:
        """The way of life of a user of the population, else ``other``."""
        names = self.stage.people.names
        if user not in self._numbers:
            self._numbers.update({name: i for i, name in enumerate(names)})
        number = self._numbers.get(user, 0)
        inside = 0 < number <= self.settings.users
        return LIFE_NAMES[int(self.stage.people.life[number])] if inside else "other"

    # -- the plan --------------------------------------------------------------------

    def _plan(self) -> list[tuple[float, str, Cause]]:
        """Episodes by their start: every kind at least once where any are wanted."""
        self._numbers: dict[str, int] = {}
        size = self.settings.users * self.settings.days / REFERENCE
        plan = [(at, name, cause) for name, at, cause in self._attacks(size)]
        plan += [(at, name, cause) for name, at, cause in self._honest(size)]
        return sorted(plan, key=lambda entry: entry[0])

    def _times(self, count: int, quiet_days: float) -> list[float]:
        span = (quiet_days, max(quiet_days + 0.1, self.settings.days - 0.25))
        moments = self.stage.rng.uniform(*span, count) * DAY_S
        return [self.settings.start + float(at) for at in moments]

    def _how_many(self, wanted: float, size: float) -> int:
        return max(1, round(wanted * size)) if wanted and size else 0

    def _attacks(self, size: float) -> Iterator[tuple[str, float, Cause]]:
        quiet = min(self.settings.quiet_days, self.settings.days / 2)
        for name, (_, cls, loud, hard_loud, wanted) in ATTACKS.items():
            for difficulty in ("easy", "hard"):
                if difficulty == "easy" and name in HARD_ONLY:
                    continue
                count = self._how_many(wanted * self.settings.attacks, size)
                for at in self._times(count, quiet):
                    cause = self.ledger.add(
                        name,
                        "attack",
                        cls=cls,
                        difficulty=difficulty,
                        loud=loud if difficulty == "easy" else hard_loud,
                        retry=float(self.stage.rng.uniform(0, 0.6)),
                        retry_after=float(self.stage.rng.uniform(1, 30)),
                    )
                    yield name, at, cause

    def _honest(self, size: float) -> Iterator[tuple[str, float, Cause]]:
        for name, (_, cls, wanted) in HONEST.items():
            count = self._how_many(wanted * self.settings.honest, size)
            for at in self._times(count, 0.7):
                cause = self.ledger.add(name, "honest", cls=cls)
                if name.startswith("campaign"):
                    announce(self.stage, cause, at)
                yield name, at, cause

    # -- the stream ------------------------------------------------------------------

    def blocks(self) -> Iterator[Block]:
        """One block a slice, in order, none empty."""
        at, plan, day = self.settings.start, list(self.plan), 0
        while at < self.end or self._waiting:
            until = at + SLICE_S
            if at < self.end:
                self._waiting += self.stage.ordinary.slice(at, until)
            while plan and plan[0][0] < until:
                start, name, cause = plan.pop(0)
                self._waiting.append(self._begin(name, cause, start))
            rows = self._due(until)
            if len(rows):
                self._count(rows)
                yield rows
            at = until
            if (at - self.settings.start) // DAY_S > day:
                day += 1
                self.stage.ordinary.next_day()

    def _begin(self, name: str, cause: Cause, start: float) -> Block:
        maker = ATTACKS[name][0] if cause.kind == "attack" else HONEST[name][0]
        return maker(self.stage, cause, start)

    def _due(self, until: float) -> Block:
        """What is sent before ``until``, hooks applied; the rest goes on waiting."""
        hooks = self.stage.hooks
        parts: list[Block] = []
        # What a hook has sent again may fail and be sent again within the slice.
        while len(rows := self._cut(until)):
            self._waiting += [h.touch(rows) for h in hooks if h.start < until]
            parts.append(rows)
        self.stage.hooks = [h for h in hooks if h.end > until]
        rows = join(parts)
        failed = rows["status"] != 200  # what fails costs nothing
        rows["prompt"][failed] = 0
        rows["completion"][failed] = 0
        return rows

    def _cut(self, until: float) -> Block:
        # What waits is looked at every ten minutes, so it is kept in few blocks.
        waiting = join(self._waiting)
        split = int(np.searchsorted(waiting["ts"], until))
        self._waiting = [waiting[split:]] if split < len(waiting) else []
        return waiting[:split]

    def _count(self, rows: Block) -> None:
        """Requests and tokens of every cause."""
        labelled = rows[rows["cause"] > 0]
        causes = self.ledger.causes
        for index in np.unique(labelled["cause"]).tolist():
            mine = labelled[labelled["cause"] == index]
            causes[index].requests += len(mine)
            causes[index].tokens += int(mine["prompt"].sum() + mine["completion"].sum())
            if causes[index].kind == "attack":  # tried again after an outage
                causes[index].end = max(causes[index].end, float(mine["ts"][-1]))

    def rows(self) -> Iterator[Row]:
        """Every request in order."""
        names = self.stage.people.names
        tenants = self.stage.tenants.names
        for rows in self.blocks():
            yield from spell(rows, names, tenants)


def spell(rows: Block, names: list[str], tenants: list[str]) -> Iterator[Row]:
    """A block as rows of plain values."""
    usd = (
        rows["prompt"] * PROMPT_PRICES[rows["model"]]
        + rows["completion"] * ANSWER_PRICES[rows["model"]]
    )
    return map(
        Row,
        rows["ts"].round(3).tolist(),
        spelled_all(rows["ip"]),
        [names[i] for i in rows["user"].tolist()],
        [tenants[i] for i in rows["tenant"].tolist()],
        [MODEL_NAMES[i] for i in rows["model"].tolist()],
        [ENDPOINTS[i] for i in rows["endpoint"].tolist()],
        rows["prompt"].tolist(),
        rows["completion"].tolist(),
        (rows["prompt"] + rows["completion"]).tolist(),
        rows["status"].tolist(),
        usd.round(9).tolist(),
        [fp or None for fp in rows["fp"].tolist()],
        rows["cause"].tolist(),
    )


assert len(LIFE_NAMES) == len(LIVES)
