"""What detection learned, over restarts: in a real store, or in a file."""

from __future__ import annotations

import asyncio
import stat

import pytest
from redis.exceptions import RedisError

from gateway.config.resolve import Resolved
from gateway.control import baselines as module
from gateway.control.baselines import BaselinePersistence
from gateway.control.blocks import BlockTable, MemoryBlocks
from gateway.control.detection import Detection
from gateway.control.enforcer import Enforcer
from gateway.control.incidents import LocalIncidents
from gateway.core.model import Anomaly, Policy, Tenant
from gateway.detect.packed_baselines import BaselinesError, pack_baselines
from gateway.serve.background import Background
from gateway.store.baselines import baselines_key
from gateway.store.client import open_redis
from tests.engines import Engine, engine_binaries
from tests.records import make_record

NOW = 1_767_600_000.0
PREFIX = "t:"


def detecting(tmp_path, *, enabled=True) -> Detection:
    """Detection of one tenant."""
    policy = Policy("p", anomaly=Anomaly(enabled=enabled))
    tenants = (Tenant("acme", policy),)
    table = BlockTable(lambda _message: None)
    enforcer = Enforcer(table, MemoryBlocks(table, str(tmp_path / "blocks")))
    found = Detection(enforcer, LocalIncidents(lambda _o: None), lambda _m: None)
    found.configure(Resolved(tenants, (), "anonymous", None, "UTC", 1, policy))
    return found


def teach(room: Detection, users=4) -> None:
    """Let it see some clients."""
    room.take([make_record(ts=NOW + n, user=f"key_{n}") for n in range(users)])


class Place:
    """Where one gateway keeps its memory; ``open`` is a start of it."""

    def __init__(self, tmp_path, client=None):
        self.tmp_path = tmp_path
        self.client = client

    def open(self, **options) -> tuple[Detection, BaselinePersistence]:
        room = detecting(self.tmp_path, **options)
        return room, BaselinePersistence(room, self.client, PREFIX, str(self.tmp_path))


@pytest.fixture(name="place", params=["store", "file"])
async def _place(request, tmp_path):
    if request.param == "file":
        yield Place(tmp_path)
        return
    engine = request.getfixturevalue("engine")
    engine.command(b"FLUSHALL")
    client = open_redis(engine.url)
    yield Place(tmp_path, client)
    await client.aclose()


async def test_a_first_start_finds_nothing(place):
    """That is no error, and nothing learned is nothing saved."""
    _, memory = place.open()
    assert await memory.load() is False
    await memory.save()
    assert await memory.load() is False


async def test_what_was_saved_is_there_after_a_restart(place):
    """Everybody who was seen is known again."""
    room, memory = place.open()
    teach(room)
    await memory.save()
    room, memory = place.open()
    assert await memory.load() is True
    (engine,) = room._detectors.engines
    assert len(engine.tenants["acme"].subjects["user"].values()) == 4


async def test_only_news_are_written(place, monkeypatch):
    """A quiet gateway does not rewrite what is there."""
    written = []
    packed = module.pack_baselines
    monkeypatch.setattr(
        module, "pack_baselines", lambda state: written.append(1) or packed(state)
    )
    place.client = None
    room, memory = place.open()
    teach(room)
    await memory.save()
    await memory.save()
    teach(room)
    await memory.save()
    assert len(written) == 2


async def test_switched_off_detection_overwrites_nothing(place):
    """A kill switch, even over a restart, costs no baselines."""
    room, memory = place.open()
    teach(room)
    await memory.save()
    _, memory = place.open(enabled=False)
    await memory.load()
    memory._saved = -1  # as after a time in which it detected
    await memory.save()
    room, memory = place.open()
    assert await memory.load() is True
    assert room._detectors.engines[0].tenants["acme"].company() == 4


async def test_never_on_never_saved(place):
    """Detection that was off from the first day has nothing to write."""
    _, memory = place.open(enabled=False)
    memory._saved = -1
    await memory.save()
    assert await memory.load() is False


async def test_the_file_is_for_its_owner_only(tmp_path):
    """It tells who asks how much."""
    room, memory = Place(tmp_path).open()
    teach(room)
    await memory.save()
    assert stat.S_IMODE((tmp_path / "baselines").stat().st_mode) == 0o600


async def test_what_cannot_be_read_is_said(place, engine):
    """One clear error; detection starts anew and goes on."""
    room, memory = place.open()
    if place.client is None:
        (place.tmp_path / "baselines").write_bytes(pack_baselines(b"junk"))
    else:
        await place.client.set(baselines_key(PREFIX), b"junk")
    with pytest.raises(BaselinesError):
        await memory.load()
    teach(room)
    assert room.learned == 4


async def test_a_frozen_store_does_not_keep_the_start(tmp_path, monkeypatch):
    """Bounded wait."""
    monkeypatch.setattr(module, "LOAD_S", 0.05)
    own = Engine(next(iter(engine_binaries().values())), tmp_path)
    own.start()
    client = open_redis(own.url)
    await client.ping()
    own.freeze()
    _, memory = Place(tmp_path, client).open()
    with pytest.raises((TimeoutError, RedisError)):
        await memory.load()
    own.thaw()
    own.kill()
    await client.aclose()


async def test_saved_now_and_then_and_troubles_are_told_once(place, monkeypatch):
    """A problem is said when it comes and when it is over, not each time."""
    monkeypatch.setattr(module, "FIRST_SAVES_S", 0.01)
    monkeypatch.setattr(module, "SAVE_S", 0.01)
    room, memory = place.open()
    teach(room)
    said: list[str] = []
    works, memory._path = memory._path, "/dev/null/none"
    opened, memory._client = memory._client, None
    background = Background(lambda _name, error: pytest.fail(str(error)))
    background.start(memory.run(said.append), "memory")
    async with asyncio.timeout(60):
        while not said:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.005)
        memory._path, memory._client = works, opened
        while len(said) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await background.close()
    assert said[0]
    assert said[1:] == [""]
    assert await place.open()[1].load() is True
