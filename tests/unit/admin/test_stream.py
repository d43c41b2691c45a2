"""The live stream: nothing missed, nobody waited for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin import stream
from gateway.admin.errors import Refused
from gateway.admin.stream import KEPT, MOST_READERS, MOST_WAITING, Feed


@pytest.fixture(name="feed")
def _feed():
    return Feed(7, lambda: {"n": 1})


async def taken(reader) -> str:
    return (await reader.take()).decode()


async def test_a_reader_gets_counters_at_once_and_events_as_they_come(feed):
    """With ids, one JSON object each."""
    reader = feed.open(None)
    assert 'event: counters\ndata: {"n":1}\n\n' in await taken(reader)
    feed.publish("output", {"a": "x\ny"})
    assert await taken(reader) == 'id: 7-1\nevent: output\ndata: {"a":"x\\ny"}\n\n'


async def test_who_comes_back_gets_what_was_missed(feed):
    """After the id named; a reset where that cannot be told."""
    for number in range(5):
        feed.publish("output", number)
    text = await taken(feed.open("7-3"))
    assert ("data: 3\n" in text, "data: 4\n" in text, "data: 2\n" in text) == (
        True,
        True,
        False,
    )
    for strange in ("6-3", "7-99", "7-x", "junk", "7-²"):
        assert "event: reset" in await taken(feed.open(strange))
    for _ in range(KEPT):
        feed.publish("output", 0)
    assert "event: reset" in await taken(feed.open("7-3"))


async def test_who_does_not_keep_up_is_let_go(feed):
    """Bounded: one reader cannot fill the memory."""
    reader = feed.open(None)
    for number in range(MOST_WAITING + 10):
        feed.publish("output", number)
    assert reader.ended


async def test_so_many_and_no_more(feed):
    """Who left makes room; a gateway that ends lets nobody in."""
    readers = [feed.open(None) for _ in range(MOST_READERS)]
    with pytest.raises(Refused):
        feed.open(None)
    feed.close(readers.pop())
    feed.open(None)
    assert len(feed) == MOST_READERS
    feed.shut()
    assert readers[0].ended
    feed.close(readers[0])
    with pytest.raises(Refused):
        feed.open(None)


async def test_counters_come_by_themselves(feed, monkeypatch):
    """While somebody listens."""
    monkeypatch.setattr(stream, "TICK_S", 0.0)
    reader = feed.open(None)
    await reader.take()
    task = asyncio.get_running_loop().create_task(feed.run())
    assert "event: counters" in await taken(reader)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
