"""Honest causes that look like attacks: each has a double among the attacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtests.scenarios.labels import Cause
from loadtests.scenarios.networks import CARRIER, RESIDENTIAL
from loadtests.scenarios.population import (
    CRON,
    EVALUATOR,
    HUMAN,
    NIGHTLY,
    SERVICE,
)
from loadtests.scenarios.rows import ROW, Block, join
from loadtests.scenarios.stage import Stage, arrivals

NOTHING = np.zeros(0, ROW)
UPSTREAM_FAILURES = (500, 502, 503, 504)


def announce(stage: Stage, cause: Cause, start: float) -> None:
    """Settle beforehand whose campaign it is and how long: operators know that."""
    who = stage.people.of(HUMAN)
    tenant = int(stage.people.tenant[stage.one_of(who)])
    cause.tenant = stage.tenants.names[tenant]
    cause.start, cause.end = start, start + stage.rng.uniform(3600, 4 * 3600)
    cause.declared = 8.0 if cause.name.endswith("declared") else None


def campaign(stage: Stage, cause: Cause, start: float) -> Block:
    """A launch: many newcomers and more of the usual people, ordinary in all else."""
    rng = stage.rng
    tenant = stage.tenants.names.index(cause.tenant)
    models = stage.people.of(HUMAN, tenant)
    seconds = cause.end - start
    crowd = int(rng.integers(250, 1200))
    # It swells within minutes and dies away slowly.
    begins = start + np.minimum(rng.gamma(1.6, seconds / 5, crowd), seconds)
    who = rng.choice(models, crowd)
    rows, session = stage.ordinary.talks_of(who, begins, 38.0, 3.5)
    newcomer = rng.random(crowd) < 0.75
    users = np.where(newcomer, stage.callers(tenant, crowd), who)
    homes = stage.net.draw(rng, RESIDENTIAL, crowd)
    phones = rng.random(crowd) < 0.3
    homes[phones] = stage.net.draw(rng, CARRIER, int(phones.sum()))
    if tenant != stage.tenants.public:
        rows["user"] = users[session]
    rows["ip"] = np.where(newcomer[session], homes[session], rows["ip"])
    return stage.label(cause, rows)


def _peopled_tenant(stage: Stage) -> int:
    """A tenant with people, by size."""
    who = stage.people.of(HUMAN)
    return int(stage.people.tenant[stage.one_of(who)])


@dataclass(slots=True)
class Failing:
    """For a while the requests of some models or of one user fail, and come again."""

    stage: Stage
    cause: Cause
    start: float
    end: float
    models: tuple[int, ...] = ()
    user: int = -1
    share: float = 1.0
    again: float = 0.7
    pause_s: float = 8.0
    statuses: tuple[int, ...] = UPSTREAM_FAILURES

    def touch(self, rows: Block) -> Block:
        """Fail those concerned; the answer is what their clients send next."""
        rng = self.stage.rng
        mine = (rows["ts"] >= self.start) & (rows["ts"] < self.end)
        mine &= rows["status"] < 400  # what failed already is sent again only once
        if self.user >= 0:
            mine &= rows["user"] == self.user
        else:
            mine &= np.isin(rows["model"], self.models)
        mine &= rng.random(len(rows)) < self.share
        hit = np.flatnonzero(mine)
        if not len(hit):
            return NOTHING
        rows["status"][hit] = rng.choice(self.statuses, len(hit))
        rows["cause"][hit] = np.where(
            rows["cause"][hit] == 0, self.cause.index, rows["cause"][hit]
        )
        self._note(rows[hit])
        return self._sent_again(rows[hit])

    def _note(self, rows: Block) -> None:
        names = self.stage.people.names
        self.cause.users |= {names[i] for i in np.unique(rows["user"]).tolist() if i}
        if self.user >= 0:
            self.cause.tenant = self.stage.tenants.names[int(rows["tenant"][0])]

    def _sent_again(self, failed: Block) -> Block:
        """Retries with pauses, and everybody at once when it works again."""
        rng = self.stage.rng
        soon = failed[rng.random(len(failed)) < self.again]
        soon["ts"] += self.pause_s * rng.lognormal(0, 0.8, len(soon))
        later = failed[rng.random(len(failed)) < self.again / 3]
        later["ts"] = self.end + rng.exponential(12.0, len(later))
        both = join([soon, later])
        both["status"] = 200
        size = rng.lognormal(6.6, 0.9, len(both))
        both["prompt"] = np.maximum(1, size)
        both["completion"] = np.maximum(1, rng.lognormal(5.0, 0.8, len(both)))
        return both


def outage(stage: Stage, cause: Cause, start: float) -> Block:
    """An upstream fails for a while; its clients try again, then all come back."""
    rng = stage.rng
    seconds = float(rng.uniform(480, 2400))
    models = tuple(
        rng.choice(9, size=int(rng.choice((2, 4, 9))), replace=False).tolist()
    )
    cause.start, cause.end, cause.tenant = start, start + seconds, "*"
    share = float(rng.uniform(0.5, 1.0))
    stage.hooks.append(
        Failing(stage, cause, start, start + seconds, models=models, share=share)
    )
    return NOTHING


def broken_key(stage: Stage, cause: Cause, start: float) -> Block:
    """A deployment with a wrong key: a known service hammers with 401."""
    rng = stage.rng
    user = stage.one_of(_busy(stage, start))
    seconds = float(rng.uniform(900, 7200))
    cause.start, cause.end = start, start + seconds
    cause.users.add(stage.people.names[user])
    stage.hooks.append(
        Failing(
            stage,
            cause,
            start,
            start + seconds,
            user=user,
            again=0.93,
            pause_s=3.0,
            statuses=(401, 401, 401, 403),
        )
    )
    return NOTHING


def _busy(stage: Stage, at: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Services with a good deal of traffic."""
    who = stage.established(SERVICE, at)
    return who[np.argsort(stage.people.pace[who])][-max(1, len(who) // 2) :]


def evaluation(stage: Stage, cause: Cause, start: float) -> Block:
    """An evaluator walks a big data set, several requests at a time."""
    rng = stage.rng
    who = np.array([stage.one_of(stage.established(EVALUATOR, start))])
    size = np.array([int(rng.integers(400, 3000))])
    pause_s = np.array([1 / rng.uniform(0.7, 6)])
    rows = stage.ordinary.run_of(who, np.array([start]), size, pause_s)
    return stage.label(cause, rows)


def first_job(stage: Stage, cause: Cause, start: float) -> Block:
    """A known user starts a batch for the first time."""
    rng = stage.rng
    life = int(rng.choice((HUMAN, SERVICE, CRON, NIGHTLY)))
    who = np.array([stage.one_of(stage.established(life, start))])
    size = np.array([int(rng.integers(300, 2000))])
    pause_s = np.array([1 / rng.uniform(0.3, 2)])
    rows = stage.ordinary.run_of(who, np.array([start]), size, pause_s)
    return stage.label(cause, rows)


def onboarding(stage: Stage, cause: Cause, start: float) -> Block:
    """A big customer's first day: its users are there from now on, a lot at first."""
    rng, people = stage.rng, stage.people
    tenant = len(stage.tenants.names) - 1 - cause.index % stage.tenants.later
    who = np.flatnonzero(people.tenant == tenant)
    people.born[who] = start + rng.uniform(0, 6 * 3600, len(who))
    cause.start, cause.end = start, start + 86_400
    cause.tenant = stage.tenants.names[tenant]
    cause.users |= {people.names[i] for i in who.tolist() if i}
    # The first imports: a few of its accounts bring their archives in.
    few = rng.choice(who, min(len(who), 4))
    size = rng.integers(300, 1500, len(few))
    begins = start + 6 * 3600 + rng.uniform(0, 3600, len(few))
    pause_s = 1 / rng.uniform(0.5, 3, len(few))
    rows = stage.label(cause, stage.ordinary.run_of(few, begins, size, pause_s))
    cause.start = start
    return rows


def level_step(stage: Stage, cause: Cause, start: float) -> Block:
    """A customer grows: from now on several times what it used to be."""
    rng, people = stage.rng, stage.people
    user = stage.one_of(_busy(stage, start))
    people.pace[user] *= rng.uniform(2, 5)
    cause.start, cause.end = start, start + 86_400
    cause.tenant = stage.tenants.names[int(people.tenant[user])]
    cause.users.add(people.names[user])
    return NOTHING


def strangers(stage: Stage, cause: Cause, start: float) -> Block:
    """A conference or a class: thirty to eighty people behind one new address."""
    rng = stage.rng
    tenant = _peopled_tenant(stage)
    ts = arrivals(rng, start, 3600 * 2, rng.uniform(0.05, 0.2))
    crowd = int(rng.integers(30, 80))
    rows = stage.alike(tenant, ts)
    rows["ip"] = stage.net.draw(rng, RESIDENTIAL, 1)[0]
    rows["user"] = stage.callers(tenant, crowd)[rng.integers(0, crowd, len(ts))]
    return stage.label(cause, rows)


# Name -> (maker, the class that names it, how many in 3,000 users over 8 days).
HONEST = {
    "campaign": (campaign, "surge", 2.0),
    "campaign_declared": (campaign, "surge", 1.0),
    "outage": (outage, "outage", 2.0),
    "broken_key": (broken_key, "", 3.0),
    "evaluation": (evaluation, "", 6.0),
    "first_job": (first_job, "", 8.0),
    "onboarding": (onboarding, "", 1.0),
    "level_step": (level_step, "", 10.0),
    "strangers": (strangers, "", 3.0),
}
