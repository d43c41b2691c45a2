"""Control's view of its workers, over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin.metrics import Metrics
from gateway.control import workers as module
from gateway.control.workers import CallError, WorkerRegistry, read_sums
from gateway.serve.link import WorkerLink


class Stage:
    """A roster of two, and workers that answer as they are told."""

    def __init__(self, folder):
        self.path = str(folder / "link")
        self.events = []
        self.heard = [[], []]
        self.ready = asyncio.Event()
        self.answers = [{"result": [1]}, {"result": [2]}]
        self.metrics = Metrics("1")
        self.roster = WorkerRegistry(
            self.path,
            2,
            self.metrics,
            lambda: iter([{"type": "secret", "value": "s"}]),
            lambda index, message: self.events.append((index, message["name"])),
        )
        self.roster.on_ready = self.ready.set
        self.links = [self._link(index) for index in range(2)]

    def _link(self, index):
        def on_message(message):
            self.heard[index].append(message["type"])
            if message["type"] == "call" and self.answers[index] is not None:
                answer = {"type": "answer", "id": message["id"], **self.answers[index]}
                self.links[index].send(answer)

        return WorkerLink(self.path, index, 4, on_message)

    async def all_ready(self):
        for link in self.links:
            await link.start()
            link.send({"type": "ready"})
        async with asyncio.timeout(60):
            await self.ready.wait()

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - any condition at all
                await asyncio.sleep(0.005)


@pytest.fixture(name="stage")
async def _stage(tmp_path):
    stage = Stage(tmp_path)
    await stage.roster.start()
    yield stage
    for link in stage.links:
        await link.close()
    await stage.roster.close()


async def test_ready_when_every_worker_is(stage):
    """Until then the reasons name those that are missing."""
    assert stage.roster.not_ready() == [
        "worker 0 is not ready",
        "worker 1 is not ready",
    ]
    await stage.all_ready()
    assert stage.roster.not_ready() == []
    await stage.until(lambda: stage.heard == [["secret"], ["secret"]])
    assert stage.roster.public()[1]["restarts"] == 4


async def test_one_worker_is_enough_later(stage):
    """A worker that restarts does not take the machine out of service."""
    await stage.all_ready()
    await stage.links[0].close()
    await stage.until(lambda: not stage.roster.workers[0].connected)
    assert stage.roster.not_ready() == []
    await stage.links[1].close()
    await stage.until(lambda: not stage.roster.workers[1].connected)
    assert len(stage.roster.not_ready()) == 2


async def test_stats_and_events_arrive(stage):
    """Statistics become gauges, events are handed on; both in their order."""
    await stage.all_ready()
    stats = []
    stage.roster.on_stats = lambda index, message: stats.append((index, message))
    stage.links[1].send({"type": "stats", "inflight": 3})
    stage.links[1].send({"type": "event", "name": "gateway.degraded"})
    stage.links[1].send({"type": "from the future"})
    await stage.until(lambda: stage.events)
    assert stage.metrics.gauge("inflight") == 3
    assert stage.events == [(1, "gateway.degraded")]
    assert stats == [(1, {"type": "stats", "inflight": 3})]


async def test_calls_are_answered(stage):
    """One worker or all of them."""
    await stage.all_ready()
    assert await stage.roster.call_all("reset", {}) == [[1], [2]]
    assert read_sums(await stage.roster.call_one("peek", {})) in ([1], [2])


async def test_failing_silent_and_missing_workers(stage, monkeypatch):
    """Each is a CallError with its reason."""
    with pytest.raises(CallError, match="no worker"):
        await stage.roster.call_one("peek", {})
    await stage.all_ready()
    stage.answers[0] = {"error": "the store is away"}
    with pytest.raises(CallError, match="the store is away"):
        await stage.roster.call_all("reset", {})
    stage.answers[0] = None
    monkeypatch.setattr(module, "CALL_TIMEOUT_S", 0.02)
    with pytest.raises(CallError, match="did not answer"):
        await stage.roster.call_all("reset", {})
    stage.links[0].send({"type": "answer", "id": 1, "result": "too late"})
    with pytest.raises(CallError):
        read_sums(["junk"])


async def test_worker_of_no_number_is_parted_from(stage):
    """An index beyond the configured ones belongs to nobody."""
    stranger = WorkerLink(stage.path, 9, 0, lambda _: None)
    await stranger.start()
    await stage.all_ready()
    assert [worker["index"] for worker in stage.roster.public()] == [0, 1]
    await stranger.close()
