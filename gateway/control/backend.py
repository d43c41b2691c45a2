"""What the admin API can show and do: ``AdminBackend`` on the parts of control."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from gateway import __version__
from gateway.admin.activity import ActivityFeed, AuditEntry
from gateway.admin.clients import ClientTable, moment
from gateway.admin.errors import AdminError
from gateway.admin.metrics import Metrics
from gateway.admin.sessions import AdminTokens
from gateway.alerts.outbox import OutboxUnavailable
from gateway.alerts.silences import Silence
from gateway.control.alerting import Alerting, UnknownReceiver, new_silence_id
from gateway.control.blocks import (
    MAX_BLOCKS,
    Blocks,
    BlocksFull,
    BlocksUnavailable,
    BlockTable,
    is_over,
)
from gateway.control.counters import SubjectCounters, public_limit
from gateway.control.detection import Detection
from gateway.control.enforcer import Enforcer
from gateway.control.history import History
from gateway.control.incidents import LocalIncidents
from gateway.control.metrics import ControlMetrics
from gateway.control.policies import policy_list
from gateway.control.records import Collector
from gateway.control.running_config import ReloadResult, RunningConfig
from gateway.control.user_ids import UserIds
from gateway.control.workers import CallError, WorkerRegistry
from gateway.core.model import Block
from gateway.detect.export import ExpectedRate, SubjectActivity
from gateway.serve.logs import get_logger
from gateway.serve.runtime import ChildSpec
from gateway.sinks.traces import TraceSink
from gateway.store.url import masked_url

_log = get_logger()
_DRAINING = "draining"
T = TypeVar("T")


class ControlBackend:
    """Implements ``AdminBackend``. Its only own state is ``draining``."""

    def __init__(
        self,
        *,
        spec: ChildSpec,
        config: RunningConfig,
        metrics: Metrics,
        clients: ClientTable,
        workers: WorkerRegistry,
        blocks: Blocks,
        table: BlockTable,
        counters: SubjectCounters,
        collector: Collector,
        enforcer: Enforcer,
        incidents: LocalIncidents,
        alerting: Alerting,
        detection: Detection,
        history: History,
        traces: TraceSink | None,
        reload: Callable[[], ReloadResult],
        user_ids: UserIds,
    ) -> None:
        self._spec = spec
        self._config = config
        self.metrics = metrics
        self.clients = clients
        self._workers = workers
        self._blocks = blocks
        self._table = table
        self._counters = counters
        self._collector = collector
        self._enforcer = enforcer
        self._incidents = incidents
        self._alerting = alerting
        self._detection = detection
        self._history = history
        self._traces = traces
        self._reload = reload
        self._user_ids = user_ids
        self._started_at = time.time()
        self.activity = ActivityFeed(int(self._started_at), self.counters)
        self.draining = False
        # Set once the admin port is there.
        self.admin_closed: Callable[[], int] = lambda: 0
        metrics.extra = ControlMetrics(
            config=config,
            workers=workers,
            blocks=blocks,
            collector=collector,
            clients=clients,
            enforcer=enforcer,
            incidents=incidents,
            alerting=alerting,
            detection=detection,
            history=history,
            traces=traces,
            user_ids=user_ids,
            restarts=self.restarts,
            admin_closed=lambda: self.admin_closed(),  # noqa: PLW0108 - set later
            started_at=self._started_at,
        ).families

    @property
    def tokens(self) -> AdminTokens:
        """Admin tokens of the configuration in force."""
        admin = self._config.config.admin
        return AdminTokens(
            None if admin.token is None else admin.token.reveal(),
            None if admin.viewer_token is None else admin.viewer_token.reveal(),
        )

    def audit(self, entry: AuditEntry) -> None:
        """Log an operator's action and show it in every open console."""
        _log.info("admin_change", **msgspec.structs.asdict(entry))
        self.activity.on_change(entry)

    def log_failure(self, request_id: str, method: str, path: str) -> None:
        """Log the exception being handled, with its traceback: an admin request failed."""
        _log.exception(
            "admin_request_failed", request_id=request_id, method=method, path=path
        )

    # -- read --------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Reasons why ``/readyz`` answers 503."""
        return [_DRAINING] if self.draining else self._workers.not_ready()

    def status(self) -> dict[str, Any]:
        """State of every part of the gateway."""
        sink = self._collector.sink
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": moment(self._started_at),
            "ready": not self.not_ready(),
            "reasons": self.not_ready(),
            "listen": list(self._spec.listen),
            "store": {
                "url": masked_url(self._spec.store_url),
                "up": all(stats.store_up for stats in self.metrics.workers.values()),
                "fallback": self._spec.fallback,
            },
            "user_ids": self._user_ids.public(),
            "blocks": {"active": len(self.blocks()), "synced": self._blocks.up},
            "detection": {
                "events": self._detection.learned,
                "incidents": self._incidents.active,
                "standings": len(self.enforcement_states()),
            },
            "config": self._config_status(),
            "restarts": self.restarts(),
            "workers": self._workers.public(),
            "records": {
                "collected": self._collector.collected,
                "dropped": self._collector.dropped,
                "file": None if sink is None else sink.public(),
                "influx": self._history.public(),
                "traces": None if self._traces is None else self._traces.public(),
            },
        }

    def _config_status(self) -> dict[str, Any]:
        last = self._config.last
        return {
            "file": self._config.file,
            "generation": self._config.generation,
            "last_reload": last.public() | {"at": moment(last.at)},
        }

    def restarts(self) -> dict[str, int]:
        """Restarts of each child process, as the supervisor counts them."""
        path = f"{self._spec.runtime_dir}/supervisor.json"
        with suppress(OSError, msgspec.DecodeError), open(path, "rb") as file:
            state = msgspec.json.decode(file.read(), type=dict[str, dict[str, int]])
            return state["restarts"]
        return {}

    def policies(self) -> list[dict[str, Any]]:
        """Each policy in force with its tenants, prices and cost."""
        return policy_list(
            self._config, self.activity.recent, self.activity.spend, time.time()
        )

    # -- live --------------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """Figures that every open console gets once a second."""
        now = time.time()
        alerts = self.alerts()
        return {
            "at": now,
            "buckets": self.activity.timeline.latest(now),
            "ready": not self.not_ready(),
            "reasons": self.not_ready(),
            "store_up": all(one.store_up for one in self.metrics.workers.values()),
            "modes": self._modes(),
            "inflight": self._inflight(),
            "incidents": sum(one["state"] == "open" for one in self.incidents()),
            "blocked": len(self.blocks()),
            "standings": len(self.enforcement_states()),
            "spend_today": self.activity.spend.spend_today(now),
            "alerts": {
                "targets": len(alerts["targets"]),
                "failing": sum(one["state"] != "ok" for one in alerts["targets"]),
                "pending": alerts["pending"],
            },
        }

    def _inflight(self) -> int:
        workers = self.metrics.workers.values()
        return int(sum(one.gauges.get("inflight", 0) for one in workers))

    def _modes(self) -> list[str]:
        return sorted({tenant.policy.mode for tenant in self._config.resolved.tenants})

    def expect(self, now: float, rate: ExpectedRate | None) -> None:
        """Set the expected requests per second from ``now`` on."""
        expected = None if rate is None else rate.expected
        notable = None if rate is None else rate.notable
        self.activity.timeline.expect(now, expected, notable)

    def baseline(
        self, kind: str, id_: str, tenant: str, *, history: bool = False
    ) -> SubjectActivity | None:
        """Observed and expected activity of a subject; None if detection has none."""
        return self._detection.activity_of(kind, id_, tenant, history=history)

    def enforcement_state(self, kind: str, id_: str, tenant: str) -> Block | None:
        """The action in force on a subject; one for all tenants precedes the tenant's."""
        now = time.time()
        for where in ("", tenant):
            block = self._table.find((kind, id_, where))
            if block is not None and not is_over(block, now):
                return block
        return None

    async def limits_of(
        self, kind: str, id_: str, tenants: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Each limit of the subject with its use."""
        found = self._counters.cells(self._config.resolved, kind, id_, tenants)
        if not found:
            return []
        try:
            sums = await self._counters.peek([cell for _, cell in found])
        except CallError as error:
            raise AdminError(503, "store_unavailable", str(error)) from error
        now = time.time()
        return [
            public_limit(tenant, cell, used, now)
            for (tenant, cell), used in zip(found, sums, strict=True)
        ]

    # -- change ------------------------------------------------------------------------

    async def reset(self, kind: str, id_: str, tenant: str | None) -> int:
        """Reset the subject's counters, and over-limit caches on every gateway."""
        tenants = None if tenant is None else [tenant]
        found = self._counters.cells(self._config.resolved, kind, id_, tenants)
        if not found:
            return 0
        cells = [cell for _, cell in found]
        try:
            await self._counters.reset(cells)
            await self._blocks.forget([cell.key for cell in cells])
        except (CallError, BlocksUnavailable) as error:
            raise AdminError(503, "store_unavailable", str(error)) from error
        return len(cells)

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again; its result."""
        result = self._reload()
        if not result.ok:
            raise AdminError(422, "bad_config", "\n".join(result.errors))
        return result.public() | {"at": moment(result.at)}

    def blocks(self) -> list[Block]:
        """Blocks in force, oldest first."""
        return [block for block in self._blocks.items() if block.action == "block"]

    def enforcement_states(self) -> list[Block]:
        """Subjects that are tagged, throttled or allowed by an operator, oldest first."""
        return [block for block in self._blocks.items() if block.action != "block"]

    def incidents(self) -> list[dict[str, Any]]:
        """Open and recent incidents of all gateways of the store, newest first."""
        return self._alerting.incidents(self._incidents.items())

    async def acknowledge_incident(self, id_: str, by: str) -> None:
        """Mark an open incident as acknowledged."""
        await self._on_incident(self._alerting.acknowledge(id_, by))

    async def resolve_incident(self, id_: str, by: str) -> None:
        """End an open incident; later evidence opens another one."""
        await self._on_incident(self._alerting.resolve(id_, by))

    async def _on_incident(self, done: Awaitable[bool]) -> None:
        if not await _await_alerting(done):
            raise AdminError(404, "not_found", "there is no such open incident")

    # -- alerts ------------------------------------------------------------------------

    def alerts(self) -> dict[str, Any]:
        """Receivers and their messages."""
        return self._alerting.alerts()

    async def resend_alert(self, id_: str) -> int:
        """Retry one dead letter, or all of a receiver; the number of messages."""
        count = await _await_alerting(self._alerting.resend(id_))
        if not count and not self._alerting.has_receiver(id_):
            text = f"there is no dead alert and no receiver {id_}"
            raise AdminError(404, "not_found", text)
        return count

    async def test_alert(self, target: str) -> None:
        """Send a test alert to a receiver."""
        try:
            error = await self._alerting.test(target)
        except UnknownReceiver as unknown:
            text = f"there is no receiver {target}"
            raise AdminError(404, "not_found", text) from unknown
        if error:
            raise AdminError(502, "not_delivered", f"{target}: {error}")

    def silences(self) -> list[dict[str, Any]]:
        """Silences and maintenance windows."""
        return self._alerting.silences()

    async def add_silence(self, silence: dict[str, Any]) -> dict[str, Any]:
        """Add a silence."""
        found = Silence(id=new_silence_id(), **silence)
        if not await _await_alerting(self._alerting.add_silence(found)):
            raise AdminError(507, "too_many_silences", "remove some first")
        return found.public(time.time())

    async def remove_silence(self, id_: str) -> None:
        """Remove a silence."""
        if not await _await_alerting(self._alerting.remove_silence(id_)):
            raise AdminError(
                404, "not_found", f"there is no silence {id_} that can be removed"
            )

    async def add_block(self, block: Block) -> None:
        """Add a block on every gateway."""
        try:
            await self._blocks.add(block)
        except BlocksFull as error:
            text = f"there are {MAX_BLOCKS} blocks already; remove some first"
            raise AdminError(507, "too_many_blocks", text) from error
        except BlocksUnavailable as error:
            raise AdminError(503, "store_unavailable", str(error)) from error

    async def remove_block(self, kind: str, id_: str, tenant: str | None) -> bool:
        """Remove a block on every gateway; without a tenant all of the subject's."""
        tenants = [tenant]
        if tenant is None:
            tenants = [
                block.tenant
                for block in self._blocks.items()
                if (block.kind, block.id) == (kind, id_)
            ]
        try:
            removed = [await self._blocks.remove(kind, id_, where) for where in tenants]
            return any(removed)
        except BlocksUnavailable as error:
            raise AdminError(503, "store_unavailable", str(error)) from error


async def _await_alerting(done: Awaitable[T]) -> T:
    """Await a call to alerting. Raises AdminError."""
    try:
        return await done
    except OutboxUnavailable as error:
        raise AdminError(503, "store_unavailable", str(error)) from error
