"""Baselines over restarts, in a real store and in a file."""

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


def teach(detection: Detection, users=4) -> None:
    """Pass records of some users to the detection."""
    detection.take([make_record(ts=NOW + n, user=f"key_{n}") for n in range(users)])


class Place:
    """The storage of one gateway; ``open`` starts it."""

    def __init__(self, tmp_path, client=None):
        self.tmp_path = tmp_path
        self.client = client

    def open(self, **options) -> tuple[Detection, BaselinePersistence]:
        detection = detecting(self.tmp_path, **options)
        return detection, BaselinePersistence(
            detection, self.client, PREFIX, str(self.tmp_path)
        )


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
    """A first start finds nothing, and nothing learned is not saved."""
    _, persistence = place.open()
    assert await persistence.load() is False
    await persistence.save()
    assert await persistence.load() is False


async def test_saved_baselines_are_loaded_after_a_restart(place):
    """Saved subjects are loaded after a restart."""
    detection, persistence = place.open()
    teach(detection)
    await persistence.save()
    detection, persistence = place.open()
    assert await persistence.load() is True
    (engine,) = detection._detectors.engines
    assert len(engine.tenants["acme"].subjects["user"].values()) == 4


async def test_unchanged_baselines_are_not_written(place, monkeypatch):
    """Baselines are written only after new requests."""
    written = []
    packed = module.pack_baselines
    monkeypatch.setattr(
        module, "pack_baselines", lambda state: written.append(1) or packed(state)
    )
    place.client = None
    detection, persistence = place.open()
    teach(detection)
    await persistence.save()
    await persistence.save()
    teach(detection)
    await persistence.save()
    assert len(written) == 2


async def test_switched_off_detection_overwrites_nothing(place):
    """With detection off the saved baselines are kept, over a restart as well."""
    detection, persistence = place.open()
    teach(detection)
    await persistence.save()
    _, persistence = place.open(enabled=False)
    await persistence.load()
    persistence._saved = -1  # as if it had detected before
    await persistence.save()
    detection, persistence = place.open()
    assert await persistence.load() is True
    assert detection._detectors.engines[0].tenants["acme"].company() == 4


async def test_never_on_never_saved(place):
    """Detection that was never on saves nothing."""
    _, persistence = place.open(enabled=False)
    persistence._saved = -1
    await persistence.save()
    assert await persistence.load() is False


async def test_the_file_is_for_its_owner_only(tmp_path):
    """The file has mode 0600, because it shows who sends how many requests."""
    detection, persistence = Place(tmp_path).open()
    teach(detection)
    await persistence.save()
    assert stat.S_IMODE((tmp_path / "baselines").stat().st_mode) == 0o600


async def test_unreadable_baselines_raise(place, engine):
    """Unreadable baselines raise BaselinesError; detection starts without history."""
    detection, persistence = place.open()
    if place.client is None:
        (place.tmp_path / "baselines").write_bytes(pack_baselines(b"junk"))
    else:
        await place.client.set(baselines_key(PREFIX), b"junk")
    with pytest.raises(BaselinesError):
        await persistence.load()
    teach(detection)
    assert detection.learned == 4


async def test_a_frozen_store_does_not_block_the_start(tmp_path, monkeypatch):
    """Loading from a frozen store ends after ``LOAD_S``."""
    monkeypatch.setattr(module, "LOAD_S", 0.05)
    own = Engine(next(iter(engine_binaries().values())), tmp_path)
    own.start()
    client = open_redis(own.url)
    await client.ping()
    own.freeze()
    _, persistence = Place(tmp_path, client).open()
    with pytest.raises((TimeoutError, RedisError)):
        await persistence.load()
    own.thaw()
    own.kill()
    await client.aclose()


async def test_failures_to_save_are_reported_once(place, monkeypatch):
    """Baselines are saved periodically; a failure and its end are reported once."""
    monkeypatch.setattr(module, "FIRST_SAVES_S", 0.01)
    monkeypatch.setattr(module, "SAVE_S", 0.01)
    detection, persistence = place.open()
    teach(detection)
    said: list[str] = []
    works, persistence._path = persistence._path, "/dev/null/none"
    opened, persistence._client = persistence._client, None
    background = Background(lambda _name, error: pytest.fail(str(error)))
    background.start(persistence.run(said.append), "persistence")
    async with asyncio.timeout(60):
        while not said:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.005)
        persistence._path, persistence._client = works, opened
        while len(said) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await background.close()
    assert said[0]
    assert said[1:] == [""]
    assert await place.open()[1].load() is True
