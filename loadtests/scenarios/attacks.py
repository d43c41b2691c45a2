"""Attack episodes, easy and hard, with parameters drawn from ranges.

Sizes, models, endpoints and addresses are drawn as ordinary users' are; what makes an
attack is what it does, never the look of one field.
"""

from __future__ import annotations

import numpy as np

from loadtests.scenarios.labels import Cause
from loadtests.scenarios.networks import HOSTING, RESIDENTIAL
from loadtests.scenarios.population import AGENT, ANONYMOUS, HUMAN, SERVICE
from loadtests.scenarios.rows import (
    FLIPS_MAX,
    Block,
    Floats,
    Ints,
    Words,
    flipped,
    paraphrases,
    strange,
)
from loadtests.scenarios.sizes import human_gaps
from loadtests.scenarios.stage import Stage, arrivals

# No flood of a scenario is longer than this many requests.
LONGEST = 24_000


def _tenant(stage: Stage) -> int:
    """The tenant that is attacked: by size, now and then the one without keys."""
    if stage.rng.random() < 0.15:
        return stage.tenants.public
    share = stage.tenants.share[: -stage.tenants.later]
    return int(stage.rng.choice(len(share), p=share / share.sum()))


def _worded(stage: Stage, count: int, wordings: int, apart: int, flips: int) -> Words:
    """Fingerprints of a template in several wordings, slots filled in."""
    forms = paraphrases(stage.rng, wordings, apart)
    return flipped(stage.rng, stage.rng.choice(forms, count), flips)


def _source(stage: Stage) -> int:
    """One address: a rented server or somebody's home."""
    sort = HOSTING if stage.rng.random() < 0.6 else RESIDENTIAL
    return int(stage.net.draw(stage.rng, sort, 1)[0])


def _flood_times(stage: Stage, start: float, per_s: float, seconds: float) -> Floats:
    return arrivals(stage.rng, start, min(seconds, LONGEST / per_s), per_s)


def flood_one(stage: Stage, cause: Cause, start: float) -> Block:
    """One machine with a fresh key (or none) sends all it can."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    per_s = rng.uniform(3, 8) if hard else rng.uniform(20, 90)
    seconds = rng.uniform(600, 1800) if hard else rng.uniform(120, 600)
    tenant = _tenant(stage)
    ts = _flood_times(stage, start, per_s, seconds)
    rows = stage.alike(tenant, ts)
    rows["ip"] = _source(stage)
    rows["user"] = stage.callers(tenant, 1)[0]
    rows["fp"] = _worded(stage, len(ts), 4 if hard else 1, 12, 4 if hard else 2)
    if hard:  # some of it is padded with other texts
        other = rng.random(len(ts)) < 0.3
        rows["fp"][other] = strange(rng, int(other.sum()))
    return stage.label(cause, rows)


def _botnet(stage: Stage, cause: Cause, start: float, keys: str) -> Block:
    """Many machines; ``keys`` is shared or fresh."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    bots = int(rng.integers(150, 800) if hard else rng.integers(500, 2000))
    per_s = rng.uniform(3, 9) if hard else rng.uniform(25, 80)
    seconds = rng.uniform(900, 2400) if hard else rng.uniform(180, 600)
    tenant = _tenant(stage)
    ts = _flood_times(stage, start, per_s, seconds)
    rows = stage.alike(tenant, ts)
    bot = rng.integers(0, bots, len(ts))
    rows["ip"] = stage.net.bots(rng, bots)[bot]
    users = stage.callers(tenant, bots if keys == "fresh" else 1)
    rows["user"] = users[bot % len(users)]
    rows["fp"] = _worded(stage, len(ts), 5 if hard else 1, 12, 4 if hard else 3)
    return stage.label(cause, rows)


def flood_shared_key(stage: Stage, cause: Cause, start: float) -> Block:
    """Thousands of machines with one key."""
    return _botnet(stage, cause, start, "shared")


def flood_fresh_keys(stage: Stage, cause: Cause, start: float) -> Block:
    """Thousands of machines, each with an account of its own."""
    return _botnet(stage, cause, start, "fresh")


def low_and_slow(stage: Stage, cause: Cause, start: float) -> Block:
    """Each bot sends no more than a person would; all together they are a flood."""
    rng = stage.rng
    bots = int(rng.integers(500, 2000))
    each_s = rng.uniform(120, 600)
    tenant = _tenant(stage)
    ts = _flood_times(stage, start, bots / each_s, rng.uniform(2400, 7200))
    rows = stage.alike(tenant, ts)
    bot = rng.integers(0, bots, len(ts))
    rows["ip"] = stage.net.bots(rng, bots)[bot]
    rows["user"] = stage.callers(tenant, bots)[bot]
    rows["fp"] = _worded(stage, len(ts), int(rng.integers(3, 10)), 12, 4)
    cause.also = ("scraping",)  # the same to the eye where prompts are walked
    return stage.label(cause, rows)


def scrape_one(stage: Stage, cause: Cause, start: float) -> Block:
    """One client walks a template; hard: with human pauses and many wordings."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    tenant = _tenant(stage)
    if hard:
        gaps = human_gaps(rng, int(rng.integers(600, 1800)), rng.uniform(3, 9), 0.9)
        ts = start + np.cumsum(gaps)
    else:
        ts = arrivals(rng, start, rng.uniform(600, 2400), rng.uniform(1, 8))
    rows = stage.alike(tenant, ts)
    rows["ip"] = _source(stage)
    rows["user"] = stage.callers(tenant, 1)[0]
    wordings = int(rng.integers(3, 9)) if hard else 1
    rows["fp"] = _worded(stage, len(ts), wordings, 12, FLIPS_MAX if hard else 4)
    return stage.label(cause, rows)


def scrape_many(stage: Stage, cause: Cause, start: float) -> Block:
    """Scrapers over residential addresses, each at a human pace."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    sources = int(rng.integers(40, 200) if hard else rng.integers(12, 40))
    each_s = rng.uniform(30, 90) if hard else rng.uniform(2, 8)
    tenant = _tenant(stage)
    seconds = rng.uniform(3600, 4 * 3600) if hard else rng.uniform(900, 2400)
    ts = _flood_times(stage, start, sources / each_s, seconds)
    rows = stage.alike(tenant, ts)
    # Addresses change hands: most are used for a while only.
    first = rng.integers(0, sources, len(ts))
    shift = ((ts - start) / (600 if hard else 1e9)).astype(np.int64)
    pool = stage.net.draw(rng, RESIDENTIAL, 4 * sources)
    rows["ip"] = pool[(first + shift * 7) % len(pool)]
    accounts = stage.callers(tenant, max(1, sources // int(rng.integers(1, 8))))
    rows["user"] = accounts[first % len(accounts)]
    wordings = int(rng.integers(4, 16)) if hard else 1
    rows["fp"] = _worded(stage, len(ts), wordings, 12, FLIPS_MAX if hard else 4)
    cause.also = ("ddos",) if sources >= 100 else ()
    return stage.label(cause, rows)


def stolen_key(stage: Stage, cause: Cause, start: float) -> Block:
    """A known user's key in strange hands; its owner goes on as ever."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    victim = stage.one_of(stage.established(int(rng.choice((HUMAN, SERVICE))), start))
    if hard:
        gaps = human_gaps(rng, int(rng.integers(150, 500)), rng.uniform(25, 90), 0.9)
        ts = start + np.cumsum(gaps)
        hands = int(rng.integers(4, 12))
    else:
        ts = arrivals(rng, start, rng.uniform(600, 2400), rng.uniform(1, 8))
        hands = int(rng.integers(20, 90))
    tenant = int(stage.people.tenant[victim])
    rows = stage.alike(tenant, ts)
    hand = rng.integers(0, hands, len(ts))
    rows["ip"] = stage.net.bots(rng, hands)[hand]
    rows["user"] = victim
    rows["tenant"] = tenant
    wanted = rng.choice(rng.choice(9, size=2, replace=False), len(ts))
    rows["model"] = np.where(rng.random(len(ts)) < 0.8, wanted, rows["model"])
    return stage.label(cause, rows)


def _insider(stage: Stage, rows: Block, user: int) -> Block:
    """Requests of a known user from where it always calls."""
    rows["user"] = user
    rows["ip"] = stage.people.address[user]
    return rows


def runaway(stage: Stage, cause: Cause, start: float) -> Block:
    """An agent that never stops: each step carries the whole history along."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    user = stage.one_of(stage.established(AGENT, start))
    pause_s = rng.uniform(8, 15) if hard else rng.uniform(1.5, 5)
    gaps = human_gaps(rng, int(rng.integers(300, 900)), pause_s, 0.4)
    rows = stage.ordinary.rows(np.full(len(gaps), user), start + np.cumsum(gaps))
    growth = rng.uniform(250, 700) if hard else rng.uniform(800, 2500)
    longest = rng.uniform(100_000, 190_000)
    step = np.arange(len(gaps))
    rows["prompt"] += np.minimum(growth * step, longest).astype(np.int32)
    rows["fp"] = flipped(rng, np.repeat(strange(rng, 1), len(gaps)), 2)
    return stage.label(cause, _insider(stage, rows, user))


def raised_output(stage: Stage, cause: Cause, start: float) -> Block:
    """A known service is made to write far more than it ever did."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    busy = stage.established(SERVICE, start)
    busy = busy[np.argsort(stage.people.pace[busy])][-max(1, len(busy) // 3) :]
    user = stage.one_of(busy)
    per_s = rng.uniform(0.06, 0.2) if hard else rng.uniform(0.3, 1.5)
    ts = arrivals(rng, start, rng.uniform(1800, 7200), per_s)
    rows = stage.ordinary.rows(np.full(len(ts), user), ts)
    times = rng.uniform(8, 15) if hard else rng.uniform(15, 40)
    longer = rows["completion"] * times * rng.lognormal(0, 0.4, len(ts))
    rows["completion"] = np.minimum(longer, 32_000).astype(np.int32)
    return stage.label(cause, _insider(stage, rows, user))


def loop(stage: Stage, cause: Cause, start: float) -> Block:
    """A known client sends the same thing again and again."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    life = int(rng.choice((AGENT, SERVICE, HUMAN)))
    user = stage.one_of(stage.established(life, start))
    per_s = rng.uniform(0.25, 0.8) if hard else rng.uniform(2, 10)
    seconds = rng.uniform(2400, 7200) if hard else rng.uniform(600, 2400)
    ts = _flood_times(stage, start, per_s, seconds)
    rows = stage.ordinary.rows(np.full(len(ts), user), ts)
    rows["prompt"][:] = rows["prompt"].max()
    rows["completion"] = rows["completion"].mean() * rng.uniform(0.7, 1.3, len(ts))
    rows["fp"] = flipped(rng, np.repeat(strange(rng, 1), len(ts)), 1)
    return stage.label(cause, _insider(stage, rows, user))


def sweep(stage: Stage, cause: Cause, start: float) -> Block:
    """Keys, models and paths are tried out."""
    rng, hard = stage.rng, cause.difficulty == "hard"
    sources = int(rng.integers(5, 30)) if hard else int(rng.integers(1, 3))
    per_s = sources / rng.uniform(6, 25) if hard else rng.uniform(2, 20)
    seconds = rng.uniform(1800, 5400) if hard else rng.uniform(240, 900)
    tenant = _tenant(stage)
    ts = _flood_times(stage, start, per_s, seconds)
    rows = stage.alike(tenant, ts)
    pool = stage.net.bots(rng, sources)
    rows["ip"] = pool[rng.integers(0, sources, len(ts))]
    rows["user"] = _tried_keys(stage, tenant, len(ts))
    refused = rng.random(len(ts)) < (rng.uniform(0.6, 0.85) if hard else 0.95)
    mix = rng.dirichlet((2.0, 1.0, 2.0))
    rows["status"][refused] = rng.choice((401, 403, 404), int(refused.sum()), p=mix)
    rows["fp"] = np.where(rng.random(len(ts)) < 0.3, 0, strange(rng, len(ts)))
    cause.also = ("credential_abuse",)  # where it is keys that are tried
    return stage.label(cause, rows)


def _tried_keys(stage: Stage, tenant: int, count: int) -> Ints:
    """One key for all, no key, or another key each time."""
    how = stage.rng.random()
    if how < 0.35 or tenant == stage.tenants.public:
        return np.full(count, ANONYMOUS, np.int64)
    if how < 0.65:
        return np.repeat(stage.sign_up(tenant, 1), count)
    return stage.sign_up(tenant, count)


# Name -> (maker, class, is the easy one loud, is the hard one loud, episodes of each
# difficulty in 3,000 users over 8 days).
ATTACKS = {
    "flood_one": (flood_one, "ddos", True, True, 2.0),
    "flood_shared_key": (flood_shared_key, "ddos", True, True, 2.0),
    "flood_fresh_keys": (flood_fresh_keys, "ddos", True, True, 2.0),
    "low_and_slow": (low_and_slow, "ddos", False, False, 2.0),
    "scrape_one": (scrape_one, "scraping", True, False, 3.0),
    "scrape_many": (scrape_many, "scraping", True, False, 3.0),
    "stolen_key": (stolen_key, "credential_abuse", True, False, 4.0),
    "runaway": (runaway, "cost_spike", True, False, 2.0),
    "raised_output": (raised_output, "cost_spike", True, False, 2.0),
    "loop": (loop, "cost_spike", True, False, 2.0),
    "sweep": (sweep, "probing", True, False, 4.0),
}
# There is no easy way to be slow.
HARD_ONLY = ("low_and_slow",)
