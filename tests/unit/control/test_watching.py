"""A changed file is noticed, whatever becomes of its directory."""

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
    """A moment comes at which the file says so."""
    async with asyncio.timeout(10):
        async for _ in moments:
            if path.exists() and path.read_text() == text:
                return


async def test_a_directory_may_come_and_go(path):
    """Removed and made anew: it is looked at all the same."""
    async with contextlib.aclosing(changes(str(path))) as moments:
        path.write_text("2")
        await noticed(moments, path, "2")
        shutil.rmtree(path.parent)
        await anext(moments)
        path.parent.mkdir()
        path.write_text("3")
        await noticed(moments, path, "3")


async def test_what_cannot_be_watched_is_looked_at(path):
    """It is said why, once."""
    problems = []
    shutil.rmtree(path.parent)
    async with contextlib.aclosing(changes(str(path), problems.append)) as moments:
        for _ in range(2):
            await anext(moments)
        assert len(problems) == 1
        path.parent.mkdir()
        path.write_text("2")
        await noticed(moments, path, "2")
