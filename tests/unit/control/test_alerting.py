"""Alerting of one gateway: what is said, and that nothing of it is lost."""

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
    """What a detector says."""
    moment = format_time(at)
    line = Output(
        type=kind, id=id_, ts=moment, severity="warning", cls="cost_spike", score=4.5,
        subject=Ref("user", "key_1"), tenant="acme", action="tag", until=None,
        window=EvidenceWindow(moment, moment), observed={}, expected={}, reasons=("It costs.",),
    )  # fmt: skip
    return msgspec.structs.replace(line, **changes)


def failed(name: str, error: BaseException) -> None:
    """A task of ours ended by an error."""
    raise AssertionError(name) from error


class Stage:
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
        """What receivers would hear of."""
        await self.alerting._flush()
        found = await self.alerting._outbox.events("r", 99, NOW)
        return [(one.type, one.payload()["id"]) for one in found]


@pytest.fixture(name="stage")
async def _stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    await stage.stop()


# -- a store that is silent ------------------------------------------------------------


@contextlib.asynccontextmanager
async def silent_store() -> AsyncIterator[Redis]:
    """It takes connections, and never answers."""
    writers: list[asyncio.StreamWriter] = []

    async def keep(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    async with await asyncio.start_server(keep, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Redis(port=port, socket_timeout=60) as client:
            yield client
        for writer in writers:
            writer.close()


async def test_what_was_said_survives_a_kill_before_the_store_answers(tmp_path):
    """It is in the file while the store still thinks about it."""
    async with silent_store() as client:
        stage = Stage(tmp_path, client)
        stage.start()
        stage.alerting.take(said())
        await stage.until(stage.waiting.exists)
        await stage.background.close()  # and no ``close``: as a kill would have it
    after = Stage(tmp_path)
    assert after.alerting.pending == 1
    assert await after.events() == [("incident.opened", "inc_a")]
    await after.stop()
    assert not after.waiting.exists()


async def test_a_gateway_that_ends_leaves_what_the_store_did_not_take(
    tmp_path, monkeypatch
):
    """Also what is said in its last moment, after everything was cancelled."""
    monkeypatch.setattr("gateway.control.alerting.CLOSE_S", 0.05)
    async with silent_store() as client:
        stage = Stage(tmp_path, client)
        stage.start()
        stage.alerting.take(said())
        await stage.background.close()
        stage.alerting.take(said("inc_b"))
        await stage.alerting.close()
    after = Stage(tmp_path)
    assert after.alerting.pending == 2
    await after.stop()


# -- restarts ----------------------------------------------------------------------------


async def test_an_incident_that_goes_on_over_a_restart_is_known_to_the_store(stage):
    """It is opened where the store missed it, and said to go on."""
    stage.alerting.recall(said("inc_a", "incident.updated", NOW - 60))
    assert await stage.events() == [("incident.opened", "inc_a")]
    await stage.alerting._beat(NOW + 3_000)
    await stage.alerting._beat(NOW + 6_000)
    await stage.alerting._look()
    assert stage.alerting.active == 1


async def test_an_incident_that_ended_meanwhile_is_not_opened_anew(stage):
    """What is remembered of it is older than its end."""
    stage.alerting.take(said())
    stage.now += 60
    stage.alerting.take(said(kind="incident.resolved"))
    stage.alerting.recall(said(kind="incident.updated", at=NOW + 50))
    kinds = [kind for kind, _ in await stage.events()]
    assert kinds == ["incident.opened", "incident.resolved"]


# -- troubles of the gateway itself --------------------------------------------------------


async def heard(stage) -> list[str]:
    return [kind.partition(".")[2] for kind, _ in await stage.events()]


async def test_a_trouble_ends_with_the_worker_that_had_it(stage):
    """A worker that was killed says nothing more; its successor is well."""
    stage.alerting.take_stats(0, store_up=True)
    stage.alerting.take_event(0, "gateway.degraded", "no answer")
    stage.alerting.take_stats(0, store_up=False)
    assert await heard(stage) == ["degraded"]
    stage.alerting.take_stats(0, store_up=True)
    assert await heard(stage) == ["degraded", "recovered"]


async def test_a_trouble_that_control_did_not_survive_is_ended_by_the_next(tmp_path):
    """Once every worker is well; where nothing was told nothing is."""
    first = Stage(tmp_path, workers=2)
    first.alerting.take_event(1, "gateway.degraded", "no answer")
    first.alerting.take_trouble("records", "disk full")
    assert await heard(first) == ["degraded", "degraded"]
    await first.stop()
    second = Stage(tmp_path, workers=2)
    second.alerting.take_stats(0, store_up=True)
    second.alerting.take_trouble("records", "")
    second.alerting.take_trouble("configuration", "")
    assert (await heard(second))[2:] == ["recovered"]
    second.alerting.take_stats(1, store_up=True)
    assert (await heard(second))[3:] == ["recovered"]
    await second.stop()


async def test_a_trouble_that_waits_for_the_store_is_not_told_anew(tmp_path):
    """By the control that comes after; its end is."""
    async with silent_store() as client:
        first = Stage(tmp_path, client)
        first.start()
        first.alerting.take_event(0, "gateway.degraded", "no answer")
        await first.until(first.waiting.exists)
        await first.background.close()
    second = Stage(tmp_path)
    second.alerting.take_event(0, "gateway.degraded", "no answer")
    assert second.alerting.pending == 1
    second.alerting.take_event(0, "gateway.recovered", "")
    assert await heard(second) == ["degraded", "recovered"]
    await second.stop()


async def test_each_part_has_its_own_trouble_told_once(stage):
    """A beginning and its end have one id, another part's another."""
    for problem in ("disk full", "disk full", ""):
        stage.alerting.take_trouble("records", problem)
    stage.alerting.take_trouble("configuration", "refused")
    (full, id_), (over, same), (refused, other) = await stage.events()
    assert (full, over, refused) == (
        "gateway.degraded", "gateway.recovered", "gateway.degraded",
    )  # fmt: skip
    assert id_ == same != other


# -- reload in mid-delivery ------------------------------------------------------------------


class Hook:
    """A receiver that answers when it is let; counts who asks at once."""

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
    """One receiver, called hook."""
    table = {"type": "webhook", "name": "hook", "url": url, "allow_private": True}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (table | changes).items()]
    return load(None, text=UPSTREAM + "[[alert]]\n" + "\n".join(lines)).config


async def test_a_reload_in_mid_delivery_tells_nobody_twice(stage):
    """The attempt ends under the old settings; the new ones come after it."""
    hook = Hook()
    async with serving(hook) as url:
        stage.alerting.configure(config(url))
        stage.start()
        stage.alerting.take(said())
        await stage.until(lambda: hook.ids)
        stage.alerting.configure(config(url, min_severity="info"))
        stage.alerting.take(said("inc_b", subject=Ref("user", "key_2")))
        await stage.until(lambda: stage.alerting._leaving)
        assert stage.alerting._find("hook").min_severity == "info"
        hook.let.set()
        await stage.until(lambda: len(hook.ids) == 2)
        await stage.until(lambda: not stage.alerting.pending)
        assert (hook.most, len(set(hook.ids))) == (1, 2)
        await stage.stop()
