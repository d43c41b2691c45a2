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
    """The blocks that a worker has from the messages."""

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


class Gateway:
    """The list of one gateway, followed in the background."""

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


@pytest.fixture(name="gateways")
async def _machines(engine):
    engine.command(b"FLUSHALL")
    gateways = [Gateway(engine.url) for _ in range(2)]
    for gateway in gateways:
        await gateway.synced()
    yield gateways
    for gateway in gateways:
        await gateway.close()


async def test_every_gateway_gets_a_block(gateways):
    """A block and its removal reach every gateway with all fields."""
    here, there = gateways
    block = Block("client_ip", "203.0.113.9", None, NOW + 60, "why", NOW)
    await here.list.add(block)
    assert here.worker.ids == ["203.0.113.9"], "known here when the call returns"
    await there.worker.until(lambda: there.worker.blocks)
    assert there.table.items() == [block]
    assert await there.list.remove("client_ip", "203.0.113.9", None)
    await here.worker.until(lambda: not here.worker.blocks)
    assert not await here.list.remove("client_ip", "203.0.113.9", None)


async def test_same_id_in_two_places_is_two_blocks(gateways):
    """Blocks of one id in a tenant and in the service are separate."""
    here, _ = gateways
    await here.list.add(Block("user", "u", None))
    await here.list.add(Block("user", "u", "acme"))
    assert await here.list.remove("user", "u", None)
    assert [block.tenant for block in here.list.items()] == ["acme"]


async def test_a_new_gateway_reads_the_whole_list(gateways, engine):
    """A gateway reads the existing blocks when it starts; expired ones are left out and
    deleted.
    """
    here, _ = gateways
    await here.list.add(Block("user", "stays", until=NOW + 60))
    await here.list.add(Block("user", "over", until=NOW + 5))
    late = Gateway(engine.url)
    late.now = NOW + 10
    await late.synced()
    assert late.worker.ids == ["stays"]
    assert b":1\r\n" in engine.command(b"HLEN t:1:{blocks}")
    await late.close()


async def test_a_block_expires(gateways):
    """A block with an end expires without a removal."""
    here, _ = gateways
    await here.list.add(Block("user", "u", until=NOW + 5))
    here.now = NOW + 5
    assert here.list.items() == []


async def test_full_list_refuses_more_but_not_changes(gateways, monkeypatch):
    """A full list refuses new blocks and accepts changes; expired blocks make room."""
    monkeypatch.setattr(module, "MAX_BLOCKS", 2)
    here, _ = gateways
    await here.list.add(Block("user", "a", until=NOW + 5))
    await here.list.add(Block("user", "b"))
    with pytest.raises(BlocksFull):
        await here.list.add(Block("user", "c"))
    await here.list.add(Block("user", "b", reason="again"))
    here.now = NOW + 6
    await here.list.add(Block("user", "c"))
    assert here.worker.ids == ["b", "c"]


async def test_resets_reach_every_gateway(gateways):
    """The keys of reset counters reach the workers of every gateway."""
    here, there = gateways
    await here.list.forget([b"k1", b"k2"])
    await there.worker.until(lambda: there.worker.forgotten == [b"k1", b"k2"])


async def test_ids_are_not_in_keys_or_fields(gateways, engine):
    """Ids in store keys and fields are hashed."""
    here, _ = gateways
    await here.list.add(Block("user", "readable-name"))
    assert b"readable" not in engine.command(b"KEYS *")
    assert b"readable" not in engine.command(b"HKEYS t:1:{blocks}")


async def test_the_list_is_loaded_before_it_is_followed(gateways, engine):
    """``load`` reads the list before the start, and raises without a store."""
    here, _ = gateways
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


async def test_blocks_stay_in_force_while_the_store_is_down(tmp_path, engine):
    """While the store is down blocks stay in force and changes are refused; afterwards
    the list is followed again.
    """
    own = Engine(next(iter(engine_binaries().values())), tmp_path)
    own.start()
    gateway = Gateway(own.url)
    await gateway.synced()
    await gateway.list.add(Block("user", "u"))
    own.kill()
    async with asyncio.timeout(60):
        while gateway.list.up:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)
    assert gateway.worker.ids == ["u"]
    with pytest.raises(BlocksUnavailable):
        await gateway.list.add(Block("user", "v"))
    with pytest.raises(BlocksUnavailable):
        await gateway.list.remove("user", "u", None)
    own.start()
    await gateway.synced()
    assert gateway.worker.ids == ["u"], "it was in the append-only file"
    assert [bool(state) for state in gateway.states][-1] is False
    await gateway.close()
    own.kill()


async def test_unreadable_entries_are_skipped(gateways, engine):
    """Entries of another version are skipped."""
    here, _ = gateways
    engine.command(b"XADD t:1:{blocks}:log * m junk")
    engine.command(b"XADD t:1:{blocks}:log * x y")
    engine.command(b"HSET t:1:{blocks} f junk")
    await here.list.add(Block("user", "u"))
    assert here.worker.ids == ["u"]


async def test_memory_list_survives_a_restart_of_control(tmp_path, monkeypatch):
    """Without a store the list is kept in a file."""
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


def detector_block(action="block", at=NOW, **changes):
    """A block by the detector of one user."""
    fields = {"until": at + 60, "created_at": at, "by": DETECTOR, "action": action}
    return Block("user", "u", "acme", **{**fields, **changes})


async def test_additions_and_removals_are_published_together(gateways):
    """Blocks added and removed in one call reach every gateway."""
    here, there = gateways
    await here.list.add(Block("user", "old", "acme", NOW + 60, by=DETECTOR))
    await there.worker.until(lambda: there.worker.blocks)
    lifted = Block("user", "old", "acme", created_at=NOW + 1)
    await here.list.publish([detector_block()], [lifted])
    await there.worker.until(lambda: there.worker.ids == ["u"])
    assert there.table.items() == [detector_block()]


async def test_publishing_reloads_flushed_scripts(gateways, engine):
    """Scripts are loaded again after SCRIPT FLUSH."""
    here, there = gateways
    engine.command(b"SCRIPT FLUSH")
    await here.list.publish([detector_block()], [])
    await there.worker.until(lambda: there.worker.ids == ["u"])


async def test_a_removal_keeps_a_newer_block(gateways):
    """A removal does not affect a block that is newer than it."""
    here, there = gateways
    await here.list.publish([detector_block(at=NOW + 5)], [])
    await there.worker.until(lambda: there.worker.blocks)
    assert not there.table.remove(("user", "u", "acme"), NOW + 1)
    assert there.table.remove(("user", "u", "acme"), NOW + 5)


def test_older_blocks_of_the_detector_are_skipped():
    """An older block by the detector is skipped; one by an operator always counts."""
    messages = []
    table = BlockTable(messages.append, lambda: NOW)
    table.add(detector_block("block", NOW + 1))
    table.add(detector_block("tag", NOW))
    table.add(detector_block("block", NOW + 1))
    assert len(messages) == 1
    assert table.find(("user", "u", "acme")).action == "block"
    by_hand = Block("user", "u", "acme")
    table.add(by_hand)
    assert table.find(("user", "u", "acme")) == by_hand


async def test_operators_blocks_take_precedence_over_other_gateways(gateways):
    """An operator's block is not changed by the detector of another gateway until it
    has ended.
    """
    here, _ = gateways
    by_hand = Block("user", "u", "acme", NOW + 60)
    await here.list.add(by_hand)
    await here.list.publish([detector_block("tag")], [detector_block()])
    await here.list._sync()
    assert here.table.items() == [by_hand]
    here.table.add(detector_block("tag"))
    assert here.table.items() == [by_hand]
    await here.list.add(Block("user", "u", "acme", NOW - 1))
    await here.list.publish([detector_block("tag")], [])
    await here.list._sync()
    assert here.table.items() == [detector_block("tag")]


def test_unwritten_blocks_stay_in_force():
    """Blocks that are not written yet stay in force after a full sync, except where an
    operator's block exists.
    """
    table = BlockTable(lambda _message: None, lambda: NOW)
    keys = ("user", "u", "acme"), ("user", "v", "acme"), ("user", "w", "acme")
    by_hand = Block("user", "w", "acme", NOW + 60)
    table.unwritten = lambda: {
        keys[0]: detector_block(),
        keys[1]: None,
        keys[2]: msgspec.structs.replace(detector_block(), id="w"),
    }
    table.replace([msgspec.structs.replace(detector_block(), id="v"), by_hand])
    assert {block_key(block) for block in table.items()} == {keys[0], keys[2]}
    assert table.find(keys[2]) == by_hand


async def test_the_memory_list_saves_published_blocks(tmp_path):
    """Without a store published blocks are in the file."""
    path = str(tmp_path / "blocks")
    table = BlockTable(lambda _message: None, lambda: NOW)
    first = MemoryBlocks(table, path)
    await first.run()
    table.change([detector_block()], [])
    await first.publish([detector_block()], [])
    second = MemoryBlocks(BlockTable(lambda _message: None, lambda: NOW), path)
    await second.run()
    assert second.items() == [detector_block()]


async def test_replace_sends_only_differences():
    """A full sync sends only the differences to workers."""
    messages = []
    table = BlockTable(messages.append, lambda: NOW)
    table.replace([Block("user", "a"), Block("user", "b")])
    table.replace([Block("user", "a"), Block("user", "b")])
    table.replace([Block("user", "a", reason="new")])
    assert list(messages[0]) == ["type", "full"]
    assert len(messages) == 2
    assert messages[1]["remove"] == [("user", "b", None)]
    assert [block.reason for block in messages[1]["add"]] == ["new"]
