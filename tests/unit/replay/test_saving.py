"""Saving baselines to a file and to a real store."""

from __future__ import annotations

import os
import shutil

import pytest
from redis.asyncio import Redis

from gateway.config.structs import StoreTable
from gateway.config.values import StoreUrl
from gateway.detect.packed_baselines import unpack_baselines
from gateway.replay.saving import SaveError, check_store, write_file, write_store
from gateway.store.baselines import load_baselines
from tests.engines import engine_binaries, running_engine

BINARIES = engine_binaries()
needs_engine = pytest.mark.skipif(not BINARIES, reason="no store engine here")


def table(url, prefix="tg:"):
    """The store of a configuration."""
    return StoreTable(url=StoreUrl(url), prefix=prefix)


async def stored(path, prefix="tg:"):
    """The baselines in the store behind a socket."""
    client = Redis(unix_socket_path=path, protocol=2)
    try:
        return await load_baselines(client, prefix)
    finally:
        await client.aclose()


def test_a_file_is_replaced_whole(tmp_path):
    """The file is replaced and no temporary file remains."""
    path = tmp_path / "b"
    path.write_bytes(b"old")
    size = write_file(str(path), b"state")
    assert path.stat().st_size == size
    assert unpack_baselines(path.read_bytes()) == b"state"
    assert os.listdir(tmp_path) == ["b"]


def test_a_file_that_cannot_be_written(tmp_path):
    """A file that cannot be written raises SaveError; the folder is unchanged."""
    with pytest.raises(SaveError, match=r"cannot write .*No such file"):
        write_file(str(tmp_path / "none" / "b"), b"state")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="cannot write"):
        write_file(str(tmp_path / "folder"), b"state")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    ("url", "hint"), [("memory:", "--out"), ("redis+cluster://a", "not supported")]
)
def test_stores_that_keep_nothing(url, hint):
    """Unusable stores are refused before any input is read."""
    with pytest.raises(SaveError, match=hint) as caught:
        check_store(table(url))
    assert caught.value.usage


def test_a_store_that_is_away(tmp_path):
    """The error of an unreachable store names it without its password."""
    with pytest.raises(SaveError, match="cannot save to the store") as caught:
        write_store(table("redis://u:geheim@127.0.0.1:1/0"), b"state")
    assert not caught.value.usage
    assert "geheim" not in str(caught.value)


@needs_engine
async def test_a_running_store(tmp_path):
    """Baselines are saved under the prefix of the configuration."""
    import asyncio  # noqa: PLC0415 - the command has a loop of its own

    with running_engine(next(iter(BINARIES.values()))) as engine:
        shown, size = await asyncio.to_thread(write_store, table(engine.url), b"state")
        assert shown.startswith("unix://")
        assert size > 0
        assert await stored(engine.socket_path) == b"state"


@needs_engine
def test_the_embedded_store_before_the_first_start(tmp_path, monkeypatch):
    """The embedded engine runs only during the save and releases its directory."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    url = f"embedded:{tmp_path}/data"
    write_store(table(url), b"one")
    write_store(table(url), b"two")  # the first one has given the directory up
    assert (tmp_path / "data" / "appendonlydir").is_dir()
    shutil.rmtree(tmp_path / "data")
