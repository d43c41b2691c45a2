"""The block list, on a real engine and in memory."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.control import blocks as module
from gateway.control.blocks import (
    BlocksFull,
    BlocksUnavailable,
    BlockTable,
    MemoryBlocks,
    RedisBlocks,
    block_key,
)
from gateway.core.model import DETECTOR, Block
from gateway.serve.background import Background
from gateway.store.client import open_redis
from tests.engines import Engine, engine_binaries

NOW = 1000.0


class Worker:
    """What a worker would know from the messages alone."""

    def __init__(self):
        self.blocks: dict = {}
        self.forgotten: list[bytes] = []
        self.changed = asyncio.Event()

    def take(self, message):
        if message["type"] == "forget":
            self.forgotten += message["keys"]
        if "full" in message:
            self.blocks = {block_key(block): block for block in message["full"]}
        for block in message.get("add", ()):
            self.blocks[block_key(block)] = block
        for kind, id_, tenant in message.get("remove", ()):
            self.blocks.pop((kind, id_, tenant or ""), None)
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    @property
    def ids(self):
        return sorted(key[1] for key in self.blocks)


class Machine:
    """One control's list, followed in the background."""

    def __init__(self, url, prefix="t:"):
        self.now = NOW
        self.worker = Worker()
        self.states: list[str] = []
        self.client = open_redis(url)
        self.table = BlockTable(self.worker.take, lambda: self.now)
        self.list = RedisBlocks(
            self.client, prefix, self.table, self.states.append, lambda: self.now
        )
        self.background = Background(lambda _name, error: pytest.fail(str(error)))
        self.background.start(self.list.run(), "blocks")

    async def synced(self):
        async with asyncio.timeout(60):
            while not self.list.up:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.005)

    async def close(self):
        await self.background.close()
        await self.client.aclose()


@pytest.fixture(name="machines")
async def _machines(engine):
    engine.command(b"FLUSHALL")
    machines = [Machine(engine.url) for _ in range(2)]
    for machine in machines:
        await machine.synced()
    yield machines
    for machine in machines:
        await machine.close()


async def test_every_machine_learns_of_a_block(machines):
    """Added here, known there, with all its words; removed there, gone here."""
    here, there = machines
    block = Block("client_ip", "203.0.113.9", None, NOW + 60, "why", NOW)
    await here.list.add(block)
    assert here.worker.ids == ["203.0.113.9"], "known here when the call returns"
    await there.worker.until(lambda: there.worker.blocks)
    assert there.table.items() == [block]
    assert await there.list.remove("client_ip", "203.0.113.9", None)
    await here.worker.until(lambda: not here.worker.blocks)
    assert not await here.list.remove("client_ip", "203.0.113.9", None)


async def test_same_id_in_two_places_is_two_blocks(machines):
    """A tenant's block is not the service's."""
    here, _ = machines
    await here.list.add(Block("user", "u", None))
    await here.list.add(Block("user", "u", "acme"))
    assert await here.list.remove("user", "u", None)
    assert [block.tenant for block in here.list.items()] == ["acme"]


async def test_newcomer_reads_the_whole_list(machines, engine):
    """What was blocked before it started; what is over is left out and pruned."""
    here, _ = machines
    await here.list.add(Block("user", "stays", until=NOW + 60))
    await here.list.add(Block("user", "over", until=NOW + 5))
    late = Machine(engine.url)
    late.now = NOW + 10
    await late.synced()
    assert late.worker.ids == ["stays"]
    assert b":1\r\n" in engine.command(b"HLEN t:1:{blocks}")
    await late.close()


async def test_time_runs_out_by_itself(machines):
    """Nobody has to remove a block with an end."""
    here, _ = machines
    await here.list.add(Block("user", "u", until=NOW + 5))
    here.now = NOW + 5
    assert here.list.items() == []


async def test_full_list_refuses_more_but_not_changes(machines, monkeypatch):
    """Bounded; room that time has freed is found."""
    monkeypatch.setattr(module, "MAX_BLOCKS", 2)
    here, _ = machines
    await here.list.add(Block("user", "a", until=NOW + 5))
    await here.list.add(Block("user", "b"))
    with pytest.raises(BlocksFull):
        await here.list.add(Block("user", "c"))
    await here.list.add(Block("user", "b", reason="again"))
    here.now = NOW + 6
    await here.list.add(Block("user", "c"))
    assert here.worker.ids == ["b", "c"]


async def test_reset_counters_are_told_to_every_machine(machines):
    """Workers elsewhere keep who was over a limit: they hear of it."""
    here, there = machines
    await here.list.forget([b"k1", b"k2"])
    await there.worker.until(lambda: there.worker.forgotten == [b"k1", b"k2"])


async def test_ids_are_not_in_keys_or_fields(machines, engine):
    """What becomes part of a key is hashed."""
    here, _ = machines
    await here.list.add(Block("user", "readable-name"))
    assert b"readable" not in engine.command(b"KEYS *")
    assert b"readable" not in engine.command(b"HKEYS t:1:{blocks}")


async def test_the_list_can_be_read_before_it_is_followed(machines, engine):
    """Whoever starts knows it before the first request; without a store it says so."""
    here, _ = machines
    await here.list.add(Block("user", "u"))
    table = BlockTable(lambda _message: None)
    client = open_redis(engine.url)
    await RedisBlocks(client, "t:", table).load()
    await client.aclose()
    assert [block.id for block in table.items()] == ["u"]
    nowhere = open_redis("unix:///nonexistent/s")
    with pytest.raises(BlocksUnavailable):
        await RedisBlocks(nowhere, "t:", table).load()
    await nowhere.aclose()


async def test_store_away_the_list_stands(tmp_path, engine):
    """Blocked stays blocked; changes are refused with a reason; then it follows again."""
    own = Engine(next(iter(engine_binaries().values())), tmp_path)
    own.start()
    machine = Machine(own.url)
    await machine.synced()
    await machine.list.add(Block("user", "u"))
    own.kill()
    async with asyncio.timeout(60):
        while machine.list.up:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)
    assert machine.worker.ids == ["u"]
    with pytest.raises(BlocksUnavailable):
        await machine.list.add(Block("user", "v"))
    with pytest.raises(BlocksUnavailable):
        await machine.list.remove("user", "u", None)
    own.start()
    await machine.synced()
    assert machine.worker.ids == ["u"], "it was in the append-only file"
    assert [bool(state) for state in machine.states][-1] is False
    await machine.close()
    own.kill()


async def test_unreadable_entries_are_passed_over(machines, engine):
    """Another version's entries do no harm."""
    here, _ = machines
    engine.command(b"XADD t:1:{blocks}:log * m junk")
    engine.command(b"XADD t:1:{blocks}:log * x y")
    engine.command(b"HSET t:1:{blocks} f junk")
    await here.list.add(Block("user", "u"))
    assert here.worker.ids == ["u"]


async def test_memory_list_survives_a_restart_of_control(tmp_path, monkeypatch):
    """Without a store the list is control's own, and in a file."""
    path = str(tmp_path / "blocks")
    first = MemoryBlocks(BlockTable(Worker().take, lambda: NOW), path)
    await first.run()
    await first.add(Block("user", "a"))
    await first.add(Block("user", "b"))
    assert await first.remove("user", "b", None)
    assert not await first.remove("user", "b", None)
    worker = Worker()
    second = MemoryBlocks(BlockTable(worker.take, lambda: NOW), path)
    await second.run()
    assert (worker.ids, second.items()[0].id) == (["a"], "a")
    await second.forget([b"k"])
    assert worker.forgotten == [b"k"]
    monkeypatch.setattr(module, "MAX_BLOCKS", 1)
    with pytest.raises(BlocksFull):
        await second.add(Block("user", "c"))


def verdict(action="block", at=NOW, **changes):
    """What the detector decided about one user."""
    fields = {"until": at + 60, "created_at": at, "by": DETECTOR, "action": action}
    return Block("user", "u", "acme", **{**fields, **changes})


async def test_verdicts_are_published_in_one_go(machines):
    """Put and lifted together; known everywhere, without waiting for the log."""
    here, there = machines
    await here.list.add(Block("user", "old", "acme", NOW + 60, by=DETECTOR))
    await there.worker.until(lambda: there.worker.blocks)
    lifted = Block("user", "old", "acme", created_at=NOW + 1)
    await here.list.publish([verdict()], [lifted])
    await there.worker.until(lambda: there.worker.ids == ["u"])
    assert there.table.items() == [verdict()]


async def test_publishing_survives_a_forgetful_store(machines, engine):
    """Scripts are loaded again where the store has lost them."""
    here, there = machines
    engine.command(b"SCRIPT FLUSH")
    await here.list.publish([verdict()], [])
    await there.worker.until(lambda: there.worker.ids == ["u"])


async def test_a_lift_spares_a_newer_verdict(machines):
    """What was said since the lift was said stays in force."""
    here, there = machines
    await here.list.publish([verdict(at=NOW + 5)], [])
    await there.worker.until(lambda: there.worker.blocks)
    assert not there.table.remove(("user", "u", "acme"), NOW + 1)
    assert there.table.remove(("user", "u", "acme"), NOW + 5)


def test_older_words_of_the_detector_are_passed_over():
    """They come back through the log; an operator's count whenever they come."""
    messages = []
    table = BlockTable(messages.append, lambda: NOW)
    table.add(verdict("block", NOW + 1))
    table.add(verdict("tag", NOW))
    table.add(verdict("block", NOW + 1))
    assert len(messages) == 1
    assert table.find(("user", "u", "acme")).action == "block"
    by_hand = Block("user", "u", "acme")
    table.add(by_hand)
    assert table.find(("user", "u", "acme")) == by_hand


async def test_operators_are_not_overruled_by_another_gateway(machines):
    """A verdict that has not heard of the operator's block changes nothing; once that
    is over, verdicts count again.
    """
    here, _ = machines
    by_hand = Block("user", "u", "acme", NOW + 60)
    await here.list.add(by_hand)
    await here.list.publish([verdict("tag")], [verdict()])
    await here.list._sync()
    assert here.table.items() == [by_hand]
    here.table.add(verdict("tag"))
    assert here.table.items() == [by_hand]
    await here.list.add(Block("user", "u", "acme", NOW - 1))
    await here.list.publish([verdict("tag")], [])
    await here.list._sync()
    assert here.table.items() == [verdict("tag")]


def test_verdicts_that_wait_for_the_store_stay_in_force():
    """The whole list comes back without them; operators' blocks stand all the same."""
    table = BlockTable(lambda _message: None, lambda: NOW)
    keys = ("user", "u", "acme"), ("user", "v", "acme"), ("user", "w", "acme")
    by_hand = Block("user", "w", "acme", NOW + 60)
    table.unwritten = lambda: {
        keys[0]: verdict(),
        keys[1]: None,
        keys[2]: msgspec.structs.replace(verdict(), id="w"),
    }
    table.replace([msgspec.structs.replace(verdict(), id="v"), by_hand])
    assert {block_key(block) for block in table.items()} == {keys[0], keys[2]}
    assert table.find(keys[2]) == by_hand


async def test_memory_list_keeps_verdicts_over_a_restart(tmp_path):
    """What was put into the table is in the file once it is published."""
    path = str(tmp_path / "blocks")
    table = BlockTable(lambda _message: None, lambda: NOW)
    first = MemoryBlocks(table, path)
    await first.run()
    table.change([verdict()], [])
    await first.publish([verdict()], [])
    second = MemoryBlocks(BlockTable(lambda _message: None, lambda: NOW), path)
    await second.run()
    assert second.items() == [verdict()]


async def test_replace_says_only_what_differs():
    """A resync each minute must not shout the whole list at every worker."""
    messages = []
    table = BlockTable(messages.append, lambda: NOW)
    table.replace([Block("user", "a"), Block("user", "b")])
    table.replace([Block("user", "a"), Block("user", "b")])
    table.replace([Block("user", "a", reason="new")])
    assert list(messages[0]) == ["type", "full"]
    assert len(messages) == 2
    assert messages[1]["remove"] == [("user", "b", None)]
    assert [block.reason for block in messages[1]["add"]] == ["new"]
