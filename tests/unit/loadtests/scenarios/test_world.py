"""The traffic generator: seeded, ordered and labelled, without fields that reveal
labels.
"""

from __future__ import annotations

import csv
import gzip
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable

import msgspec
import numpy as np
import pytest

from loadtests.scenarios import Row, Settings, World
from loadtests.scenarios.rows import clustered, flipped, paraphrases, positions, strange
from loadtests.scenarios.sizes import draw_sizes

SMALL = Settings(seed=11, users=120, days=1.0, quiet_days=0.0)
# Highest balanced accuracy of a rule on one field in other worlds (chance: 0.5).
GIVEN_AWAY = 0.68


@pytest.fixture(name="world", scope="module")
def _world() -> tuple[World, list[Row]]:
    """A small world with all its requests."""
    world = World(SMALL)
    return world, list(world.rows())


@pytest.fixture(name="samples", scope="module")
def _samples(world) -> list[list[tuple[Row, bool]]]:
    """Labelled requests of three worlds with different seeds."""
    samples = [labelled(*world)]
    for seed in (12, 13):
        other = World(msgspec.structs.replace(SMALL, seed=seed))
        samples.append(labelled(other, other.rows()))
    return samples


def few(seed: int) -> list[Row]:
    """The first 3,000 requests of a world."""
    return list(itertools.islice(World(Settings(seed=seed, users=60)).rows(), 3000))


def test_equal_seeds_make_equal_worlds():
    """The same settings give the same requests; another seed gives others."""
    assert few(5) == few(5)
    assert few(5) != few(6)


def test_requests_come_in_order_of_time(world):
    """Requests are in order of time and cover the requested span."""
    _, rows = world
    times = [row.ts for row in rows]
    assert times == sorted(times)
    assert SMALL.start <= times[0] < SMALL.start + 3600
    assert times[-1] >= SMALL.start + 0.95 * 86_400


def test_every_kind_of_cause_takes_place(world):
    """Each attack sends requests, and the ledger has all its subjects and its span."""
    made, rows = world
    attacks = made.ledger.attacks()
    assert len({(a.name, a.difficulty) for a in attacks}) == 21
    sent = Counter(row.cause for row in rows)
    for attack in attacks:
        assert sent[attack.index] == attack.requests >= 100
        assert attack.ips
        assert attack.start < attack.end
    for row in rows:
        cause = made.ledger.causes[row.cause]
        if cause.kind == "attack":
            assert row.client_ip in cause.ips
            assert row.user == "anonymous" or row.user in cause.users
            assert cause.start - 1e-3 <= row.ts <= cause.end + 1e-3


def test_no_attacks_where_none_are_wanted():
    """With ``attacks=0`` and ``honest=0`` there is only ordinary traffic."""
    made = World(Settings(users=60, days=0.3, attacks=0, honest=0))
    assert {row.cause for row in made.rows()} == {0}
    assert not made.plan


def test_ordinary_traffic_has_every_kind_of_client(world):
    """Ordinary traffic has people, agents, services and jobs, none of which sends 70 %
    of it.
    """
    made, rows = world
    ordinary = [row for row in rows if row.cause == 0]
    lives = Counter(made.life_of(row.user) for row in ordinary)
    assert {"human", "agent", "service", "cron", "nightly", "health"} <= set(lives)
    assert lives.most_common(1)[0][1] < 0.7 * len(ordinary)


def test_counts_and_prices_hold_together(world):
    """Totals are sums, failures cost nothing, and fingerprints have 64 bits."""
    _, rows = world
    for row in rows:
        assert row.total_tokens == row.prompt_tokens + row.completion_tokens
        if row.status != 200:
            assert row.total_tokens == 0
            assert row.usd == 0
        assert row.fingerprint is None or 0 < row.fingerprint < 2**64


# -- no field reveals the label ----------------------------------------------------------

FIELDS: dict[str, Callable[[Row], Hashable]] = {
    "first byte of the address": lambda row: row.client_ip.split(".")[0][:4],
    "kind of address": lambda row: ":" in row.client_ip,
    "last byte of the address": lambda row: row.client_ip.rsplit(".", 1)[-1],
    "shape of the user": lambda row: (row.user[:2], len(row.user)),
    "end of the user": lambda row: row.user[-1:],
    "model": lambda row: row.model,
    "endpoint": lambda row: row.endpoint,
    "status": lambda row: row.status,
    "second": lambda row: int(row.ts) % 60,
    "fraction of the second": lambda row: int(row.ts % 1 * 20),
    "minute": lambda row: int(row.ts // 60) % 60,
    "prompt tokens": lambda row: int(np.log1p(row.prompt_tokens) * 3),
    "completion tokens": lambda row: int(np.log1p(row.completion_tokens) * 3),
    "price": lambda row: int(np.log1p(row.usd * 1e6) * 2),
    "no fingerprint": lambda row: row.fingerprint is None,
    "bits of the fingerprint": lambda row: (row.fingerprint or 0).bit_count(),
    "tail of the fingerprint": lambda row: (row.fingerprint or 0) & 15,
}


def labelled(made: World, rows: Iterable[Row]) -> list[tuple[Row, bool]]:
    """At most 60 requests of each attack and 5 of each user, with labels."""
    taken: Counter[Hashable] = Counter()
    few = []
    for row in rows:
        attack = made.ledger.causes[row.cause].kind == "attack"
        key = row.cause if attack else (row.user, row.client_ip)
        taken[key] += 1
        if taken[key] <= (60 if attack else 5):
            few.append((row, attack))
    return few


def balanced_accuracy(
    field: Callable[[Row], Hashable],
    learn: list[tuple[Row, bool]],
    judge: list[tuple[Row, bool]],
) -> float:
    """Balanced accuracy on ``judge`` of the best rule on one field learned on
    ``learn``.
    """
    seen: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
    total = [0, 0]
    for row, attack in learn:
        seen[field(row)][attack] += 1
        total[attack] += 1
    hits, of = [0, 0], [0, 0]
    for row, attack in judge:
        good, bad = seen.get(field(row), (0, 0))
        says = bad / total[1] > good / total[0]
        hits[attack] += says == attack
        of[attack] += 1
    return (hits[0] / of[0] + hits[1] / of[1]) / 2


@pytest.mark.parametrize("name", FIELDS)
def test_no_single_field_reveals_attacks(samples, name):
    """A rule on one field learned in one world has a low accuracy in others."""
    pairs = itertools.permutations(samples, 2)
    marks = [balanced_accuracy(FIELDS[name], *pair) for pair in pairs]
    assert sum(marks) / len(marks) < GIVEN_AWAY


def test_names_of_attackers_do_not_follow_in_order(world):
    """Account names of bots are not in order of time."""
    made, rows = world
    bots = max(made.ledger.attacks(), key=lambda attack: len(attack.users))
    order = list(dict.fromkeys(r.user for r in rows if r.cause == bots.index))
    rising = sum(a < b for a, b in itertools.pairwise(order)) / (len(order) - 1)
    assert len(order) > 100
    assert 0.4 < rising < 0.6


# -- parts of the generator --------------------------------------------------------------


def apart(a: int, b: int) -> int:
    """Number of bits in which two fingerprints differ."""
    return (int(a) ^ int(b)).bit_count()


def test_prompts_of_a_template_are_alike_and_others_are_not():
    """Fingerprints of one template differ in at most 10 bits, unrelated ones in about
    32.
    """
    rng = np.random.default_rng(1)
    base = strange(rng, 1)
    alike = flipped(rng, np.repeat(base, 300), 5)
    assert max(apart(a, b) for a, b in itertools.pairwise(alike)) <= 10
    distances = [apart(a, b) for a, b in itertools.pairwise(strange(rng, 300))]
    assert 30 < np.mean(distances) < 34


def test_paraphrases_are_no_longer_alike():
    """Paraphrases of a template differ in more bits than its variations."""
    rng = np.random.default_rng(2)
    forms = paraphrases(rng, 8, 12)
    distances = [apart(a, b) for a, b in itertools.combinations(forms, 2)]
    assert np.median(distances) > 10


def test_groups_of_requests_start_where_they_should():
    """Each group starts at its time and continues by its own gaps."""
    sizes = np.array([2, 3])
    gaps = np.array([9.0, 1.0, 9.0, 2.0, 2.0])
    times = clustered(np.array([10.0, 100.0]), sizes, gaps)
    assert times.tolist() == [10.0, 11.0, 100.0, 102.0, 104.0]
    assert positions(sizes).tolist() == [0, 1, 0, 1, 2]


def test_sizes_follow_the_real_hour(shared):
    """Prompt and answer sizes have the quantiles and the correlation of the public
    trace.
    """
    with gzip.open(shared / "traces" / "azure_conv_2023.csv.gz", "rt") as lines:
        real = np.array([row[1:] for row in csv.reader(lines)][1:], dtype=float)
    prompt, answer = draw_sizes(np.random.default_rng(3), 20_000)
    for level in (0.25, 0.5, 0.75, 0.9):
        for mine, theirs in ((prompt, real[:, 0]), (answer, real[:, 1])):
            ratio = np.quantile(mine, level) / np.quantile(theirs, level)
            assert 0.8 < ratio < 1.25
    joint = np.corrcoef(np.log(prompt), np.log(answer))[0, 1]
    assert abs(joint - np.corrcoef(np.log(real.T))[0, 1]) < 0.1
