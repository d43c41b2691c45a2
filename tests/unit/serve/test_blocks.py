"""The block list, on a real engine and in memory."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.model import Block
from gateway.serve import blocks as module
from gateway.serve.background import Background
from gateway.serve.blocks import (
    BlocksFull,
    BlocksUnavailable,
    BlockTable,
    MemoryBlocks,
    RedisBlocks,
    block_key,
)
from gateway.serve.redis_client import open_redis
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
        async with asyncio.timeout(5):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    @property
    def ids(self):
        return sorted(key[1] for key in self.blocks)


@pytest.fixture(name="engine", scope="module")
def _engine(tmp_path_factory):
    binaries = engine_binaries()
    if not binaries:
        pytest.skip("no store engine on this machine")
    engine = Engine(next(iter(binaries.values())), tmp_path_factory.mktemp("e"))
    engine.start()
    yield engine
    engine.kill()


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
        async with asyncio.timeout(5):
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


async def test_store_away_the_list_stands(tmp_path, engine):
    """Blocked stays blocked; changes are refused with a reason; then it follows again."""
    own = Engine(next(iter(engine_binaries().values())), tmp_path)
    own.start()
    machine = Machine(own.url)
    await machine.synced()
    await machine.list.add(Block("user", "u"))
    own.kill()
    async with asyncio.timeout(5):
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
