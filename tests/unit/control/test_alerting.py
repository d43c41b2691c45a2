"""Alerting of one gateway: reports reach the outbox exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web
from redis.asyncio import Redis

from gateway.config import Config, load
from gateway.control.alerting import Alerting
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time
from gateway.serve.background import Background

NOW = 1_767_600_000.0
UPSTREAM = '[[upstream]]\nurl = "http://127.0.0.1:9"\n'


def said(id_="inc_a", kind="incident.opened", at=NOW, **changes) -> Output:
    """An output of the detector."""
    moment = format_time(at)
    line = Output(
        type=kind, id=id_, ts=moment, severity="warning", cls="cost_spike", score=4.5,
        subject=Ref("user", "key_1"), tenant="acme", action="tag", until=None,
        window=EvidenceWindow(moment, moment), observed={}, expected={}, reasons=("It costs.",),
    )  # fmt: skip
    return msgspec.structs.replace(line, **changes)


def failed(name: str, error: BaseException) -> None:
    """Fail the test when a background task raises."""
    raise AssertionError(name) from error


class Scene:
    """Alerting as control runs it."""

    def __init__(self, folder, client: Redis | None = None, workers: int = 1) -> None:
        self.waiting = folder / "run.alerts-waiting"
        self.now = NOW
        self.background = Background(failed)
        self.alerting = Alerting(
            client, "t:", str(folder / "run"), "gw", self.background, workers,
            clock=lambda: self.now,
        )  # fmt: skip

    def start(self) -> None:
        self.background.start(self.alerting.run(), "alerting")

    async def stop(self) -> None:
        await self.background.close()
        await self.alerting.close()

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - any condition at all
                await asyncio.sleep(0.005)

    async def events(self) -> list[tuple[str, str]]:
        """Types and ids of the events in the outbox."""
        await self.alerting._flush()
        found = await self.alerting._outbox.events("r", 99, NOW)
        return [(one.type, one.payload()["id"]) for one in found]


@pytest.fixture(name="scene")
async def _stage(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    await scene.stop()


# -- a store that does not answer ------------------------------------------------------


@contextlib.asynccontextmanager
async def silent_store() -> AsyncIterator[Redis]:
    """A store that accepts connections and never answers."""
    writers: list[asyncio.StreamWriter] = []

    async def keep(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    async with await asyncio.start_server(keep, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Redis(port=port, socket_timeout=60) as client:
            yield client
        for writer in writers:
            writer.close()


async def test_reports_survive_a_kill_before_the_store_answers(tmp_path):
    """A report that the store has not acknowledged is in the file when control is
    killed.
    """
    async with silent_store() as client:
        scene = Scene(tmp_path, client)
        scene.start()
        scene.alerting.take(said())
        await scene.until(scene.waiting.exists)
        await scene.background.close()  # no ``close``, as after a kill
    after = Scene(tmp_path)
    assert after.alerting.pending == 1
    assert await after.events() == [("incident.opened", "inc_a")]
    await after.stop()
    assert not after.waiting.exists()


async def test_close_keeps_reports_that_the_store_did_not_accept(tmp_path, monkeypatch):
    """Reports that the store did not accept by ``close`` are in the file, also those
    made during the shutdown.
    """
    monkeypatch.setattr("gateway.control.alerting.CLOSE_S", 0.05)
    async with silent_store() as client:
        scene = Scene(tmp_path, client)
        scene.start()
        scene.alerting.take(said())
        await scene.background.close()
        scene.alerting.take(said("inc_b"))
        await scene.alerting.close()
    after = Scene(tmp_path)
    assert after.alerting.pending == 2
    await after.stop()


# -- restarts ----------------------------------------------------------------------------


async def test_an_incident_that_continues_over_a_restart_is_kept_open(scene):
    """An incident that continues over a restart is opened in the outbox if missing, and
    kept open.
    """
    scene.alerting.recall(said("inc_a", "incident.updated", NOW - 60))
    assert await scene.events() == [("incident.opened", "inc_a")]
    await scene.alerting._beat(NOW + 3_000)
    await scene.alerting._beat(NOW + 6_000)
    await scene.alerting._look()
    assert scene.alerting.active == 1


async def test_an_incident_that_ended_meanwhile_is_not_opened_anew(scene):
    """A recalled incident that has been resolved is not opened again."""
    scene.alerting.take(said())
    scene.now += 60
    scene.alerting.take(said(kind="incident.resolved"))
    scene.alerting.recall(said(kind="incident.updated", at=NOW + 50))
    kinds = [kind for kind, _ in await scene.events()]
    assert kinds == ["incident.opened", "incident.resolved"]


# -- failures of the gateway itself --------------------------------------------------------


async def reported(scene) -> list[str]:
    return [kind.partition(".")[2] for kind, _ in await scene.events()]


async def test_a_failure_ends_with_the_worker_that_reported_it(scene):
    """A failure ends when the successor of the worker that reported it is healthy."""
    scene.alerting.take_stats(0, store_up=True)
    scene.alerting.take_event(0, "gateway.degraded", "no answer")
    scene.alerting.take_stats(0, store_up=False)
    assert await reported(scene) == ["degraded"]
    scene.alerting.take_stats(0, store_up=True)
    assert await reported(scene) == ["degraded", "recovered"]


async def test_the_next_control_ends_failures_of_its_predecessor(tmp_path):
    """The next control ends a failure once every worker is healthy, and ends only what
    was reported.
    """
    first = Scene(tmp_path, workers=2)
    first.alerting.take_event(1, "gateway.degraded", "no answer")
    first.alerting.take_trouble("records", "disk full")
    assert await reported(first) == ["degraded", "degraded"]
    await first.stop()
    second = Scene(tmp_path, workers=2)
    second.alerting.take_stats(0, store_up=True)
    second.alerting.take_trouble("records", "")
    second.alerting.take_trouble("configuration", "")
    assert (await reported(second))[2:] == ["recovered"]
    second.alerting.take_stats(1, store_up=True)
    assert (await reported(second))[3:] == ["recovered"]
    await second.stop()


async def test_a_queued_failure_is_not_reported_again(tmp_path):
    """A failure that is queued for the store is not reported again by the next control;
    its end is.
    """
    async with silent_store() as client:
        first = Scene(tmp_path, client)
        first.start()
        first.alerting.take_event(0, "gateway.degraded", "no answer")
        await first.until(first.waiting.exists)
        await first.background.close()
    second = Scene(tmp_path)
    second.alerting.take_event(0, "gateway.degraded", "no answer")
    assert second.alerting.pending == 1
    second.alerting.take_event(0, "gateway.recovered", "")
    assert await reported(second) == ["degraded", "recovered"]
    await second.stop()


async def test_failures_of_each_part_are_reported_once(scene):
    """A failure and its end are reported once under one id, and another part has
    another id.
    """
    for problem in ("disk full", "disk full", ""):
        scene.alerting.take_trouble("records", problem)
    scene.alerting.take_trouble("configuration", "refused")
    (full, id_), (over, same), (refused, other) = await scene.events()
    assert (full, over, refused) == (
        "gateway.degraded", "gateway.recovered", "gateway.degraded",
    )  # fmt: skip
    assert id_ == same != other


# -- reload during a delivery ----------------------------------------------------------------


class Hook:
    """A receiver that answers when ``let`` is set and counts concurrent requests."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.now = self.most = 0
        self.ids: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        await request.read()
        self.ids.append(request.headers["webhook-id"])
        await self.let.wait()
        self.now -= 1
        return web.Response()


@contextlib.asynccontextmanager
async def serving(hook: Hook) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", hook.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        hook.let.set()
        await runner.cleanup()


def config(url: str, **changes) -> Config:
    """A configuration with one receiver named ``hook``."""
    table = {"type": "webhook", "name": "hook", "url": url, "allow_private": True}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (table | changes).items()]
    return load(None, text=UPSTREAM + "[[alert]]\n" + "\n".join(lines)).config


async def test_a_reload_during_a_delivery_sends_nothing_twice(scene):
    """On a reload the running attempt ends under the old settings before the new ones
    apply, and no message is sent twice.
    """
    hook = Hook()
    async with serving(hook) as url:
        scene.alerting.configure(config(url))
        scene.start()
        scene.alerting.take(said())
        await scene.until(lambda: hook.ids)
        scene.alerting.configure(config(url, min_severity="info"))
        scene.alerting.take(said("inc_b", subject=Ref("user", "key_2")))
        await scene.until(lambda: scene.alerting._leaving)
        assert scene.alerting._find("hook").min_severity == "info"
        hook.let.set()
        await scene.until(lambda: len(hook.ids) == 2)
        await scene.until(lambda: not scene.alerting.pending)
        assert (hook.most, len(set(hook.ids))) == (1, 2)
        await scene.stop()
