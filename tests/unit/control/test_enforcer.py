"""From verdicts to the list of every worker and gateway, on a real engine."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.control import enforcer as module
from gateway.control.blocks import BlockTable, MemoryBlocks, RedisBlocks, block_key
from gateway.control.enforcer import Enforcer
from gateway.core.model import DETECTOR, OPERATOR, Anomaly, Block, Policy
from gateway.detect.blocked_templates import BlockedTemplate
from gateway.detect.ladder import EnforcementState
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time
from gateway.serve.background import Background
from gateway.store.client import open_redis
from tests.engines import Engine, engine_binaries

NOW = 1_767_600_000.0
IP = "203.0.113.9"
KEY = ("client_ip", IP, "acme")
WATCHED, OFF = Policy("p"), Policy("q", anomaly=Anomaly(enabled=False))


def said(rung="block", *, lasts=600.0, at=NOW, ip=IP, **changes) -> Output:
    """What the detector says when it puts one client on a rung."""
    kind = {"tag": "tagged", "throttle": "throttled", "block": "blocked"}[rung]
    moment = format_time(at)
    line = Output(
        type=f"client.{kind}", id="inc_1", ts=moment, severity="critical",
        cls="scraping", score=6.5, subject=Ref("client_ip", ip), tenant="acme",
        action=rung, until=format_time(at + lasts), window=EvidenceWindow(moment, moment),
        observed={}, expected={"requests_1m": 12.0}, reasons=("It walks.", "Fast."),
    )  # fmt: skip
    return msgspec.structs.replace(line, **changes)


def unsaid(at=NOW, ip=IP) -> Output:
    """A block is over."""
    return said(at=at, ip=ip, type="client.unblocked", action="allow", until=None)


class Machine:
    """The list and the enforcer of one control; ``told`` is what workers hear."""

    def __init__(self, url=None, path=""):
        self.now = NOW
        self.told: list[dict] = []
        self.table = BlockTable(self.told.append, self.clock)
        self.client = open_redis(url) if url else None
        if self.client is None:
            self.list = MemoryBlocks(self.table, path)
        else:
            self.list = RedisBlocks(self.client, "t:", self.table, clock=self.clock)
        self.enforcer = Enforcer(self.table, self.list, self.clock)
        self.enforcer.configure({"acme": WATCHED}, WATCHED)
        self.background = Background(lambda _name, error: pytest.fail(str(error)))

    def clock(self):
        return self.now

    def take(self, *outputs):
        self.enforcer.take(outputs)

    @property
    def standing(self) -> str | None:
        """What is done to the client."""
        known = self.table.find(KEY)
        return None if known is None else known.action

    async def run(self):
        self.background.start(self.list.run(), "blocks")
        self.background.start(self.enforcer.run(), "enforce")
        await until(lambda: self.list.up)

    async def close(self):
        await self.background.close()
        await self.client.aclose()


async def until(what):
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110 - neither has an event to wait for
            await asyncio.sleep(0.005)


@pytest.fixture(name="alone")
def _alone(tmp_path):
    """A control without a store."""
    machine = Machine(path=str(tmp_path / "blocks"))
    machine.told.clear()
    return machine


@pytest.fixture(name="machines")
async def _machines(engine):
    engine.command(b"FLUSHALL")
    machines = [Machine(engine.url) for _ in range(2)]
    for machine in machines:
        await machine.run()
    yield machines
    for machine in machines:
        await machine.close()


# -- verdicts to entries -----------------------------------------------------------------


def test_a_verdict_is_told_to_workers_at_once(alone):
    """All that records and headers need: class, score, the first reason, the end."""
    alone.take(said())
    (block,) = alone.told[0]["add"]
    assert block == Block(
        "client_ip", IP, "acme", NOW + 600, "It walks.", NOW, DETECTOR, "block",
        "scraping", 6.5,
    )  # fmt: skip


def test_incidents_and_what_is_allowed_change_nothing(alone):
    """Only lines about single clients that are acted on become entries."""
    alone.take(
        said(type="incident.opened"),
        said(action="allow"),
        said(until=None),
        unsaid(),
    )
    assert (alone.told, len(alone.table), alone.enforcer.waiting) == ([], 0, 0)


def test_the_last_word_of_a_batch_counts(alone):
    """Blocked and let go in one breath is nothing; tagged, then blocked is a block."""
    alone.take(said(lasts=0.0), unsaid())
    assert alone.standing is None
    alone.take(said("tag"), said("block"))
    assert alone.standing == "block"


def test_the_share_is_the_policys(alone):
    """Each tenant's own, the default's where nobody declared it."""
    quarter = Policy("quarter", anomaly=Anomaly(throttle_share=0.25))
    alone.enforcer.configure({"acme": quarter}, WATCHED)
    alone.take(said("throttle"), said("throttle", tenant="other"))
    assert [block.rate for block in alone.table.items()] == [3, 6]


# -- templates of floods ------------------------------------------------------------------


def flood(
    until=NOW + 600.0, print_=0xABC, born=NOW - 9.0, tenant="acme"
) -> BlockedTemplate:
    return BlockedTemplate(
        tenant, print_, born, until, "ddos", 6.0, "Many ask the same."
    )


def test_a_flooded_template_is_an_entry_of_the_list(alone):
    """Its fingerprint, since when it is there, and until when it is refused."""
    alone.enforcer.block_templates([flood()])
    (block,) = alone.told[0]["add"]
    assert block == Block(
        "prompts", "0000000000000abc", "acme", NOW + 600, "Many ask the same.", NOW - 9,
        DETECTOR, "block", "ddos", 6.0,
    )  # fmt: skip
    alone.table.add(msgspec.structs.replace(block, id="f" * 16, created_at=NOW - 99))
    alone.table.add(msgspec.structs.replace(block, id="e" * 16, until=NOW))
    assert alone.enforcer.template_blocks() == {"acme": NOW - 99}


def test_a_flood_that_goes_on_is_prolonged_now_and_then(alone):
    """Not with each of its requests."""
    alone.enforcer.block_templates([flood()])
    alone.enforcer.block_templates([flood(until=NOW + 620)])
    assert len(alone.told) == 1
    alone.enforcer.block_templates([flood(until=NOW + 640)])
    assert alone.told[1]["add"][0].until == NOW + 640


def test_a_flood_that_an_operator_lifted_stays_lifted(alone):
    """As long as it lasts; the next one is another matter."""
    alone.enforcer.block_templates([flood()])
    assert alone.table.remove(("prompts", "0000000000000abc", "acme"))
    alone.enforcer.block_templates([flood(until=NOW + 900)])
    assert alone.enforcer.template_blocks() == {}
    alone.enforcer.block_templates([])
    alone.enforcer.block_templates([flood(until=NOW + 1800)])
    assert alone.enforcer.template_blocks() == {"acme": NOW - 9}


# -- what stands --------------------------------------------------------------------------


def test_operators_are_never_overruled(alone):
    """Neither by a verdict nor by its end; once their block is over, it is free."""
    alone.table.add(Block(*KEY, until=NOW + 60, reason="by hand"))
    alone.take(said(), unsaid())
    assert alone.table.find(KEY).by == OPERATOR
    alone.now = NOW + 61
    alone.take(said(at=NOW + 61))
    assert alone.table.find(KEY).by == DETECTOR


def test_the_stricter_and_the_longer_stands(alone):
    """A restarted or another gateway's detector, which saw less, takes nothing back."""
    alone.take(said("block", lasts=1200.0))
    alone.take(said("tag"), said("throttle"), said("block", lasts=600.0))
    assert alone.table.find(KEY).until == NOW + 1200
    alone.take(unsaid(at=NOW + 600))
    assert alone.standing == "block"
    alone.now = NOW + 1200
    alone.take(said("tag", at=NOW + 1200))
    assert alone.standing == "tag"


def test_a_block_that_is_over_is_lifted(alone):
    """By the detector that says so."""
    alone.take(said())
    alone.now = NOW + 600
    alone.take(unsaid(at=NOW + 600))
    assert alone.standing is None
    assert alone.told[-1]["remove"] == [KEY]


def test_renewal_prolongs_tags_and_throttles_only(alone):
    """While the evidence goes on; blocks run their time, operators have the last word."""
    others = {"203.0.113.1": "tag", "203.0.113.2": "throttle", "203.0.113.3": "block"}
    alone.take(*[said(rung, lasts=300.0, ip=ip) for ip, rung in others.items()])
    alone.table.add(Block("client_ip", "203.0.113.4", "acme"))
    alone.now = NOW + 200
    standings = {ip: EnforcementState(rung, NOW + 500) for ip, rung in others.items()}
    standings |= {"203.0.113.4": EnforcementState("tag", NOW + 500)}
    standings |= {"203.0.113.5": EnforcementState("tag", NOW + 500)}
    alone.enforcer.renew(
        (("acme", "client_ip", ip), standing) for ip, standing in standings.items()
    )
    ends = {block.id[-1]: block.until for block in alone.table.items()}
    assert ends == {"1": NOW + 500, "2": NOW + 500, "3": NOW + 300, "4": None}


def test_renewal_of_a_tag_prolongs_nobody_elses_block(alone):
    """What another gateway decided ends when it said; a little later is no news."""
    alone.take(said("block", lasts=300.0))
    key = ("acme", "client_ip", IP)
    alone.enforcer.renew([(key, EnforcementState("tag", NOW + 500))])
    alone.enforcer.renew([(key, EnforcementState("throttle", NOW + 320))])
    assert alone.table.find(KEY).until == NOW + 300
    alone.take(said("tag", ip="203.0.113.1"))
    messages = len(alone.told)
    alone.enforcer.renew(
        [((*key[:2], "203.0.113.1"), EnforcementState("tag", NOW + 620))]
    )
    assert len(alone.told) == messages


def test_the_list_keeps_room_for_operators(alone, monkeypatch):
    """Nine tenths of it; those whose time is up make room, changes need none."""
    monkeypatch.setattr(module, "MAX_VERDICTS", 2)
    alone.take(*[said(ip=f"203.0.113.{n}", lasts=60.0 * n) for n in (1, 2, 3)])
    assert (len(alone.table), alone.enforcer.dropped) == (2, 1)
    alone.take(said(ip="203.0.113.2", lasts=900.0))
    alone.now = NOW + 61
    alone.take(said(ip="203.0.113.4", at=NOW + 61))
    assert [b.id[-1] for b in alone.table.items()] == ["2", "4"]
    assert alone.enforcer.dropped == 1


def test_detection_switched_off_lets_go_at_once(alone):
    """Of the tenants it concerns; what operators said stays."""
    alone.table.add(Block("client_ip", IP))
    alone.take(said("block"), said("tag", tenant="other"))
    alone.enforcer.configure({"acme": OFF}, WATCHED)
    assert {block.tenant for block in alone.table.items()} == {None, "other"}
    alone.enforcer.configure({}, OFF)
    assert [block.by for block in alone.table.items()] == [OPERATOR]


def test_switched_off_over_a_restart_lets_go_too(alone):
    """The list that is read at the start holds verdicts of before."""
    alone.enforcer.configure({}, OFF)
    alone.enforcer.tick()
    alone.table.replace([Block(*KEY, by=DETECTOR), Block("user", "u")])
    alone.enforcer.tick()
    assert [block.id for block in alone.table.items()] == ["u"]
    alone.enforcer.tick()
    assert alone.enforcer.waiting == 1


# -- the store ----------------------------------------------------------------------------


async def test_every_gateway_learns_of_a_verdict(machines):
    """Decided here, in force there, lifted here, gone there."""
    here, there = machines
    here.take(said(), said("tag", ip="203.0.113.1"))
    await until(lambda: len(there.table) == 2)
    assert there.table.items() == here.table.items()
    here.now = there.now = NOW + 600
    here.take(unsaid(at=NOW + 600))
    await until(lambda: there.standing is None)
    await until(lambda: not here.enforcer.waiting)


async def test_an_older_echo_from_the_log_changes_nothing(machines):
    """Between two words on a client the first comes back: the second stands here, and
    in the end everywhere.
    """
    here, there = machines
    here.take(said("tag"))
    await here.list.publish([here.table.find(KEY)], [])
    here.take(said("block", at=NOW + 1))
    assert here.standing == "block"
    await until(lambda: there.standing == "block")
    await here.list.add(Block("user", "mark"))
    assert here.standing == "block"


async def test_store_away_is_in_force_here_and_written_later(tmp_path, engine):
    """Workers of this machine know at once; the newest word is written on return."""
    own = Engine(next(iter(engine_binaries().values())), tmp_path)
    own.start()
    here = Machine(own.url)
    await here.run()
    own.kill()
    await until(lambda: not here.list.up)
    here.take(said("tag"), said("throttle", ip="203.0.113.1"))
    assert not await here.enforcer._write()
    here.take(said("block", at=NOW + 1))
    await until(lambda: here.enforcer.waiting == 2)
    assert here.standing == "block"
    own.start()
    await until(lambda: not here.enforcer.waiting)
    there = Machine(own.url)
    await there.run()
    assert sorted(b.action for b in there.table.items()) == ["block", "throttle"]
    await there.close()
    await here.close()
    own.kill()


async def test_what_waits_is_bounded(alone, monkeypatch):
    """The oldest words give way; they are still in force on this machine."""
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    alone.take(*[said(ip=f"203.0.113.{n}") for n in (1, 2, 3)])
    assert (alone.enforcer.waiting, alone.enforcer.dropped) == (2, 1)
    assert len(alone.table) == 3


async def test_large_batches_go_in_pieces(machines, monkeypatch):
    """A flood of verdicts is written in bounded calls, all of it."""
    monkeypatch.setattr(module, "WRITE_AT_ONCE", 7)
    here, there = machines
    here.take(*[said(ip=f"198.51.100.{n}") for n in range(30)])
    await until(lambda: len(there.table) == 30)
    assert not here.enforcer.waiting


async def test_a_restart_finds_the_blocks(machines, engine):
    """They are in the store, with all their words."""
    here, _ = machines
    here.take(said())
    await until(lambda: not here.enforcer.waiting)
    again = Machine(engine.url)
    await again.run()
    assert block_key(again.table.items()[0]) == KEY
    assert again.table.items() == here.table.items()
    await again.close()
