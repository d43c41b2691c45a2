"""Changes of a watched file are noticed, whatever happens to its directory."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

import pytest

from gateway.control import watching as module
from gateway.control.watching import changes


@pytest.fixture(name="path")
def _path(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.1)
    monkeypatch.setattr(module, "SETTLE_MS", 10)
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "t.toml"
    path.write_text("1")
    return path


async def noticed(moments, path, text) -> None:
    """Wait for a change after which the file has this text."""
    async with asyncio.timeout(10):
        async for _ in moments:
            if path.exists() and path.read_text() == text:
                return


async def test_a_replaced_directory_is_watched(path):
    """Changes are noticed after the directory was removed and created again."""
    async with contextlib.aclosing(changes(str(path))) as moments:
        path.write_text("2")
        await noticed(moments, path, "2")
        shutil.rmtree(path.parent)
        await anext(moments)
        path.parent.mkdir()
        path.write_text("3")
        await noticed(moments, path, "3")


async def test_a_missing_directory_is_polled(path):
    """A missing directory is polled, and the problem is reported once."""
    problems = []
    shutil.rmtree(path.parent)
    async with contextlib.aclosing(changes(str(path), problems.append)) as moments:
        for _ in range(2):
            await anext(moments)
        assert len(problems) == 1
        path.parent.mkdir()
        path.write_text("2")
        await noticed(moments, path, "2")
