"""Who lives in the world: tenants, and users of several ways of life.

All attributes are columns over users, so that a slice of everybody's traffic is made
at once. Nothing here knows of attacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loadtests.scenarios.networks import CARRIER, HOSTING, RESIDENTIAL, Internet
from loadtests.scenarios.rows import (
    CHAT,
    EMBED_MODEL,
    EMBEDDINGS,
    OTHER,
    Floats,
    Ints,
    Random,
    Words,
    strange,
)

HUMAN, AGENT, SERVICE, SERVERLESS, CRON, NIGHTLY, HEALTH, EVALUATOR = range(8)
# Share of users of each way of life; most accounts are people, most requests are not.
LIVES = (0.72, 0.06, 0.08, 0.02, 0.05, 0.035, 0.01, 0.025)
# What a request's fingerprint follows.
VARIED, CONVERSATION, TEMPLATE, NO_FINGERPRINT = range(4)
ZONES = (-8.0, -5.0, -3.0, 0.0, 1.0, 2.0, 5.5, 8.0, 9.0)
USERS_PER_TENANT = 60
# Templates of one tenant's application, all its users share them.
TEMPLATES = 6
ID_STYLES = 4
ANONYMOUS = 0


def new_names(rng: Random, style: int, count: int) -> list[str]:
    """User ids as this tenant's sign-in makes them (0 and 1: hashed credentials)."""
    words = rng.integers(1, 2**63, count, dtype=np.int64).tolist()
    if style <= 1:
        return [f"key_{word:016x}" for word in words]
    if style == 2:
        return [f"u-{word % 9_000_000 + 1_000_000}" for word in words]
    return [f"{word % 0xFFFFFF:06x}@example.com" for word in words]


@dataclass(slots=True)
class Tenants:
    """Columns over tenants."""

    names: list[str]
    share: Floats
    zone: Floats  # hours from UTC
    weekend: Floats  # activity on Saturday and Sunday, 1: as on any day
    style: Ints
    office: list[Words]  # addresses behind which its people sit
    home: Floats  # share of people at home or on the road
    templates: Words  # TEMPLATES fingerprints each
    public: int  # the one that admits callers without a credential
    later: int  # so many at the end may become customers during the run


def make_tenants(rng: Random, net: Internet, count: int, later: int) -> Tenants:
    """Tenants with sizes by Zipf's law; the last ``later`` become customers later."""
    weight = 1.0 / np.arange(1, count + 1) ** 0.8
    weight[count - later :] = weight[min(count, 8) // 2]  # those are big ones
    style = rng.integers(0, ID_STYLES, count)
    words = rng.integers(0, 2**28, count).tolist()
    return Tenants(
        names=[f"t{word:07x}" for word in words],
        share=weight / weight.sum(),
        zone=rng.choice(ZONES, count),
        weekend=rng.choice((0.15, 0.35, 0.9, 1.2), count),
        style=style,
        office=[net.draw(rng, RESIDENTIAL, int(rng.integers(1, 4))) for _ in words],
        home=rng.uniform(0.1, 1.0, count),
        templates=strange(rng, count * TEMPLATES).reshape(count, TEMPLATES),
        public=int(rng.integers(1, max(2, count // 3))),
        later=later,
    )


@dataclass(slots=True)
class Population:
    """Columns over users; row ``i`` is user ``i`` (0: anonymous, in nobody's books)."""

    names: list[str]
    tenant: Ints
    life: Ints
    pace: Floats  # expected requests (people, evaluators: sessions) a day
    tide: Floats  # log of peak over trough of the day
    noise: Floats  # spread of the rate's own noise, logarithm
    born: Floats  # epoch seconds of the first possible request
    model: Ints
    second: Ints  # the other model, used now and then
    endpoint: Ints
    prompt_scale: Floats
    answer_scale: Floats
    errors: Floats  # share of requests that fail by themselves
    print_mode: Ints
    template: Words
    address: Words  # where it usually calls from (people: changes now and then)
    pool: list[Words]  # rotating egress and carriers: addresses; else empty
    roaming: Floats  # share of sessions from the pool
    period: Floats  # CRON, HEALTH: seconds; NIGHTLY: local hour
    burst: Floats  # CRON, NIGHTLY, EVALUATOR: requests of one run
    state: Floats = field(default_factory=lambda: np.zeros(0))
    level: Floats = field(default_factory=lambda: np.ones(0))

    def of(self, life: int, tenant: int | None = None) -> Ints:
        """Numbers of the users of one way of life (of one tenant)."""
        mine = self.life == life
        if tenant is not None:
            mine &= self.tenant == tenant
        return np.flatnonzero(mine[1:]) + 1


def heavy(rng: Random, count: int, median: float, spread: float) -> Floats:
    """Log-normal draws: most small, some huge."""
    return np.asarray(median * np.exp(spread * rng.standard_normal(count)))


def _paces(rng: Random, life: Ints) -> Floats:
    """Requests a day (sessions for people, agents, evaluators)."""
    count = len(life)
    draws = {
        HUMAN: heavy(rng, count, 1.1, 0.9),
        AGENT: heavy(rng, count, 2.0, 0.8),
        SERVICE: np.minimum(heavy(rng, count, 140, 1.2), 6000),
        SERVERLESS: np.minimum(heavy(rng, count, 200, 1.0), 3000),
        CRON: np.ones(count),
        NIGHTLY: np.ones(count),
        HEALTH: np.ones(count),
        EVALUATOR: heavy(rng, count, 0.25, 0.4),
    }
    return np.choose(life, [draws[i] for i in range(len(draws))])


def _print_modes(rng: Random, life: Ints) -> Ints:
    """People talk or fill in forms, machines mostly fill in forms."""
    count = len(life)
    people = rng.choice(4, count, p=(0.45, 0.25, 0.25, 0.05))
    agents = rng.choice(4, count, p=(0.1, 0.7, 0.15, 0.05))
    machines = rng.choice(4, count, p=(0.2, 0.0, 0.72, 0.08))
    return np.where(life == HUMAN, people, np.where(life == AGENT, agents, machines))


def _periods(rng: Random, life: Ints) -> Floats:
    """Seconds between runs of clocks and checks; the hour of nightly jobs."""
    count = len(life)
    cron = rng.choice((900.0, 3600.0, 21_600.0), count, p=(0.25, 0.55, 0.2))
    health = rng.choice((30.0, 60.0, 120.0, 300.0), count)
    night = rng.integers(0, 6, count).astype(np.float64)
    return np.select([life == CRON, life == HEALTH], [cron, health], night)


def _bursts(rng: Random, life: Ints) -> Floats:
    """Requests of one run of a job."""
    count = len(life)
    cron = np.minimum(heavy(rng, count, 4, 0.8), 60)
    night = np.minimum(heavy(rng, count, 130, 0.8), 2000)
    tests = np.minimum(heavy(rng, count, 350, 0.6), 3000)
    return np.select([life == CRON, life == NIGHTLY], [cron, night], tests)


def _addresses(
    rng: Random, net: Internet, tenants: Tenants, tenant: Ints, life: Ints
) -> tuple[Words, list[Words], Floats]:
    """Usual address, rotating pool and how often the pool is used, per user."""
    count = len(life)
    usual = np.where(
        life == HUMAN,
        net.draw(rng, RESIDENTIAL, count),
        net.draw(rng, HOSTING, count),
    )
    roaming = np.where(life == HUMAN, rng.choice((0.0, 0.25, 0.8), count), 0.0)
    carriers = [net.draw(rng, CARRIER, 40) for _ in range(6)]
    pool = [np.zeros(0, np.uint64)] * count
    for i in range(count):
        if life[i] == SERVERLESS:
            pool[i] = net.draw(rng, HOSTING, int(rng.integers(20, 400)))
            roaming[i] = 1.0
        elif roaming[i]:
            pool[i] = carriers[int(rng.integers(0, 6))]
        if life[i] == HUMAN and rng.random() > tenants.home[tenant[i]]:
            usual[i] = rng.choice(tenants.office[tenant[i]])
    return usual, pool, roaming


def make_population(
    rng: Random, net: Internet, tenants: Tenants, count: int, span: tuple[float, float]
) -> Population:
    """``count`` users and the anonymous row before them; 12 % sign up during the run,
    which lasts from ``span[0]`` to ``span[1]``, epoch seconds.
    """
    total = count + 1
    tenant = rng.choice(len(tenants.names), total, p=tenants.share)
    life = rng.choice(len(LIVES), total, p=LIVES)
    names = ["anonymous"]
    for i in range(1, total):
        names += new_names(rng, int(tenants.style[tenant[i]]), 1)
    # The public tenant's people carry no name: their addresses are the subjects.
    model = rng.choice(9, total, p=(0.25, 0.2, 0.04, 0.1, 0.14, 0.07, 0.1, 0.06, 0.04))
    endpoint = rng.choice(6, total, p=(0.6, 0.16, 0.1, 0.06, 0.06, 0.02))
    endpoint = np.where((life == HUMAN) & (endpoint >= EMBEDDINGS), CHAT, endpoint)
    model = np.where(endpoint == EMBEDDINGS, EMBED_MODEL, model)
    usual, pool, roaming = _addresses(rng, net, tenants, tenant, life)
    modes = _print_modes(rng, life)
    template = tenants.templates[tenant, rng.integers(0, TEMPLATES, total)]
    start, seconds = span[0], span[1] - span[0]
    own = (life != HUMAN) & (rng.random(total) < 0.6)
    # Nobody's first act is a night's batch or an evaluation: see ``onboarding``.
    late = (rng.random(total) < 0.12) & (life != NIGHTLY) & (life != EVALUATOR)
    machine = life >= CRON
    return Population(
        names=names,
        tenant=tenant,
        life=life,
        pace=_paces(rng, life),
        tide=np.where(
            life >= SERVICE, rng.uniform(0, 2, total), rng.uniform(2, 5, total)
        ),
        noise=np.where(
            life == SERVICE, rng.uniform(0.5, 1.7, total), rng.uniform(0.3, 1.1, total)
        ),
        born=start + np.where(late, rng.uniform(0.05, 1, total) * seconds, 0.0),
        model=model,
        second=np.where(endpoint == EMBEDDINGS, EMBED_MODEL, rng.permutation(model)),
        endpoint=endpoint,
        prompt_scale=heavy(rng, total, 1.0, 0.5),
        answer_scale=heavy(rng, total, 1.0, 0.4),
        errors=np.minimum(heavy(rng, total, 0.008, 1.0), 0.2),
        print_mode=np.where(endpoint == OTHER, NO_FINGERPRINT, modes),
        template=np.where(own, strange(rng, total), template),
        address=usual,
        pool=pool,
        roaming=roaming,
        period=_periods(rng, life),
        burst=_bursts(rng, life),
        state=np.zeros(total),
        level=np.where(machine, 1.0, heavy(rng, total, 1.0, 0.1)),
    )
