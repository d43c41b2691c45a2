"""One worker process: the data plane, with a link and a record ring to control."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import msgspec
import uvloop

from gateway.config.errors import ConfigError
from gateway.core.model import Block
from gateway.core.names import short_name
from gateway.identity.ids import secret_id
from gateway.limits.gate import Gate
from gateway.limits.ports import Cell
from gateway.serve.background import Background
from gateway.serve.link import Message, WorkerLink
from gateway.serve.logs import log_state, set_up_logs
from gateway.serve.price_table import load_table
from gateway.serve.ring import RingWriter
from gateway.serve.runtime import (
    ChildSpec,
    Snapshot,
    child_spec,
    load_snapshot,
    read_snapshot,
)
from gateway.serve.tracing import open_tracer
from gateway.store.backend import LimiterOptions
from gateway.store.channel import StoreUnavailable
from gateway.store.opening import open_store
from gateway.worker.build import Builder
from gateway.worker.plane import Plane

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from gateway.config.structs import Config

STATS_S = 0.5
TICK_S = 1.0
# How often the wait for control's first message (the secret) is logged.
SECRET_WAIT_LOG_S = 2.0
# Requests leave no reference cycles, so garbage collection may run rarely.
GC_THRESHOLD = (50_000, 20, 50)


class Worker:
    """Builds the parts of one worker and runs them."""

    def __init__(self, spec: ChildSpec, loop: asyncio.AbstractEventLoop) -> None:
        self.spec = spec
        self.loop = loop
        snapshot = read_snapshot(spec.runtime_dir)
        self.generation = snapshot.generation
        self.config: Config = load_snapshot(snapshot).config
        log = self.config.server.log
        self.log: FilteringBoundLogger = set_up_logs(
            log.level, log.format, f"worker-{spec.index}"
        )
        instance = f"{spec.runtime_dir} {spec.listen}".encode()
        self.builder = Builder(
            loop,
            b"tidegate-" + short_name(instance).encode(),
            lambda: load_table(spec.runtime_dir),
        )
        self.ring = RingWriter(spec.ring)
        self.gate = Gate()
        table = self.config.store
        self.store = open_store(
            spec.store_url,
            LimiterOptions(
                prefix=table.prefix.encode(),
                when_down=table.when_down,
                timeout_s=float(table.timeout),
                replicas=spec.workers,
            ),
            loop,
        )
        self.background = Background(self._task_failed)
        self.link = WorkerLink(spec.link, spec.index, spec.incarnation, self.on_message)
        self.secret: bytes | None = None
        self.secret_known = asyncio.Event()
        self.stopping = asyncio.Event()
        self.plane: Plane | None = None

    # -- start and stop -----------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM, then drain. Returns at once if stopped before control has
        sent the secret.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._stop)
        self.loop.add_signal_handler(signal.SIGHUP, lambda: None)
        await self.link.start()
        await self._wait_for_secret()
        if self.secret is None:
            return
        self.store.on_degraded = self._on_degraded
        self.store.on_recovered = self._on_recovered
        self.link.on_connect = self._store_state
        await self.store.start()
        plane = self.plane = Plane(
            self.loop,
            builder=self.builder,
            config=self.config,
            secret=self.secret,
            store=self.store,
            gate=self.gate,
            append_record=self.ring.append,
            tracer=open_tracer(os.environ),
        )
        plane.shared.on_fault = self._metering_failed
        _tune_collector()
        await plane.start(*self.spec.listen)
        self.link.send({"type": "ready"})
        self.background.start(self._report(plane), "report")
        self.background.start(self._tick(plane), "tick")
        await self.stopping.wait()
        await plane.drain()
        self.link.send(plane.stats())
        await self.background.close()
        await self.link.close()
        self.ring.close()

    async def _wait_for_secret(self) -> None:
        """Wait for the secret of user ids, which control reads from the store; it stays
        None if the worker was stopped meanwhile.
        """
        while self.secret is None and not self.stopping.is_set():
            try:
                await asyncio.wait_for(self.secret_known.wait(), SECRET_WAIT_LOG_S)
            except TimeoutError:
                self.log.warning("waiting_for_control")

    def _stop(self) -> None:
        self.stopping.set()
        self.secret_known.set()

    def _on_degraded(self, reason: str) -> None:
        self.link.send(_degraded(reason))

    def _store_state(self) -> Message | None:
        """The message for a control that connects while the store is unavailable."""
        return _degraded(self.store.last_error) if self.store.degraded else None

    def _on_recovered(self, merged: int) -> None:
        self.link.send({"type": "event", "name": "gateway.recovered", "merged": merged})

    def _task_failed(self, name: str, error: BaseException) -> None:
        """Stop after an unexpected error: the supervisor starts a new process."""
        self.log.error("task_failed", task=name, exc_info=error)
        self.stopping.set()

    def _metering_failed(self, step: str, error: BaseException) -> None:
        """An answer could not be metered, settled or recorded as it should be."""
        self.log.error("metering_failed", step=step, exc_info=error)

    # -- messages from control ----------------------------------------------------

    def on_message(self, message: Message) -> None:
        """Handle a message of control; unknown types (of a later version) are ignored."""
        kind = message["type"]
        if kind == "secret":
            self._on_secret(message)
        elif kind == "config":
            self._on_config(message)
        elif kind in {"blocks", "settled", "spared", "forget"}:
            self._on_gate(message)
        elif kind == "jwks":
            self._on_keys(message)
        elif kind == "replicas":
            self.store.replicas = message["count"]
        elif kind == "baselines":
            if self.plane is not None:
                self.plane.take_baselines(message)
        elif kind == "drain":
            if self.plane is not None:
                self.plane.begin_drain()
        elif kind == "call":
            self.background.start(self._answer_call(message), "call")

    def _on_secret(self, message: Message) -> None:
        """The first secret is taken as it is; later ones if all gateways share them."""
        secret = message["value"].encode()
        if not secret or (self.secret is not None and not message.get("shared")):
            return
        if secret == self.secret:
            return
        if self.plane is not None:
            try:
                self.plane.take_secret(secret)
            except (ValueError, OSError) as error:
                # Control sends it again, because the statistics state the old one.
                self.log.error("user_ids_not_changed", error=str(error))  # noqa: TRY400
                return
            self.log.warning("user_ids_changed", now=secret_id(secret))
        self.secret = secret
        self.secret_known.set()

    def _on_config(self, message: Message) -> None:
        snapshot = msgspec.convert(message["snapshot"], Snapshot)
        if snapshot.generation == self.generation:
            return
        try:
            config = load_snapshot(snapshot).config
            if self.plane is not None:
                self.plane.apply(config)
        except (ConfigError, ValueError, OSError) as error:
            self.log.error("configuration_refused", error=str(error))  # noqa: TRY400
            return
        self.config = config
        self.generation = snapshot.generation

    def _on_gate(self, message: Message) -> None:
        if message["type"] == "settled":
            self.gate.set_established(message["tenants"])
            return
        if message["type"] == "spared":
            self.gate.set_spared(message["tenants"])
            return
        if message["type"] == "forget":
            self.gate.forget(message["keys"])
            return
        if "full" in message:
            full = msgspec.convert(message["full"], list[Block])
            self.gate.replace_blocks(map(slim, full))
            return
        for block in msgspec.convert(message.get("add", []), list[Block]):
            self.gate.add_block(slim(block))
        for kind, subject, tenant in message.get("remove", []):
            self.gate.remove_block(kind, subject, tenant)

    def _on_keys(self, message: Message) -> None:
        try:
            self.builder.take_keys(message["url"], message["keys"])
        except ValueError as error:
            self.log.warning("key_set_refused", error=str(error))
            return
        if self.plane is not None:
            self.plane.shared.tables.identifier.forget()
            self.plane.listener.state.heads.clear()

    async def _answer_call(self, message: Message) -> None:
        """Answer ``peek`` and ``reset`` of counters in this process's memory."""
        cells = msgspec.convert(message["args"]["cells"], list[Cell])
        answer: Message = {"type": "answer", "id": message["id"]}
        try:
            if message["method"] == "peek":
                answer["result"] = await self.store.peek(cells)
            elif message["method"] == "reset":
                await self.store.reset(cells)
                self.gate.forget(cell.key for cell in cells)
        except StoreUnavailable as error:
            answer["error"] = str(error)
        self.link.send(answer)

    # -- time ---------------------------------------------------------------------

    async def _tick(self, plane: Plane) -> None:
        problem = ""
        while True:
            await asyncio.sleep(TICK_S)
            now = plane.tick()
            if now != problem:
                problem = now
                log_state(
                    self.log,
                    now,
                    failing="certificate_not_reloaded",
                    working="certificate_reloaded",
                    level=logging.ERROR,
                )

    async def _report(self, plane: Plane) -> None:
        while True:
            self.link.send(plane.stats())
            await asyncio.sleep(STATS_S)


def _degraded(reason: str) -> Message:
    return {"type": "event", "name": "gateway.degraded", "reason": reason}


def slim(block: Block) -> Block:
    """The same block with interned strings: thousands of blocks share them."""
    intern = sys.intern
    return msgspec.structs.replace(
        block,
        kind=intern(block.kind),
        tenant=None if block.tenant is None else intern(block.tenant),
        reason=intern(block.reason),
        by=intern(block.by),
        cls=intern(block.cls),
    )


def _tune_collector() -> None:
    """Exempt the objects of the start-up from garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


def main() -> int:
    """Run as ``python -m gateway.worker.worker``; started by the supervisor."""
    spec = child_spec(os.environ)

    async def run() -> None:
        await Worker(spec, asyncio.get_running_loop()).run()

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
