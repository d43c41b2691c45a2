"""Baselines in a real store are replaced and read completely or not at all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.detect.packed_baselines import BaselinesError
from gateway.store import baselines
from gateway.store.baselines import baselines_key, load_baselines, save_baselines
from tests.engines import engine_binaries, running_engine

PREFIX = "tg-test:"
BINARIES = engine_binaries()

pytestmark = pytest.mark.skipif(not BINARIES, reason="no store engine here")


@pytest.fixture(name="client", params=sorted(BINARIES))
async def _client(request) -> AsyncIterator[Redis]:
    with running_engine(BINARIES[request.param]) as engine:
        client = Redis(unix_socket_path=engine.socket_path, protocol=2)
        yield client
        await client.aclose()


async def keys_of(client: Redis) -> list[bytes]:
    """All keys, sorted."""
    return sorted(await client.keys("*"))


async def test_an_empty_store_has_none(client):
    """Absent baselines are no error."""
    assert await load_baselines(client, PREFIX) is None


async def test_what_was_saved_is_loaded(client, monkeypatch):
    """A state stored in several parts is loaded completely."""
    monkeypatch.setattr(baselines, "PART_BYTES", 1000)
    state = os.urandom(4500)
    size = await save_baselines(client, PREFIX, state, 1.0)
    assert size > 4500
    assert await load_baselines(client, PREFIX) == state
    assert len(await keys_of(client)) == 6
    assert all([await client.ttl(key) == -1 for key in await keys_of(client)])


async def test_prefixes_are_separate(client):
    """Gateways with different prefixes on one store do not share baselines."""
    await save_baselines(client, PREFIX, b"one", 1.0)
    assert await load_baselines(client, "other:") is None


async def test_a_new_generation_replaces_the_old_one(client):
    """The old generation stays readable for a minute and then expires."""
    await save_baselines(client, PREFIX, b"old", 1.0)
    old = set(await keys_of(client))
    await save_baselines(client, PREFIX, b"new", 2.0)
    assert await load_baselines(client, PREFIX) == b"new"
    (left,) = old - {baselines_key(PREFIX).encode()}
    assert 0 < await client.ttl(left) <= 60


async def test_missing_parts_are_an_error(client):
    """A generation with missing parts is refused."""
    await save_baselines(client, PREFIX, b"state", 1.0)
    (part,) = set(await keys_of(client)) - {baselines_key(PREFIX).encode()}
    await client.delete(part)
    with pytest.raises(BaselinesError, match="missing"):
        await load_baselines(client, PREFIX)


async def test_another_version_is_an_error(client):
    """A manifest of another version is an error, and saving replaces it."""
    await client.set(baselines_key(PREFIX), b"\x91\x01")
    with pytest.raises(BaselinesError, match="another version"):
        await load_baselines(client, PREFIX)
    await save_baselines(client, PREFIX, b"new", 2.0)
    assert await load_baselines(client, PREFIX) == b"new"


async def test_too_large_changes_nothing(client, monkeypatch):
    """The limit is checked before the first part is written."""
    await save_baselines(client, PREFIX, b"old", 1.0)
    monkeypatch.setattr(baselines, "MAX_PACKED_BYTES", 1000)
    with pytest.raises(BaselinesError, match="limit of 1000"):
        await save_baselines(client, PREFIX, os.urandom(2000), 2.0)
    assert await load_baselines(client, PREFIX) == b"old"


async def test_a_manifest_cannot_ask_for_too_much(client, monkeypatch):
    """A size above the limit is refused before anything is read."""
    await save_baselines(client, PREFIX, os.urandom(2000), 1.0)
    monkeypatch.setattr(baselines, "MAX_PACKED_BYTES", 1000)
    monkeypatch.setattr(baselines, "PART_BYTES", 100)
    with pytest.raises(BaselinesError, match="missing"):
        await load_baselines(client, PREFIX)
