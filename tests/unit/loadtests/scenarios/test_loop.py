"""The closed loop and its evaluation: perfect detectors get full marks, silent ones
none.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtests.scenarios import Row, Settings, World
from loadtests.scenarios.detectors import Finding
from loadtests.scenarios.loop import Loop
from loadtests.scenarios.report import goals, group, summary
from loadtests.scenarios.rules import FixedLimits, MeanAndDeviation, MedianAndMad
from loadtests.scenarios.tally import Result, Tally, quantile

TINY = Settings(seed=3, users=60, days=0.5)


class Silent:
    """A detector that reports nothing."""

    name = "silent"

    def observe(self, row: Row) -> Sequence[Finding]:
        return ()

    def refused(self, row, *, read):
        """Report nothing."""
        return ()

    def advance(self, now: float) -> Sequence[Finding]:
        return ()

    def action_for(self, kind: str, id_: str, tenant: str) -> str:
        return "allow"

    def floods(self, row: Row) -> bool:
        return False


class Oracle(Silent):
    """A detector that knows the labels and blocks an attacker's subject at its first
    request.
    """

    name = "oracle"

    def __init__(self, world: World) -> None:
        self.causes = world.ledger.causes
        self.blocked: set[tuple[str, str]] = set()
        self.opened: set[int] = set()

    def observe(self, row: Row) -> Sequence[Finding]:
        cause = self.causes[row.cause]
        if cause.kind != "attack":
            return ()
        subject = ("user", row.user)
        if row.user == "anonymous":
            subject = ("client_ip", row.client_ip)
        self.blocked.add(subject)
        kind = "client.blocked" if cause.index in self.opened else "incident.opened"
        self.opened.add(cause.index)
        return [found(row, kind, cause.cls, subject)]

    def action_for(self, kind: str, id_: str, tenant: str) -> str:
        return "block" if (kind, id_) in self.blocked else "allow"


class BlocksEveryone(Silent):
    """A detector that blocks the address of every request."""

    name = "furious"

    def observe(self, row: Row) -> Sequence[Finding]:
        subject = ("client_ip", row.client_ip)
        return [
            found(row, "incident.opened", "volume", subject),
            found(row, "client.blocked", "volume", subject),
        ]


def found(row: Row, kind: str, cls: str, subject: tuple[str, str]) -> Finding:
    """A finding about one request."""
    return Finding(
        ts=row.ts,
        type=kind,
        id=f"{cls}:{row.cause}",
        severity="warning",
        cls=cls,
        subject=subject,
        tenant=row.tenant,
        action="block",
    )


def run(world: World, detector: Silent) -> Result:
    """Run one detector on one world."""
    tally = Tally(world, detector.name)
    return tally.result(*Loop(detector, world.ledger, tally).run(world, float))


@pytest.fixture(name="perfect", scope="module")
def _perfect() -> Result:
    """The result of the oracle."""
    world = World(TINY)
    return run(world, Oracle(world))


def test_an_oracle_gets_full_marks(perfect):
    """A detector that knows the labels has recall 1 without delay, and affects only
    clients that share a bot's address.
    """
    marks = group(perfect.episodes)
    assert marks["recall"] == marks["right_class"] == marks["acted"] == 1.0
    assert marks["delay_p95"] == 0.0
    assert marks["incidents"] == 1.0
    assert len(perfect.world.touched) < 0.01 * perfect.world.subjects
    assert perfect.world.false_incidents == 0


def test_refused_attackers_try_again(perfect):
    """Attackers retry refused requests, so more requests arrive than were planned."""
    world = World(TINY)
    planned = sum(1 for _ in world.rows())
    assert perfect.world.events > planned


def test_a_silent_detector_has_no_recall():
    """A detector that reports nothing has recall 0 and refuses no request."""
    result = run(World(TINY), Silent())
    assert group(result.episodes)["recall"] == 0.0
    assert result.world.innocent_refused == 0
    assert not next(g for g in goals([result]) if g.name == "recall").met


def test_blocking_everyone_is_counted_against_the_detector():
    """Each blocked innocent address counts as affected and as a false incident."""
    world = World(TINY)
    result = run(world, BlocksEveryone())
    assert len(result.world.touched) > 50
    assert result.world.false_incidents > 50
    assert "volume" in " ".join(result.world.false_by)


@pytest.mark.parametrize("rule", [FixedLimits, MeanAndDeviation, MedianAndMad])
def test_plain_rules_slow_down_who_is_over(rule):
    """Each plain rule throttles a client far above its usual rate, and ends the
    throttle later.
    """
    judge = rule()
    row = next(World(TINY).rows())
    for minute in range(30):
        judge.observe(row._replace(ts=row.ts + 60 * minute))
    burst = [judge.observe(row._replace(ts=row.ts + 1800 + i / 99)) for i in range(900)]
    assert any(burst)
    assert judge.action_for("client_ip", row.client_ip, row.tenant) == "throttle"
    judge.advance(row.ts + 4000)
    assert judge.action_for("client_ip", row.client_ip, row.tenant) == "allow"


def test_the_summary_has_every_figure(perfect):
    """The JSON form has figures by class and kind, surroundings and goals."""
    figures = summary([perfect])
    assert figures["by_class"]["all"]["recall"] == 1.0
    assert figures["surroundings"]["innocent_touched_share"] < 0.01
    assert {goal["name"] for goal in figures["goals"]} >= {"recall", "right class"}
    assert figures["by_kind"]["sweep easy"]["named_as"] == {"probing": 1}
    assert len(figures["episodes"]) == 21


def test_quantiles_of_few_values():
    """Quantiles of short lists are interpolated; that of an empty list is NaN."""
    assert quantile([1.0, 3.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0], 0.95) == 3.0
    assert quantile([], 0.5) != quantile([], 0.5)
