"""The live stream: resuming, bounds and disconnects."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin import stream
from gateway.admin.errors import AdminError
from gateway.admin.stream import KEPT, MAX_QUEUED, MAX_SUBSCRIBERS, LiveStream


@pytest.fixture(name="live")
def _live():
    return LiveStream(7, lambda: {"n": 1})


async def next_text(subscriber) -> str:
    return (await subscriber.next_batch()).decode()


async def test_a_subscriber_gets_counters_first_and_then_events(live):
    """Events have ids and one JSON object each."""
    subscriber = live.subscribe(None)
    assert 'event: counters\ndata: {"n":1}\n\n' in await next_text(subscriber)
    live.publish("output", {"a": "x\ny"})
    assert (
        await next_text(subscriber) == 'id: 7-1\nevent: output\ndata: {"a":"x\\ny"}\n\n'
    )


async def test_a_reconnecting_subscriber_gets_missed_events(live):
    """Events after the given id are sent, or a reset if they are not all kept."""
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


async def test_a_slow_subscriber_is_disconnected(live):
    """A full queue ends the subscriber."""
    subscriber = live.subscribe(None)
    for number in range(MAX_QUEUED + 10):
        live.publish("output", number)
    assert subscriber.ended


async def test_subscribers_are_bounded(live):
    """Unsubscribing frees a place; after close_all none is accepted."""
    subscribers = [live.subscribe(None) for _ in range(MAX_SUBSCRIBERS)]
    with pytest.raises(AdminError):
        live.subscribe(None)
    live.unsubscribe(subscribers.pop())
    live.subscribe(None)
    assert len(live) == MAX_SUBSCRIBERS
    live.close_all()
    assert subscribers[0].ended
    live.unsubscribe(subscribers[0])
    with pytest.raises(AdminError):
        live.subscribe(None)


async def test_counters_are_sent_periodically(live, monkeypatch):
    """Counters are sent while there are subscribers."""
    monkeypatch.setattr(stream, "TICK_S", 0.0)
    subscriber = live.subscribe(None)
    await subscriber.next_batch()
    task = asyncio.get_running_loop().create_task(live.run())
    assert "event: counters" in await next_text(subscriber)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
