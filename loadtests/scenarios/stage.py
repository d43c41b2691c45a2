"""What makers of episodes share: the world's parts, new accounts, labelled blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loadtests.scenarios.labels import Cause, Ledger
from loadtests.scenarios.networks import Internet, spelled_all
from loadtests.scenarios.ordinary import Ordinary
from loadtests.scenarios.population import (
    ANONYMOUS,
    HUMAN,
    SERVICE,
    Population,
    Tenants,
    new_names,
)
from loadtests.scenarios.rows import Block, Floats, Ints, Random


class Hook(Protocol):
    """Something that changes everybody's traffic for a while (an outage)."""

    start: float
    end: float

    def touch(self, rows: Block) -> Block:
        """Change ``rows`` (one slice, in order) in place; return what is sent besides."""
        ...


@dataclass(slots=True)
class Stage:
    """The world as the makers of episodes see it."""

    rng: Random
    net: Internet
    tenants: Tenants
    people: Population
    ordinary: Ordinary
    ledger: Ledger
    hooks: list[Hook]

    def sign_up(self, tenant: int, count: int) -> Ints:
        """Numbers of new accounts of a tenant, named like all its accounts."""
        names = self.people.names
        first = len(names)
        names += new_names(self.rng, int(self.tenants.style[tenant]), count)
        return np.arange(first, first + count)

    def callers(self, tenant: int, count: int) -> Ints:
        """New accounts, or nobody in particular where the tenant asks for no key."""
        if tenant == self.tenants.public:
            return np.full(count, ANONYMOUS, np.int64)
        return self.sign_up(tenant, count)

    def alike(self, tenant: int, ts: Floats) -> Block:
        """Requests that look like those of the tenant's ordinary users, one at a time."""
        models = np.concatenate(
            [self.people.of(HUMAN, tenant), self.people.of(SERVICE, tenant)]
        )
        if not len(models):
            models = self.people.of(HUMAN)
        return self.ordinary.rows(self.rng.choice(models, len(ts)), ts)

    def established(self, life: int, at: float) -> Ints:
        """Users of one way of life that have been there for a day or more; in a small
        or a young world others stand in for them.
        """
        everybody = np.arange(1, len(self.people.life))
        who = self.people.of(life)
        known = who[self.people.born[who] < at - 86_400]
        return next(some for some in (known, who, everybody) if len(some))

    def one_of(self, among: Ints) -> int:
        """One user by lot."""
        return int(self.rng.choice(among))

    def label(self, cause: Cause, rows: Block) -> Block:
        """Rows marked as the cause's doing, and its entry filled in from them."""
        rows = rows[np.argsort(rows["ts"], kind="stable")]
        rows["cause"] = cause.index
        # Streams hold milliseconds: the span is rounded outwards.
        cause.start = float(np.floor(rows["ts"][0] * 1000) / 1000)
        cause.end = float(np.ceil(rows["ts"][-1] * 1000) / 1000)
        cause.tenant = self.tenants.names[int(rows["tenant"][0])]
        cause.ips |= set(spelled_all(np.unique(rows["ip"])))
        numbers = np.unique(rows["user"])
        cause.users |= {self.people.names[i] for i in numbers.tolist() if i}
        return rows


def arrivals(rng: Random, start: float, seconds: float, per_s: float) -> Floats:
    """Poisson arrivals."""
    count = max(1, int(rng.poisson(seconds * per_s)))
    return np.asarray(np.sort(rng.uniform(start, start + seconds, count)))
