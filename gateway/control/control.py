"""The control process: one a machine, beside the data plane and never in its way.

It collects the records of all workers, answers the admin port, follows the block list,
hands out configuration, secret and key sets. When it is killed workers go on with what
they have, records wait in the rings, and its successor takes up from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import uvloop
from aiohttp import web
from redis.exceptions import RedisError

from gateway import __version__
from gateway.admin.api import build_app
from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.alerts.model import DEGRADED, RECOVERED
from gateway.control.alerting import Alerting
from gateway.control.backend import ControlBackend
from gateway.control.baselines import LOAD_S, BaselinePersistence
from gateway.control.blocks import (
    Blocks,
    BlocksUnavailable,
    BlockTable,
    MemoryBlocks,
    RedisBlocks,
)
from gateway.control.counters import SubjectCounters
from gateway.control.detection import Detection
from gateway.control.enforcer import Enforcer
from gateway.control.history import History
from gateway.control.incidents import LocalIncidents
from gateway.control.jwks import JwksFetcher
from gateway.control.labels import model_labels
from gateway.control.records import Collector
from gateway.control.replicas import Replicas
from gateway.control.running_config import ReloadResult, RunningConfig
from gateway.control.secret import SecretKeeper
from gateway.control.spans import open_traces
from gateway.control.spending import Spending
from gateway.control.watching import changes
from gateway.control.workers import WorkerRegistry
from gateway.detect.packed_baselines import BaselinesError
from gateway.serve.background import Background
from gateway.serve.link import Message
from gateway.serve.logs import log_state, set_up_logs
from gateway.serve.runtime import (
    ChildSpec,
    child_spec,
    gateway_name,
    read_snapshot,
)
from gateway.serve.tls import ServerTls
from gateway.sinks.file import FileSink
from gateway.store.client import open_redis
from gateway.store.url import check_eviction

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.detect.model import Output

# Records are collected this often while there are any: a small batch keeps a core that
# is shared with a worker for a short time only. And this often while there are none.
BUSY_DRAIN_S = 0.02
IDLE_DRAIN_S = 0.1
# The data plane goes first where control and workers share a core.
NICENESS = 5
# The store's secret is asked for until it is known, then looked after: a store that was
# emptied gets it back.
SECRET_RETRY_S = 1.0
SECRET_CHECK_S = 60.0
ADMIN_SHUTDOWN_S = 2.0
CERTIFICATE_S = 10.0


class Control:
    """The composition root of this process, and its life from start to end."""

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._name = gateway_name(spec.runtime_dir)
        self._settings = RunningConfig(
            spec.runtime_dir, read_snapshot(spec.runtime_dir)
        )
        config = self._settings.config
        logs = config.server.log
        self._log = set_up_logs(logs.level, logs.format, "control")
        self._background = Background(self._task_failed)
        metrics, clients = Metrics(__version__), ClientTable()
        self._metrics = metrics
        self._roster = WorkerRegistry(
            spec.link, spec.workers, metrics, self._greeting, self._on_event
        )
        self._roster.on_ready = lambda: self._notify(b"ready\n")
        self._table = BlockTable(self._roster.broadcast)
        self._redis: Redis | None = None
        self._blocks = self._open_blocks(config.store.prefix)
        self._enforcer = Enforcer(self._table, self._blocks)
        self._alerting = Alerting(
            self._redis,
            config.store.prefix,
            spec.runtime_dir,
            self._name,
            self._background,
            spec.workers,
            self._alerting_state,
        )
        self._roster.on_stats = self._on_stats
        self._incidents = LocalIncidents(self._say_output, self._alerting.recall)
        self._detecting = Detection(
            self._enforcer, self._incidents, self._roster.broadcast
        )
        self._memory = BaselinePersistence(
            self._detecting, self._redis, config.store.prefix, spec.runtime_dir
        )
        self._collector = Collector(spec.rings, metrics, clients, self._detecting.take)
        self._history = History(self._history_state)
        self._collector.history = self._history.take
        files = config.admin.tls
        self._admin_tls = None if files is None else ServerTls(files.cert, files.key)
        tls = config.server.tls is not None
        self._traces = open_traces(os.environ, self._log, tls=tls)
        if self._traces is not None:
            self._collector.traces = self._traces.take
        self._replicas = self._count_replicas(config.store.prefix)
        self._block_problem = ""
        self._secret = SecretKeeper(spec.store_url, config.store.prefix)
        self._jwks = JwksFetcher(self._roster.broadcast, self._jwks_failed)
        self._jwks_due = asyncio.Event()
        counters = SubjectCounters(config.store.prefix.encode(), self._roster)
        self._backend = ControlBackend(
            spec=spec,
            settings=self._settings,
            metrics=metrics,
            clients=clients,
            roster=self._roster,
            blocks=self._blocks,
            table=self._table,
            counters=counters,
            collector=self._collector,
            enforcer=self._enforcer,
            incidents=self._incidents,
            alerting=self._alerting,
            detecting=self._detecting,
            history=self._history,
            traces=self._traces,
            reload=self._reload,
        )
        self._spending = Spending(
            self._backend.activity.spend,
            self._redis,
            config.store.prefix,
            spec.runtime_dir,
            self._name,
        )
        self._collector.notice = self._backend.activity.observe
        self._detecting.on_tide = self._backend.expect
        self._admin: web.AppRunner | None = None
        self._apply()

    def _open_blocks(self, prefix: str) -> Blocks:
        url = self._spec.store_url
        if url.startswith("memory:"):
            return MemoryBlocks(self._table, f"{self._spec.runtime_dir}/blocks.mp")
        self._redis = open_redis(url)
        return RedisBlocks(self._redis, prefix, self._table, self._blocks_state)

    def _count_replicas(self, prefix: str) -> Replicas | None:
        if self._redis is None:
            return None
        workers = self._spec.workers
        return Replicas(
            self._redis, prefix, self._name, workers, self._roster.broadcast
        )

    # -- life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM; then write out what is left."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._drain_begins)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await asyncio.gather(self._remember(), self._recall_blocks())
        if self._traces is not None:
            self._traces.start()
        self._collect_backlog()
        await self._roster.start()
        await self._open_admin()
        for work, name in (
            (self._collect(), "collect"),
            (self._blocks.run(), "blocks"),
            (self._keep_secret(), "secret"),
            (self._keep_keys(), "jwks"),
            (self._watch_file(), "watch"),
            (self._detecting.run(), "detect"),
            (self._enforcer.run(), "enforce"),
            (self._memory.run(self._memory_state), "memory"),
            (self._alerting.run(), "alerting"),
            (self._backend.activity.live.run(), "stream"),
            (self._history.run(), "history"),
            (self._spending.run(), "spending"),
        ):
            self._background.start(work, name)
        if self._admin_tls is not None:
            self._background.start(self._keep_certificate(self._admin_tls), "tls")
        if self._replicas is not None:
            self._background.start(self._replicas.run(), "replicas")
        await stop.wait()
        await self._close()

    async def _remember(self) -> None:
        """Begin with what was learned before, where it can be had soon."""
        try:
            learned = await self._memory.load()
        except (BaselinesError, RedisError, OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            self._log.warning("baselines_not_loaded", why=why)
        else:
            self._log.info("baselines_loaded", found=learned)

    async def _recall_blocks(self) -> None:
        """Who is blocked is refused from the first request on. Where the store is away,
        the list comes when it can be followed.
        """
        with contextlib.suppress(BlocksUnavailable, TimeoutError):
            async with asyncio.timeout(LOAD_S):
                await self._blocks.load()

    def _memory_state(self, problem: str) -> None:
        log_state(
            self._log, problem, failing="baselines_not_saved", working="baselines_saved"
        )

    def _history_state(self, problem: str) -> None:
        log_state(
            self._log,
            problem,
            failing="influx_write_failed",
            working="influx_write_recovered",
        )

    def _say_output(self, output: Output) -> None:
        """What the detector says: for the log, the pager and the console."""
        self._alerting.take(output)
        self._backend.activity.on_output(output)
        level = logging.INFO if output.severity == "info" else logging.WARNING
        self._log.log(
            level,
            "verdict",
            type=output.type,
            id=output.id,
            severity=output.severity,
            cls=output.cls,
            score=output.score,
            subject=f"{output.subject.kind} {output.subject.id}",
            tenant=output.tenant,
            action=output.action,
            until=output.until,
            reasons=list(output.reasons),
        )

    def _collect_backlog(self) -> None:
        """What a predecessor left in the rings; some of it may be in the file already."""
        sink = self._collector.sink
        if sink is not None:
            sink.start()
        while self._collector.drain():
            pass
        if sink is not None:
            sink.caught_up()

    async def _open_admin(self) -> None:
        host, port = self._spec.admin
        self._admin = web.AppRunner(
            build_app(self._backend, host),
            access_log=None,
            shutdown_timeout=ADMIN_SHUTDOWN_S,
        )
        await self._admin.setup()
        tls = self._admin_tls
        site = web.TCPSite(
            self._admin,
            host,
            port,
            reuse_port=True,
            ssl_context=None if tls is None else tls.context,
        )
        await site.start()

    async def _keep_certificate(self, tls: ServerTls) -> None:
        """That of the admin port, read again when it changes."""
        problem = ""
        while True:
            await asyncio.sleep(CERTIFICATE_S)
            before, problem = problem, ""
            try:
                tls.refresh()
            except (OSError, ssl.SSLError) as error:
                problem = str(error)
            if problem != before:
                log_state(
                    self._log,
                    problem,
                    failing="certificate_not_reloaded",
                    working="certificate_reloaded",
                    level=logging.ERROR,
                )

    async def _close(self) -> None:
        await self._background.close()
        await self._roster.close()
        while self._collector.drain():
            pass
        await self._alerting.close()
        if self._collector.sink is not None:
            self._collector.sink.close()
        if self._admin is not None:
            await self._admin.cleanup()
        await self._history.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        async with (
            asyncio.TaskGroup() as last
        ):  # a store that is frozen is waited for once
            last.create_task(_if_possible(self._memory.save()))
            last.create_task(_if_possible(self._spending.save()))
        self._collector.close()
        if self._redis is not None:
            with suppress(RedisError, OSError):
                if self._replicas is not None:
                    await self._replicas.leave()
                await self._redis.aclose()

    def _notify(self, line: bytes) -> None:
        """Tell the supervisor."""
        if self._spec.notify_fd >= 0:
            with suppress(OSError):
                os.write(self._spec.notify_fd, line)

    def _drain_begins(self) -> None:
        """SIGUSR1: the supervisor is about to stop the workers."""
        self._backend.draining = True
        self._roster.broadcast({"type": "drain"})
        self._notify(b"draining\n")

    def _task_failed(self, name: str, error: BaseException) -> None:
        """A fault of ours: end, and let the supervisor start a sound process."""
        self._log.error("task_failed", task=name, exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)

    # -- workers -----------------------------------------------------------------------

    def _greeting(self) -> Iterator[Message]:
        """All that a worker must know when it comes."""
        yield self._settings.message()
        yield {"type": "secret", "value": self._secret.value}
        yield from self._jwks.messages()
        if self._replicas is not None:
            yield self._replicas.message()
        if self._table.known:
            yield self._table.full_message()
        yield from self._detecting.greeting()
        if self._backend.draining:
            yield {"type": "drain"}

    def _on_event(self, index: int, message: Message) -> None:
        name = str(message.get("name", ""))
        reason = str(message.get("reason", ""))
        if name == DEGRADED:
            self._log.warning("gateway_degraded", worker=index, reason=reason)
        elif name == RECOVERED:
            merged = message.get("merged", 0)
            self._log.info("gateway_recovered", worker=index, merged=merged)
        self._alerting.take_event(index, name, reason)

    def _on_stats(self, index: int, message: Message) -> None:
        up = bool(message.get("store_up", True))
        self._alerting.take_stats(index, store_up=up)

    def _alerting_state(self, problem: str) -> None:
        log_state(
            self._log,
            problem,
            failing="alert_outbox_unavailable",
            working="alert_outbox_available",
        )

    async def _collect(self) -> None:
        problem, collected = "", 0
        while True:
            more = self._collector.drain()
            sink = self._collector.sink
            now = "" if sink is None else sink.error
            if now != problem:
                log_state(
                    self._log,
                    now,
                    failing="records_dropped",
                    working="records_written",
                    level=logging.ERROR,
                )
                problem = now
            self._alerting.take_trouble("records", now and f"records are lost: {now}")
            busy = self._collector.collected != collected
            collected = self._collector.collected
            pause_s = BUSY_DRAIN_S if busy else IDLE_DRAIN_S
            await asyncio.sleep(0 if more else pause_s)

    # -- configuration -----------------------------------------------------------------

    def _apply(self) -> None:
        """Make the configuration in force this process's own."""
        resolved = self._settings.resolved
        names = {tenant.name for tenant in resolved.tenants} | {"anonymous"}
        label = model_labels(resolved)
        self._metrics.configure(names, label)
        self._history.configure(self._settings.config.events.influx, label)
        self._jwks.configure(resolved.tenants)
        self._alerting.configure(self._settings.config)
        self._detecting.configure(resolved)
        self._jwks_due.set()
        events = self._settings.config.events
        if self._collector.sink is not None:
            # Opened anew even under the same name: somebody may have moved the file.
            self._collector.sink.close()
        self._collector.sink = None
        if events.file:
            self._collector.sink = FileSink(
                str(events.file), max_bytes=events.max_size, keep=events.keep
            )

    def _reload(self) -> ReloadResult:
        """Read the configuration again; a bad one changes nothing."""
        result = self._settings.reload()
        if not result.ok:
            self._log.error("configuration_refused", errors=list(result.errors))
            # Not which: it may quote what is secret, and the old one stays in force.
            why = f"A changed configuration was refused, faults: {len(result.errors)}."
            self._alerting.take_trouble("configuration", why)
            return result
        self._alerting.take_trouble("configuration", "")
        self._apply()
        self._roster.broadcast(self._settings.message())
        self._log.info(
            "configuration_applied",
            generation=result.generation,
            warnings=list(result.warnings),
            needs_restart=list(result.needs_restart),
        )
        return result

    async def _watch_file(self) -> None:
        """Reload when the file changes."""
        path = self._settings.file
        if path is None:
            return
        if not self._settings.is_changed():  # not while no control was there, either
            self._alerting.take_trouble("configuration", "")
        else:
            self._reload()
        async for _ in changes(path, self._watch_state):
            if self._settings.is_changed():
                self._reload()

    def _watch_state(self, problem: str) -> None:
        self._log.warning("configuration_polled", why=problem)

    # -- the store ---------------------------------------------------------------------

    def _blocks_state(self, problem: str) -> None:
        if bool(problem) != bool(self._block_problem):
            log_state(
                self._log,
                problem,
                failing="block_list_not_followed",
                working="block_list_followed",
            )
        self._block_problem = problem

    async def _keep_secret(self) -> None:
        """Fetch the store's secret, and see that it stays there."""
        if self._redis is None:
            self._secret.keep_copy()
            return
        while True:
            try:
                fresh = not self._secret.shared
                if await self._secret.fetch(self._redis):
                    message = {"type": "secret", "value": self._secret.value}
                    self._roster.broadcast(message)
                if fresh:
                    await self._warn_of_eviction(self._redis)
            except (RedisError, OSError):
                await asyncio.sleep(SECRET_RETRY_S)
            else:
                await asyncio.sleep(SECRET_CHECK_S)

    async def _warn_of_eviction(self, client: Redis) -> None:
        asked: Any = client
        memory = await asked.info("memory")
        policy = str(memory.get("maxmemory_policy", ""))
        warning = check_eviction(policy, int(memory.get("maxmemory", 0)))
        if warning is not None:
            self._log.warning("store_may_evict_keys", why=warning)

    async def _keep_keys(self) -> None:
        """Key sets of tenants: at once when the configuration changes, and often."""
        while True:
            self._jwks_due.clear()
            wait_s = await self._jwks.refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._jwks_due.wait()

    def _jwks_failed(self, url: str, why: str) -> None:
        self._log.warning("key_set_not_fetched", url=url, why=why)


async def _if_possible(save: Awaitable[None]) -> None:
    with suppress(BaselinesError, RedisError, OSError, TimeoutError):
        await save


async def _serve(spec: ChildSpec) -> None:
    await Control(spec).run()


def main() -> NoReturn:
    """Entry of ``python -m gateway.control.control``."""
    # Until the loop's handlers stand, an early signal must not end this process.
    for signum in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(NICENESS)
    uvloop.run(_serve(child_spec(os.environ)))
    raise SystemExit(0)


if __name__ == "__main__":
    main()
