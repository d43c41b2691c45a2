"""Measures the recall and precision of ``analyze`` on weeks that contain attacks.

usage: python -m loadtests.analyze_quality [--seeds 1,2,3] [--worlds NAME,…] [-v]

Seeded, labelled worlds of many shapes; none has a second week without attacks. A window of
the service is *bad* when the tokens of attacks in it exceed half the median window;
recall and precision are counted on such windows (strictly: a flagged window with fewer
attack tokens is false). Named: users whose spike was flagged for them during the spike.
Others: flagged windows per week of users without an attack.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gateway.offline import AnalysisReport, analyze

MONDAY = 1_767_571_200
DAY_S, WINDOW_S = 86_400, 300
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """Parameters of a world; ranges are sampled."""

    users: int = 300
    days: float = 7.0
    rows: int = 200_000
    tide: float = 0.6  # depth of the nights
    weekend: float = 0.5
    skew: float = 1.0  # how unequal users are (log-normal sigma)
    sizes: float = 1.0  # heaviness of request sizes (log-normal sigma)
    weather: float = 0.1  # slow random change of the rate of all users
    attacks: int = 6
    strength: tuple[float, float] = (0.7, 8.0)  # median windows
    minutes: tuple[float, float] = (10.0, 240.0)
    spikes: int = 3  # of users, below 10 % of the service
    nightly: int = 0  # users with a job each night
    step: float = 0.0  # permanent growth factor of the whole service
    grows: int = 0  # users with permanent tenfold growth
    churn: float = 0.0  # share of users active on one day only
    quiet_nights: bool = False
    kinds: tuple[str, ...] = ("flood", "stranger", "crowd", "ramp", "output")


WORLDS: dict[str, Shape] = {
    "week": Shape(),
    "large": Shape(users=3000, rows=600_000),
    "large_nightly": Shape(users=3000, rows=400_000, nightly=30, skew=1.4),
    "few": Shape(users=12, rows=60_000, skew=0.6, attacks=5, strength=(1.0, 10.0)),
    "twenty": Shape(users=20, rows=40_000, attacks=4, spikes=2, strength=(1.0, 10.0)),
    "one_day": Shape(days=1, rows=40_000, attacks=2, spikes=1, minutes=(10, 90)),
    "two_days": Shape(days=2, rows=60_000, attacks=3, spikes=2, minutes=(10, 120)),
    "two_days_nightly": Shape(days=2, rows=60_000, attacks=2, spikes=1, nightly=4),
    "fortnight": Shape(days=14, rows=300_000, attacks=10, nightly=6),
    "three_weeks": Shape(days=21, rows=300_000, attacks=12, weekend=0.2),
    "tails": Shape(sizes=1.8, rows=300_000),
    "nightly": Shape(nightly=12, users=120),
    "night_silence": Shape(users=40, rows=40_000, quiet_nights=True, tide=0.95),
    "step": Shape(step=1.8, attacks=4),
    "growing": Shape(grows=4, users=200),
    "churn": Shape(churn=0.5, users=1500),
    "flat": Shape(tide=0.1, weekend=1.0, rows=300_000),
    "weather": Shape(weather=0.3),
    "steep": Shape(tide=0.9, weekend=0.15),
    "long_floods": Shape(minutes=(180, 600), attacks=3),
    "short_floods": Shape(minutes=(5, 15), attacks=12),
    "many": Shape(attacks=16, minutes=(20, 120)),
    "crowds": Shape(kinds=("crowd", "ramp"), attacks=6),
    "mild": Shape(strength=(0.7, 1.5), rows=300_000),
    "calm": Shape(attacks=0, spikes=0, nightly=8),
    "calm_few": Shape(attacks=0, spikes=0, users=15, rows=30_000, nightly=2),
}


@dataclass
class World:
    """Rows and their labels."""

    frame: pl.DataFrame
    attack: Floats  # attack tokens of each window
    total: Floats
    # User -> spans (epoch seconds) of spikes on their account.
    spikes: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    step_at: float | None = None

    @property
    def bad(self) -> NDArray[np.bool_]:
        """Windows that must be flagged."""
        seen = self.total[self.total > 0]
        return self.attack > 0.5 * np.median(seen)


class Maker:
    """Builds one world."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self.rng = np.random.default_rng(seed)
        self.windows = round(shape.days * DAY_S / WINDOW_S)
        self.parts: list[tuple[Floats, NDArray[np.object_], Floats, Floats, bool]] = []
        self.spikes: dict[str, list[tuple[float, float]]] = {}
        # Worlds begin on different weekdays.
        self.start = MONDAY + int(self.rng.integers(0, 7)) * DAY_S
        self.step_at: float | None = None

    def make(self) -> World:
        """Ordinary traffic, then the attacks and changes."""
        shape = self.shape
        self._ordinary()
        for number in range(shape.nightly):
            self._nightly(f"batch-{number}")
        calm = self._sum(attacks=False)
        median = float(np.median(calm[calm > 0]))
        for number in range(shape.attacks):
            kind = shape.kinds[number % len(shape.kinds)]
            self._attack(kind, number, median)
        for number in range(shape.spikes):
            self._spike(number)
        return self._world()

    # -- ordinary traffic ------------------------------------------------------------

    def _rate(self) -> Floats:
        """Relative rate of the service in each minute."""
        shape, rng = self.shape, self.rng
        minutes = np.arange(round(shape.days * 1440))
        at = self.start + minutes * 60.0
        hour = at % DAY_S / 3600
        rate = 1 + shape.tide * np.sin((hour - 8) / 24 * 2 * np.pi)
        rate *= 1 + 0.15 * np.sin((hour - 3) / 12 * 2 * np.pi)
        weekday = (at - MONDAY) // DAY_S % 7
        rate = np.where(weekday >= 5, rate * shape.weekend, rate)
        if shape.weather:
            # Correlation over one hour.
            noise = rng.normal(0, 1, len(minutes) // 60 + 3)
            slow = np.interp(minutes / 60, np.arange(len(noise)), noise)
            rate *= np.exp(shape.weather * slow)
        if shape.quiet_nights:
            rate = np.where((hour < 5) | (hour > 23), 0.0, rate)
        if shape.step:
            cut = int(len(minutes) * rng.uniform(0.35, 0.65))
            self.step_at = float(at[cut])
            rate = np.where(minutes >= cut, rate * shape.step, rate)
        return np.maximum(rate, 0.0)

    def _ordinary(self) -> None:
        shape, rng = self.shape, self.rng
        rate = self._rate()
        counts = rng.poisson(shape.rows * rate / rate.sum())
        times = self._moments(np.repeat(np.arange(len(rate)), counts) * 60.0, 60.0)
        weight = rng.lognormal(0, shape.skew, shape.users)
        user = rng.choice(shape.users, len(times), p=weight / weight.sum())
        names = np.array([f"user-{n:04d}" for n in range(shape.users)], dtype=object)
        picked = names[user]
        if shape.churn:
            short = rng.random(shape.users) < shape.churn
            day = ((times - self.start) // DAY_S).astype(int)
            tagged = np.array([f"{n}-d{d}" for n, d in zip(picked, day, strict=True)])
            picked = np.where(short[user], tagged.astype(object), picked)
        scale = rng.lognormal(0, 0.5, shape.users)[user]
        self._add(times, picked, scale, attack=False)
        for number in rng.choice(shape.users, shape.grows, replace=False):
            self._grows(names[number], user == number, times)

    def _grows(self, name: str, mine: NDArray[np.bool_], times: Floats) -> None:
        """One user sends nine times as many requests from some day on."""
        at = self.start + self.rng.uniform(0.3, 0.6) * self.shape.days * DAY_S
        later = times[mine & (times > at)]
        more = np.repeat(later, 9) + self.rng.uniform(-1800, 1800, 9 * len(later))
        more = more[(more > at) & (more < self.start + self.shape.days * DAY_S)]
        self._add(more, self._all(name, len(more)), 1.0, attack=False)

    def _nightly(self, name: str) -> None:
        rng = self.rng
        hour, minutes = rng.uniform(0, 6), rng.uniform(10, 60)
        size = rng.uniform(0.3, 2.0) * self.shape.rows / self.windows * minutes / 5
        for day in range(int(np.ceil(self.shape.days))):
            at = self.start + day * DAY_S + hour * 3600 + rng.normal(0, 240)
            count = rng.poisson(size * rng.lognormal(0, 0.1))
            times = self._moments(np.full(count, at), minutes * 60)
            self._add(times, self._all(name, len(times)), 1.0, attack=False)

    # -- attacks and changes ---------------------------------------------------------

    def _span(self, minutes: tuple[float, float] | None = None) -> tuple[float, float]:
        low, high = minutes or self.shape.minutes
        length = 60 * float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        room = self.shape.days * DAY_S - length - 600
        at = self.start + 300 + self.rng.uniform(0.02, 1) * room
        return at, length

    def _attack(self, kind: str, number: int, median: float) -> None:
        rng = self.rng
        at, length = self._span()
        strength = np.exp(rng.uniform(*np.log(self.shape.strength)))
        tokens = strength * median * length / WINDOW_S
        scale = 20.0 if kind == "output" else 1.0
        mean = 900.0 * scale * np.exp(self.shape.sizes**2 / 2)
        count = max(3, round(tokens / mean))
        shape = rng.random(count)
        if kind == "ramp":
            shape = np.sqrt(shape)
        times = at + length * shape
        if kind == "crowd":
            names = np.array([f"bot-{number}-{n}" for n in range(200)], dtype=object)
            users = rng.choice(names, count)
        else:
            name = f"stranger-{number}"
            if kind != "stranger":
                name = f"user-{rng.integers(0, self.shape.users):04d}"
            users = self._all(name, count)
            self.spikes.setdefault(name, []).append((at, at + length))
        self._add(times, users, scale, attack=True)

    def _spike(self, number: int) -> None:
        """A user sends 15 to 40 times its expected tokens."""
        rng = self.rng
        name = f"user-{rng.integers(0, self.shape.users):04d}"
        own = sum(float(t[u == name].sum()) for _, u, t, _, a in self.parts if not a)
        usual = own / self.windows
        if usual < 20:
            return
        at, length = self._span((30, 180))
        tokens = rng.uniform(15, 40) * usual * length / WINDOW_S
        count = max(20, round(tokens / 1500))
        times = at + length * rng.random(count)
        size = tokens / count / (900.0 * np.exp(self.shape.sizes**2 / 2))
        self.spikes.setdefault(name, []).append((at, at + length))
        self._add(times, self._all(name, count), size, attack=True)

    # -- rows ------------------------------------------------------------------------

    def _moments(self, begin: Floats, width: float) -> Floats:
        times = self.start + begin if begin.size and begin[0] < MONDAY / 2 else begin
        return times + width * self.rng.random(len(begin))

    @staticmethod
    def _all(name: str, count: int) -> NDArray[np.object_]:
        return np.full(count, name, dtype=object)

    def _add(
        self,
        times: Floats,
        users: NDArray[np.object_],
        scale: float | Floats,
        *,
        attack: bool,
    ) -> None:
        sizes = self.rng.lognormal(0, self.shape.sizes, len(times)) * 900 * scale
        share = self.rng.uniform(0.5, 0.95, len(times))
        tokens = np.maximum(1, np.round(sizes))
        self.parts.append((times, users, tokens, np.round(tokens * share), attack))

    def _sum(self, *, attacks: bool) -> Floats:
        total = np.zeros(self.windows + 1)
        for times, _, tokens, _, attack in self.parts:
            if attack <= attacks:
                at = ((times - self.start) // WINDOW_S).astype(int)
                np.add.at(total, np.clip(at, 0, self.windows), tokens)
        return total[: self.windows]

    def _world(self) -> World:
        total = self._sum(attacks=True)
        calm = self._sum(attacks=False)
        times, users, tokens, prompt = (
            np.concatenate([part[at] for part in self.parts]) for at in range(4)
        )
        inside = times < self.start + self.windows * WINDOW_S
        frame = pl.DataFrame(
            {
                "ts": times[inside],
                "user": pl.Series(users[inside].tolist(), dtype=pl.String),
                "prompt_tokens": prompt[inside],
                "completion_tokens": (tokens - prompt)[inside],
            }
        )
        return World(frame, total - calm, total, self.spikes, self.step_at)


@dataclass
class Tally:
    """Counts over worlds."""

    hits: int = 0
    bad: int = 0
    flagged: int = 0
    named: int = 0
    spikes: int = 0
    others: int = 0
    weeks: float = 0.0
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Add the counts of another world."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def text(self) -> str:
        """The counts as one line."""

        def share(part: int, whole: int) -> str:
            return f"{100 * part / whole:5.1f}" if whole else "    -"

        return (
            f"recall {share(self.hits, self.bad)}  precision "
            f"{share(self.hits, self.flagged)}  ({self.bad} bad, "
            f"{self.flagged - self.hits} false)  named {self.named}/{self.spikes}  "
            f"others {self.others / max(self.weeks, 0.1):.1f}/week  "
            f"{self.seconds:.1f} s"
        )


def judge(world: World, report: AnalysisReport, start: int, days: float) -> Tally:
    """Compare one report with the labels."""
    tally = Tally(weeks=days / 7)
    bad = world.bad
    flagged = np.zeros(len(bad), dtype=bool)
    found: dict[str, list[float]] = {}
    for window in report.windows:
        at = window.start
        if window.kind == "all":
            flagged[int((at - start) // WINDOW_S)] = True
        else:
            found.setdefault(window.subject, []).append(at)
    tally.hits = int((bad & flagged).sum())
    tally.bad, tally.flagged = int(bad.sum()), int(flagged.sum())
    for user, spans in world.spikes.items():
        times = found.get(user, [])
        for begin, end in spans:
            tally.spikes += 1
            tally.named += any(begin - WINDOW_S < t < end for t in times)
    for user, times in found.items():
        spans = world.spikes.get(user, [])
        if not user.startswith("bot-"):
            tally.others += sum(
                not any(b - WINDOW_S < t < e + WINDOW_S for b, e in spans)
                for t in times
            )
    return tally


def run(name: str, seed: int) -> Tally:
    """Analyse one world and compare the report with its labels."""
    maker = Maker(WORLDS[name], seed)
    world = maker.make()
    begin = time.perf_counter()
    report = analyze(world.frame)
    took = time.perf_counter() - begin
    tally = judge(world, report, maker.start, maker.shape.days)
    tally.seconds = took
    return tally


def main() -> None:
    """Print one line per world, then the totals."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("-v", action="store_true")
    args = parser.parse_args()
    every = Tally()
    for name in args.worlds.split(","):
        total = Tally()
        for seed in map(int, args.seeds.split(",")):
            one = run(name, seed)
            if args.v:
                print(f"{name:18} {seed:3} {one.text()}")
            total.add(one)
        print(f"{name:18}     {total.text()}", flush=True)
        every.add(total)
    print(f"{'all':18}     {every.text()}")


if __name__ == "__main__":
    main()
