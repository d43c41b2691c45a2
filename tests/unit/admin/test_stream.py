"""The live stream: nothing missed, nobody waited for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin import stream
from gateway.admin.errors import AdminError
from gateway.admin.stream import KEPT, MOST_SUBSCRIBERS, MOST_WAITING, LiveStream


@pytest.fixture(name="live")
def _live():
    return LiveStream(7, lambda: {"n": 1})


async def next_text(subscriber) -> str:
    return (await subscriber.next_batch()).decode()


async def test_a_reader_gets_counters_at_once_and_events_as_they_come(live):
    """With ids, one JSON object each."""
    subscriber = live.subscribe(None)
    assert 'event: counters\ndata: {"n":1}\n\n' in await next_text(subscriber)
    live.publish("output", {"a": "x\ny"})
    assert (
        await next_text(subscriber) == 'id: 7-1\nevent: output\ndata: {"a":"x\\ny"}\n\n'
    )


async def test_who_comes_back_gets_what_was_missed(live):
    """After the id named; a reset where that cannot be told."""
    for number in range(5):
        live.publish("output", number)
    text = await next_text(live.subscribe("7-3"))
    assert ("data: 3\n" in text, "data: 4\n" in text, "data: 2\n" in text) == (
        True,
        True,
        False,
    )
    for strange in ("6-3", "7-99", "7-x", "junk", "7-²"):
        assert "event: reset" in await next_text(live.subscribe(strange))
    for _ in range(KEPT):
        live.publish("output", 0)
    assert "event: reset" in await next_text(live.subscribe("7-3"))


async def test_who_does_not_keep_up_is_let_go(live):
    """Bounded: one reader cannot fill the memory."""
    subscriber = live.subscribe(None)
    for number in range(MOST_WAITING + 10):
        live.publish("output", number)
    assert subscriber.ended


async def test_so_many_and_no_more(live):
    """Who left makes room; a gateway that ends lets nobody in."""
    subscribers = [live.subscribe(None) for _ in range(MOST_SUBSCRIBERS)]
    with pytest.raises(AdminError):
        live.subscribe(None)
    live.unsubscribe(subscribers.pop())
    live.subscribe(None)
    assert len(live) == MOST_SUBSCRIBERS
    live.close_all()
    assert subscribers[0].ended
    live.unsubscribe(subscribers[0])
    with pytest.raises(AdminError):
        live.subscribe(None)


async def test_counters_come_by_themselves(live, monkeypatch):
    """While somebody listens."""
    monkeypatch.setattr(stream, "TICK_S", 0.0)
    subscriber = live.subscribe(None)
    await subscriber.next_batch()
    task = asyncio.get_running_loop().create_task(live.run())
    assert "event: counters" in await next_text(subscriber)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
