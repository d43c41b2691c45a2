"""Control's view of its workers, over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin.metrics import Metrics
from gateway.control import workers as module
from gateway.control.workers import CallError, WorkerRegistry, read_sums
from gateway.serve.link import WorkerLink


class Scene:
    """A registry of two workers that answer as configured."""

    def __init__(self, folder):
        self.path = str(folder / "link")
        self.events = []
        self.heard = [[], []]
        self.ready = asyncio.Event()
        self.answers = [{"result": [1]}, {"result": [2]}]
        self.metrics = Metrics("1")
        self.registry = WorkerRegistry(
            self.path,
            2,
            self.metrics,
            lambda: iter([{"type": "secret", "value": "s"}]),
            lambda index, message: self.events.append((index, message["name"])),
        )
        self.registry.on_ready = self.ready.set
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


@pytest.fixture(name="scene")
async def _stage(tmp_path):
    scene = Scene(tmp_path)
    await scene.registry.start()
    yield scene
    for link in scene.links:
        await link.close()
    await scene.registry.close()


async def test_ready_when_every_worker_is(scene):
    """Control is ready when every worker is; until then the reasons name the others."""
    assert scene.registry.not_ready() == [
        "worker 0 is not ready",
        "worker 1 is not ready",
    ]
    await scene.all_ready()
    assert scene.registry.not_ready() == []
    await scene.until(lambda: scene.heard == [["secret"], ["secret"]])
    assert scene.registry.public()[1]["restarts"] == 4


async def test_one_worker_is_enough_later(scene):
    """Once started, control stays ready while one worker is connected."""
    await scene.all_ready()
    await scene.links[0].close()
    await scene.until(lambda: not scene.registry.workers[0].connected)
    assert scene.registry.not_ready() == []
    await scene.links[1].close()
    await scene.until(lambda: not scene.registry.workers[1].connected)
    assert len(scene.registry.not_ready()) == 2


async def test_stats_and_events_arrive(scene):
    """Statistics set gauges, and events are passed on."""
    await scene.all_ready()
    stats = []
    scene.registry.on_stats = lambda index, message: stats.append((index, message))
    scene.links[1].send({"type": "stats", "inflight": 3})
    scene.links[1].send({"type": "event", "name": "gateway.degraded"})
    scene.links[1].send({"type": "from the future"})
    await scene.until(lambda: scene.events)
    assert scene.metrics.gauge("inflight") == 3
    assert scene.events == [(1, "gateway.degraded")]
    assert stats == [(1, {"type": "stats", "inflight": 3})]


async def test_calls_are_answered(scene):
    """Calls to one worker and to all are answered."""
    await scene.all_ready()
    assert await scene.registry.call_all("reset", {}) == [[1], [2]]
    assert read_sums(await scene.registry.call_one("peek", {})) in ([1], [2])


async def test_failing_silent_and_missing_workers(scene, monkeypatch):
    """A failing, silent or missing worker raises CallError with the reason."""
    with pytest.raises(CallError, match="no worker"):
        await scene.registry.call_one("peek", {})
    await scene.all_ready()
    scene.answers[0] = {"error": "the store is away"}
    with pytest.raises(CallError, match="the store is away"):
        await scene.registry.call_all("reset", {})
    scene.answers[0] = None
    monkeypatch.setattr(module, "CALL_TIMEOUT_S", 0.02)
    with pytest.raises(CallError, match="did not answer"):
        await scene.registry.call_all("reset", {})
    scene.links[0].send({"type": "answer", "id": 1, "result": "too late"})
    with pytest.raises(CallError):
        read_sums(["junk"])


async def test_an_unknown_worker_is_disconnected(scene):
    """A worker with an index beyond the configured ones is disconnected."""
    stranger = WorkerLink(scene.path, 9, 0, lambda _: None)
    await stranger.start()
    await scene.all_ready()
    assert [worker["index"] for worker in scene.registry.public()] == [0, 1]
    await stranger.close()
