"""The control process: one per machine, outside the path of requests.

Collects the records of all workers, runs detection and enforcement, serves the admin
port, and distributes configuration, secret, key sets and blocks to the workers. If it is
killed, workers continue with what they have, records wait in the rings, and the next
control process continues from there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import uvloop
from redis.exceptions import RedisError

from gateway import __version__
from gateway.admin.clients import ClientTable
from gateway.admin.metrics import Metrics
from gateway.alerts.model import DEGRADED, RECOVERED
from gateway.control.admin_port import AdminPort
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
from gateway.control.spans import open_traces
from gateway.control.spending import Spending
from gateway.control.user_ids import UserIds
from gateway.control.watching import changes
from gateway.control.workers import WorkerRegistry
from gateway.detect.packed_baselines import BaselinesError
from gateway.serve.background import Background
from gateway.serve.link import Message
from gateway.serve.logs import log_state, set_up_logs
from gateway.serve.price_table import age_warning, describe_table
from gateway.serve.runtime import (
    ChildSpec,
    child_spec,
    gateway_name,
    read_snapshot,
)
from gateway.serve.secret import SecretKeeper
from gateway.sinks.file import FileSink
from gateway.store.client import eviction_warning
from gateway.store.opening import open_backend

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.detect.model import Output

# Lower priority than workers, which may share the core.
NICENESS = 5
# Interval of attempts to read the store's eviction policy, seconds.
EVICTION_RETRY_S = 5.0


class Control:
    """Composition root of the control process, from start to end."""

    # Over 60 lines: the one place that creates the parts of control and connects them.
    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._name = gateway_name(spec.runtime_dir)
        self._config = RunningConfig(spec.runtime_dir, read_snapshot(spec.runtime_dir))
        config = self._config.config
        logs = config.server.log
        self._log = set_up_logs(logs.level, logs.format, "control")
        self._background = Background(self._task_failed)
        metrics, clients = Metrics(__version__), ClientTable()
        self._metrics = metrics
        self._workers = WorkerRegistry(
            spec.link, spec.workers, metrics, self._greeting, self._on_event
        )
        self._workers.on_ready = lambda: self._notify(b"ready\n")
        self._table = BlockTable(self._workers.broadcast)
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
            self._on_alerting_state,
        )
        self._workers.on_stats = self._on_stats
        self._incidents = LocalIncidents(self._on_output, self._alerting.recall)
        self._detection = Detection(
            self._enforcer, self._incidents, self._workers.broadcast
        )
        self._baselines = BaselinePersistence(
            self._detection, self._redis, config.store.prefix, spec.runtime_dir
        )
        self._collector = Collector(spec.rings, metrics, clients, self._detection.take)
        self._history = History(self._on_influx_state)
        self._collector.history = self._history.take
        tls = config.server.tls is not None
        self._traces = open_traces(os.environ, self._log, tls=tls)
        if self._traces is not None:
            self._collector.traces = self._traces.take
        self._replicas = self._open_replicas(config.store.prefix)
        self._block_problem = self._record_problem = ""
        self._user_ids = UserIds(
            SecretKeeper(spec.store_url, config.store.prefix),
            self._redis,
            self._workers.broadcast,
            self._log,
        )
        self._jwks = JwksFetcher(self._workers.broadcast, self._on_jwks_error)
        self._models: set[str] = set()  # labels of metrics
        counters = SubjectCounters(
            config.store.prefix.encode(),
            self._workers,
            lambda model: self._config.prices.canonical_name(model),  # noqa: PLW0108 - replaced by a reload
        )
        self._backend = ControlBackend(
            spec=spec,
            config=self._config,
            metrics=metrics,
            clients=clients,
            workers=self._workers,
            blocks=self._blocks,
            table=self._table,
            counters=counters,
            collector=self._collector,
            enforcer=self._enforcer,
            incidents=self._incidents,
            alerting=self._alerting,
            detection=self._detection,
            history=self._history,
            traces=self._traces,
            reload=self._reload,
            user_ids=self._user_ids,
        )
        self._spending = Spending(
            self._backend.activity.spend,
            self._redis,
            config.store.prefix,
            spec.runtime_dir,
            self._name,
        )
        self._collector.notice = self._backend.activity.observe
        self._detection.on_expected_rate = self._backend.expect
        self._admin = AdminPort(
            self._backend, spec.admin, config.admin.tls, self._on_admin_certificate
        )
        self._backend.admin_closed = lambda: self._admin.closed_connections
        self._apply()
        self._say_prices()

    def _open_blocks(self, prefix: str) -> Blocks:
        self._redis = open_backend(self._spec.store_url).open_client()
        if self._redis is None:
            return MemoryBlocks(self._table, f"{self._spec.runtime_dir}/blocks.mp")
        return RedisBlocks(self._redis, prefix, self._table, self._on_blocks_state)

    def _open_replicas(self, prefix: str) -> Replicas | None:
        if self._redis is None:
            return None
        workers = self._spec.workers
        return Replicas(
            self._redis, prefix, self._name, workers, self._workers.broadcast
        )

    # -- life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM, then save all state."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._begin_drain)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await asyncio.gather(
            self._load_baselines(), self._load_blocks(), self._user_ids.load()
        )
        if self._traces is not None:
            self._traces.start()
        self._collector.drain_backlog()
        await self._workers.start()
        await self._admin.open()
        for work, name in (
            (self._collector.run(self._on_record_file), "collect"),
            (self._blocks.run(), "blocks"),
            (self._user_ids.run(), "secret"),
            (self._warn_of_eviction(), "eviction"),
            (self._jwks.run(), "jwks"),
            (self._watch_file(), "watch"),
            (self._detection.run(), "detect"),
            (self._enforcer.run(), "enforce"),
            (self._baselines.run(self._on_baselines_state), "memory"),
            (self._alerting.run(), "alerting"),
            (self._backend.activity.live.run(), "stream"),
            (self._history.run(), "history"),
            (self._spending.run(), "spending"),
            (self._admin.watch_certificate(), "tls"),
        ):
            self._background.start(work, name)
        if self._replicas is not None:
            self._background.start(self._replicas.run(), "replicas")
        await stop.wait()
        await self._close()

    def _say_prices(self) -> None:
        """Log which price table is in use, and whether it is old."""
        table = self._config.prices
        self._log.info("prices_loaded", table=describe_table(table))
        old = age_warning(table)
        if old:
            self._log.warning("prices_old", why=old)

    async def _load_baselines(self) -> None:
        """Start with the saved state of detection, if the store returns it in time."""
        try:
            learned = await self._baselines.load()
        except (BaselinesError, RedisError, OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            self._log.warning("baselines_not_loaded", why=why)
        else:
            self._log.info("baselines_loaded", found=learned)

    async def _load_blocks(self) -> None:
        """Read the block list before workers accept requests. If the store is down, the
        list follows when it is back.
        """
        with suppress(BlocksUnavailable, TimeoutError):
            async with asyncio.timeout(LOAD_S):
                await self._blocks.load()

    def _on_baselines_state(self, problem: str) -> None:
        log_state(
            self._log, problem, failing="baselines_not_saved", working="baselines_saved"
        )

    def _on_influx_state(self, problem: str) -> None:
        log_state(
            self._log,
            problem,
            failing="influx_write_failed",
            working="influx_write_recovered",
        )

    def _on_output(self, output: Output) -> None:
        """Pass an output of the detector to alerting, the console and the log."""
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

    async def _close(self) -> None:
        await self._background.close()
        await self._workers.close()
        while self._collector.drain():
            pass
        await self._alerting.close()
        if self._collector.sink is not None:
            self._collector.sink.close()
        await self._admin.close()
        await self._history.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        # Both at once: a store that hangs delays the end only once.
        async with asyncio.TaskGroup() as saves:
            saves.create_task(_if_possible(self._baselines.save()))
            saves.create_task(_if_possible(self._spending.save()))
        self._collector.close()
        if self._redis is not None:
            with suppress(RedisError, OSError):
                if self._replicas is not None:
                    await self._replicas.leave()
                await self._redis.aclose()

    def _notify(self, line: bytes) -> None:
        """Send a line to the supervisor."""
        if self._spec.notify_fd >= 0:
            with suppress(OSError):
                os.write(self._spec.notify_fd, line)

    def _begin_drain(self) -> None:
        """Report not ready: the supervisor (SIGUSR1) is about to stop the workers."""
        self._backend.draining = True
        self._workers.broadcast({"type": "drain"})
        self._notify(b"draining\n")

    def _task_failed(self, name: str, error: BaseException) -> None:
        """End this process after a bug; the supervisor starts another one."""
        self._log.error("task_failed", task=name, exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)

    # -- workers -----------------------------------------------------------------------

    def _greeting(self) -> Iterator[Message]:
        """Messages for a worker that connects."""
        yield self._config.message()
        yield self._user_ids.message()
        yield from self._jwks.messages()
        if self._replicas is not None:
            yield self._replicas.message()
        if self._table.known:
            yield self._table.full_message()
        yield from self._detection.greeting()
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
            self._user_ids.check_soon()
        self._alerting.take_event(index, name, reason)

    def _on_stats(self, index: int, message: Message) -> None:
        up = bool(message.get("store_up", True))
        self._alerting.take_stats(index, store_up=up)
        self._user_ids.take_stats(index, str(message.get("secret_id", "")))

    def _on_record_file(self, problem: str) -> None:
        if problem != self._record_problem:
            log_state(
                self._log,
                problem,
                failing="records_dropped",
                working="records_written",
                level=logging.ERROR,
            )
            self._record_problem = problem
        why = f"records are lost: {problem}" if problem else ""
        self._alerting.take_trouble("records", why)

    def _on_admin_certificate(self, problem: str) -> None:
        log_state(
            self._log,
            problem,
            failing="certificate_not_reloaded",
            working="certificate_reloaded",
            level=logging.ERROR,
        )

    def _on_alerting_state(self, problem: str) -> None:
        log_state(
            self._log,
            problem,
            failing="alert_outbox_unavailable",
            working="alert_outbox_available",
        )

    # -- configuration -----------------------------------------------------------------

    def _apply(self) -> None:
        """Apply the configuration in force to this process."""
        resolved = self._config.resolved
        names = {tenant.name for tenant in resolved.tenants} | {"anonymous"}
        label = model_labels(resolved, self._config.prices, self._models)
        self._metrics.configure(names, label)
        self._history.configure(self._config.config.events.influx, label)
        self._jwks.configure(resolved.tenants)
        self._alerting.configure(self._config.config)
        self._detection.configure(resolved)
        events = self._config.config.events
        if self._collector.sink is not None:
            # Reopened even under the same name: the file may have been moved.
            self._collector.sink.close()
        self._collector.sink = None
        if events.file:
            self._collector.sink = FileSink(
                str(events.file), max_bytes=events.max_size, keep=events.keep
            )

    def _reload(self) -> ReloadResult:
        """Read the configuration again; an invalid one changes nothing."""
        result = self._config.reload()
        if not result.ok:
            self._log.error("configuration_refused", errors=list(result.errors))
            # Without the errors: they may quote secrets.
            why = f"A changed configuration was refused; errors: {len(result.errors)}."
            self._alerting.take_trouble("configuration", why)
            return result
        self._alerting.take_trouble("configuration", "")
        self._apply()
        self._workers.broadcast(self._config.message())
        self._log.info(
            "configuration_applied",
            generation=result.generation,
            warnings=list(result.warnings),
            needs_restart=list(result.needs_restart),
        )
        return result

    async def _watch_file(self) -> None:
        """Reload when the file changes."""
        path = self._config.file
        if path is None:
            return
        # The file may have changed while no control process ran.
        if not self._config.is_changed():
            self._alerting.take_trouble("configuration", "")
        else:
            self._reload()
        async for _ in changes(path, self._on_watch_state):
            if self._config.is_changed():
                self._reload()

    def _on_watch_state(self, problem: str) -> None:
        self._log.warning("configuration_polled", why=problem)

    # -- the store ---------------------------------------------------------------------

    def _on_blocks_state(self, problem: str) -> None:
        if bool(problem) != bool(self._block_problem):
            log_state(
                self._log,
                problem,
                failing="block_list_not_followed",
                working="block_list_followed",
            )
        self._block_problem = problem

    async def _warn_of_eviction(self) -> None:
        """Log once if the store may evict keys; ask until it answers."""
        while self._redis is not None:
            try:
                warning = await eviction_warning(self._redis)
            except (RedisError, OSError):
                await asyncio.sleep(EVICTION_RETRY_S)
                continue
            if warning is not None:
                self._log.warning("store_may_evict_keys", why=warning)
            return

    def _on_jwks_error(self, url: str, why: str) -> None:
        self._log.warning("key_set_not_fetched", url=url, why=why)


async def _if_possible(save: Awaitable[None]) -> None:
    """Save at the end of the process. If that fails, changes since the last save are
    lost.
    """
    with suppress(BaselinesError, RedisError, OSError, TimeoutError):
        await save


async def _serve(spec: ChildSpec) -> None:
    await Control(spec).run()


def main() -> NoReturn:
    """Entry of ``python -m gateway.control.control``."""
    # A signal before the loop's handlers are set must not end this process.
    for signum in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(NICENESS)
    uvloop.run(_serve(child_spec(os.environ)))
    raise SystemExit(0)


if __name__ == "__main__":
    main()
