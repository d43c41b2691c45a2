"""From the detector's outputs to the block list of every worker and gateway, on a real
store.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.control import enforcer as module
from gateway.control import incident_entries as entries
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


def said(action_name="block", *, lasts=600.0, at=NOW, ip=IP, **changes) -> Output:
    """The output of an action on one client."""
    kind = {"tag": "tagged", "throttle": "throttled", "block": "blocked"}[action_name]
    moment = format_time(at)
    line = Output(
        type=f"client.{kind}", id="inc_1", ts=moment, severity="critical",
        cls="scraping", score=6.5, subject=Ref("client_ip", ip), tenant="acme",
        action=action_name, until=format_time(at + lasts), window=EvidenceWindow(moment, moment),
        observed={}, expected={"requests_1m": 12.0}, reasons=("It walks.", "Fast."),
    )  # fmt: skip
    return msgspec.structs.replace(line, **changes)


def unsaid(at=NOW, ip=IP) -> Output:
    """The output of the end of a block."""
    return said(at=at, ip=ip, type="client.unblocked", action="allow", until=None)


class Gateway:
    """The block list and the enforcer of one gateway; ``sent`` has the messages to
    workers.
    """

    def __init__(self, url=None, path=""):
        self.now = NOW
        self.sent: list[dict] = []
        self.table = BlockTable(self.sent.append, self.clock)
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
    def action(self) -> str | None:
        """The action on the client in the list."""
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
    """A gateway without a store."""
    machine = Gateway(path=str(tmp_path / "blocks"))
    machine.sent.clear()
    return machine


@pytest.fixture(name="machines")
async def _machines(engine):
    engine.command(b"FLUSHALL")
    machines = [Gateway(engine.url) for _ in range(2)]
    for machine in machines:
        await machine.run()
    yield machines
    for machine in machines:
        await machine.close()


# -- outputs to list entries -------------------------------------------------------------


def test_an_action_is_sent_to_workers_at_once(alone):
    """An action is sent to workers at once with class, score, first reason and end."""
    alone.take(said())
    (block,) = alone.sent[0]["add"]
    assert block == Block(
        "client_ip", IP, "acme", NOW + 600, "It walks.", NOW, DETECTOR, "block",
        "scraping", 6.5,
    )  # fmt: skip


def test_other_outputs_change_nothing(alone):
    """Incidents, outputs without an action or an end, and the end of an unknown block
    change nothing.
    """
    alone.take(
        said(type="incident.opened"),
        said(action="allow"),
        said(until=None),
        unsaid(),
    )
    assert (alone.sent, len(alone.table), alone.enforcer.waiting) == ([], 0, 0)


def test_the_last_output_of_a_batch_counts(alone):
    """The last output about a client in a batch counts."""
    alone.take(said(lasts=0.0), unsaid())
    assert alone.action is None
    alone.take(said("tag"), said("block"))
    assert alone.action == "block"


def test_the_share_is_the_policys(alone):
    """``throttle_share`` is that of the tenant's policy, for unknown tenants that of
    the default policy.
    """
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
    """A flooded template is a list entry with its fingerprint, its start and the end of
    the block.
    """
    alone.enforcer.block_templates([flood()])
    (block,) = alone.sent[0]["add"]
    assert block == Block(
        "prompts", "0000000000000abc", "acme", NOW + 600, "Many ask the same.", NOW - 9,
        DETECTOR, "block", "ddos", 6.0,
    )  # fmt: skip
    alone.table.add(msgspec.structs.replace(block, id="f" * 16, created_at=NOW - 99))
    alone.table.add(msgspec.structs.replace(block, id="e" * 16, until=NOW))
    assert alone.enforcer.template_blocks() == {"acme": NOW - 99}


def test_a_template_block_is_prolonged_in_steps(alone):
    """A template block is prolonged only if the new end is far enough ahead."""
    alone.enforcer.block_templates([flood()])
    alone.enforcer.block_templates([flood(until=NOW + 620)])
    assert len(alone.sent) == 1
    alone.enforcer.block_templates([flood(until=NOW + 640)])
    assert alone.sent[1]["add"][0].until == NOW + 640


def test_a_template_block_removed_by_an_operator_stays_removed(alone):
    """A template block that an operator removed is not added again until the flood has
    ended.
    """
    alone.enforcer.block_templates([flood()])
    assert alone.table.remove(("prompts", "0000000000000abc", "acme"))
    alone.enforcer.block_templates([flood(until=NOW + 900)])
    assert alone.enforcer.template_blocks() == {}
    alone.enforcer.block_templates([])
    alone.enforcer.block_templates([flood(until=NOW + 1800)])
    assert alone.enforcer.template_blocks() == {"acme": NOW - 9}


# -- precedence ---------------------------------------------------------------------------


def test_operators_blocks_take_precedence(alone):
    """An operator's block is not changed by the detector until it has ended."""
    alone.table.add(Block(*KEY, until=NOW + 60, reason="by hand"))
    alone.take(said(), unsaid())
    assert alone.table.find(KEY).by == OPERATOR
    alone.now = NOW + 61
    alone.take(said(at=NOW + 61))
    assert alone.table.find(KEY).by == DETECTOR


def test_the_stricter_and_longer_action_counts(alone):
    """A milder or shorter action does not replace the one in force."""
    alone.take(said("block", lasts=1200.0))
    alone.take(said("tag"), said("throttle"), said("block", lasts=600.0))
    assert alone.table.find(KEY).until == NOW + 1200
    alone.take(unsaid(at=NOW + 600))
    assert alone.action == "block"
    alone.now = NOW + 1200
    alone.take(said("tag", at=NOW + 1200))
    assert alone.action == "tag"


def test_a_block_that_ended_is_removed(alone):
    """The detector's output at the end of a block removes it from the list."""
    alone.take(said())
    alone.now = NOW + 600
    alone.take(unsaid(at=NOW + 600))
    assert alone.action is None
    assert alone.sent[-1]["remove"] == [KEY]


def test_renewal_prolongs_tags_and_throttles_only(alone):
    """Renewal prolongs tags and throttles; blocks and operators' entries keep their
    end.
    """
    others = {"203.0.113.1": "tag", "203.0.113.2": "throttle", "203.0.113.3": "block"}
    alone.take(
        *[said(action_name, lasts=300.0, ip=ip) for ip, action_name in others.items()]
    )
    alone.table.add(Block("client_ip", "203.0.113.4", "acme"))
    alone.now = NOW + 200
    states = {
        ip: EnforcementState(action_name, NOW + 500)
        for ip, action_name in others.items()
    }
    states |= {"203.0.113.4": EnforcementState("tag", NOW + 500)}
    states |= {"203.0.113.5": EnforcementState("tag", NOW + 500)}
    alone.enforcer.renew(
        (("acme", "client_ip", ip), action) for ip, action in states.items()
    )
    ends = {block.id[-1]: block.until for block in alone.table.items()}
    assert ends == {"1": NOW + 500, "2": NOW + 500, "3": NOW + 300, "4": None}


def test_renewal_of_a_tag_does_not_prolong_a_block(alone):
    """Renewal of a tag does not prolong a stricter action of another gateway, and a
    small change sends nothing.
    """
    alone.take(said("block", lasts=300.0))
    key = ("acme", "client_ip", IP)
    alone.enforcer.renew([(key, EnforcementState("tag", NOW + 500))])
    alone.enforcer.renew([(key, EnforcementState("throttle", NOW + 320))])
    assert alone.table.find(KEY).until == NOW + 300
    alone.take(said("tag", ip="203.0.113.1"))
    messages = len(alone.sent)
    alone.enforcer.renew(
        [((*key[:2], "203.0.113.1"), EnforcementState("tag", NOW + 620))]
    )
    assert len(alone.sent) == messages


def test_the_list_keeps_room_for_operators(alone, monkeypatch):
    """The detector's entries are limited to ``MAX_VERDICTS``; expired ones are
    replaced, and changes need no room.
    """
    monkeypatch.setattr(module, "MAX_VERDICTS", 2)
    alone.take(*[said(ip=f"203.0.113.{n}", lasts=60.0 * n) for n in (1, 2, 3)])
    assert (len(alone.table), alone.enforcer.dropped) == (2, 1)
    alone.take(said(ip="203.0.113.2", lasts=900.0))
    alone.now = NOW + 61
    alone.take(said(ip="203.0.113.4", at=NOW + 61))
    assert [b.id[-1] for b in alone.table.items()] == ["2", "4"]
    assert alone.enforcer.dropped == 1


def test_switching_detection_off_removes_its_entries(alone):
    """With detection off for a tenant its entries are removed at once, except those of
    operators.
    """
    alone.table.add(Block("client_ip", IP))
    alone.take(said("block"), said("tag", tenant="other"))
    alone.enforcer.configure({"acme": OFF}, WATCHED)
    assert {block.tenant for block in alone.table.items()} == {None, "other"}
    alone.enforcer.configure({}, OFF)
    assert [block.by for block in alone.table.items()] == [OPERATOR]


def test_entries_of_before_a_restart_are_removed_too(alone):
    """With detection off the entries in the list at the start are removed."""
    alone.enforcer.configure({}, OFF)
    alone.enforcer.tick()
    alone.table.replace([Block(*KEY, by=DETECTOR), Block("user", "u")])
    alone.enforcer.tick()
    assert [block.id for block in alone.table.items()] == ["u"]
    alone.enforcer.tick()
    assert alone.enforcer.waiting == 1


# -- the store ----------------------------------------------------------------------------


async def test_every_gateway_gets_an_action(machines):
    """An action and its end reach every gateway on the store."""
    here, there = machines
    here.take(said(), said("tag", ip="203.0.113.1"))
    await until(lambda: len(there.table) == 2)
    assert there.table.items() == here.table.items()
    here.now = there.now = NOW + 600
    here.take(unsaid(at=NOW + 600))
    await until(lambda: there.action is None)
    await until(lambda: not here.enforcer.waiting)


async def test_an_older_entry_from_the_log_changes_nothing(machines):
    """An older entry that returns through the log does not replace a newer one."""
    here, there = machines
    here.take(said("tag"))
    await here.list.publish([here.table.find(KEY)], [])
    here.take(said("block", at=NOW + 1))
    assert here.action == "block"
    await until(lambda: there.action == "block")
    await here.list.add(Block("user", "mark"))
    assert here.action == "block"


async def test_actions_during_an_outage_are_written_later(tmp_path, engine):
    """While the store is down an action is in force locally; the newest one is written
    when it is back.
    """
    own = Engine(next(iter(engine_binaries().values())), tmp_path)
    own.start()
    here = Gateway(own.url)
    await here.run()
    own.kill()
    await until(lambda: not here.list.up)
    here.take(said("tag"), said("throttle", ip="203.0.113.1"))
    assert not await here.enforcer._write()
    here.take(said("block", at=NOW + 1))
    await until(lambda: here.enforcer.waiting == 2)
    assert here.action == "block"
    own.start()
    await until(lambda: not here.enforcer.waiting)
    there = Gateway(own.url)
    await there.run()
    assert sorted(b.action for b in there.table.items()) == ["block", "throttle"]
    await there.close()
    await here.close()
    own.kill()


async def test_pending_writes_are_bounded(alone, monkeypatch):
    """Pending writes are bounded; the oldest are dropped and stay in force locally."""
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    alone.take(*[said(ip=f"203.0.113.{n}") for n in (1, 2, 3)])
    assert (alone.enforcer.waiting, alone.enforcer.dropped) == (2, 1)
    assert len(alone.table) == 3


async def test_large_batches_are_written_in_pieces(machines, monkeypatch):
    """A large batch is written completely in calls of bounded size."""
    monkeypatch.setattr(module, "WRITE_AT_ONCE", 7)
    here, there = machines
    here.take(*[said(ip=f"198.51.100.{n}") for n in range(30)])
    await until(lambda: len(there.table) == 30)
    assert not here.enforcer.waiting


async def test_a_restart_finds_the_blocks(machines, engine):
    """A restarted gateway reads the same entries from the store."""
    here, _ = machines
    here.take(said())
    await until(lambda: not here.enforcer.waiting)
    again = Gateway(engine.url)
    await again.run()
    assert block_key(again.table.items()[0]) == KEY
    assert again.table.items() == here.table.items()
    await again.close()


def test_one_incident_has_a_bounded_number_of_entries(alone, monkeypatch):
    """Beyond its bound an incident's newest entries replace its oldest, also those of
    the same batch; entries that have ended count no more.
    """
    monkeypatch.setattr(entries, "MAX_ENTRIES", 3)
    alone.take(*[said(ip=f"203.0.113.{n}") for n in range(5)])
    assert [b.id[-1] for b in alone.table.items()] == ["2", "3", "4"]
    alone.take(said(ip="203.0.113.5"))
    assert sorted(b.id[-1] for b in alone.table.items()) == ["3", "4", "5"]
    assert alone.enforcer.dropped == 3
    alone.take(unsaid(at=NOW + 600, ip="203.0.113.3"))
    alone.take(said(ip="203.0.113.6"))
    assert sorted(b.id[-1] for b in alone.table.items()) == ["4", "5", "6"]
    alone.now = NOW + 700
    alone.table.expire()
    alone.take(said(ip="203.0.113.7", at=alone.now))
    assert [b.id[-1] for b in alone.table.items()] == ["7"]
    assert alone.enforcer.dropped == 3


def test_in_a_full_list_the_largest_incident_makes_room(alone, monkeypatch):
    """A verdict of another incident replaces an entry of the largest one, until both
    are as large; a template block does as well.
    """
    monkeypatch.setattr(module, "MAX_VERDICTS", 4)
    alone.take(*[said(ip=f"203.0.113.{n}") for n in range(6)])
    assert (len(alone.table), alone.enforcer.dropped) == (4, 2)
    alone.take(*[said(ip=f"198.51.100.{n}", id="inc_2") for n in range(4)])
    held = sorted(b.id for b in alone.table.items())
    assert held == ["198.51.100.0", "198.51.100.1", "203.0.113.2", "203.0.113.3"]
    assert sorted(held) == sorted(
        one["id"] if isinstance(one, dict) else one.id
        for one in alone.table.full_message()["full"]
    )
    alone.enforcer.block_templates([flood()])
    assert len(alone.table.of_kind("prompts")) == 1
    assert len(alone.table) == 4


def test_an_entry_that_is_renewed_in_a_full_batch_stays(alone, monkeypatch):
    """An entry that made room and is set again in the same batch is in force."""
    monkeypatch.setattr(entries, "MAX_ENTRIES", 1)
    alone.take(said(ip="203.0.113.1"))
    alone.take(said(ip="203.0.113.2"), said(ip="203.0.113.1", lasts=900.0))
    assert "203.0.113.1" in [b.id for b in alone.table.items()]


def test_entries_of_before_a_restart_make_room(alone, monkeypatch):
    """Entries of unknown incidents count by tenant and class from the next minute on."""
    monkeypatch.setattr(module, "MAX_VERDICTS", 3)
    for n in range(3):
        alone.table.add(
            Block(
                "client_ip", f"203.0.113.{n}", "acme", NOW + 600, "", NOW, DETECTOR,
                cls="probing",
            )
        )  # fmt: skip
    alone.take(said(ip="198.51.100.1"))
    assert alone.enforcer.dropped == 1
    alone.enforcer.tick()
    alone.take(said(ip="198.51.100.1"))
    assert "198.51.100.1" in [b.id for b in alone.table.items()]
    alone.now = NOW + 3600
    alone.enforcer.tick()
    assert "198.51.100.1" not in [b.id for b in alone.table.items()]


def test_a_full_list_is_searched_for_expired_entries_seldom(alone, monkeypatch):
    """In a full list verdicts do not each cost a pass over it."""
    monkeypatch.setattr(module, "MAX_VERDICTS", 2)
    searches = []
    monkeypatch.setattr(alone.table, "expire", lambda: searches.append(1))
    for n in range(50):
        alone.take(said(ip=f"203.0.113.{n}"))
    assert len(searches) == 1
