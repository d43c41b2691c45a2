"""What operators may see and do: the admin API's ``Backend``, on top of control."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gateway import __version__
from gateway.admin.activity import ActivityFeed, AuditEntry
from gateway.admin.clients import ClientTable, moment
from gateway.admin.errors import AdminError
from gateway.admin.metrics import Metrics, labelled_counter
from gateway.admin.sessions import AdminTokens
from gateway.alerts.outbox import OutboxUnavailable
from gateway.alerts.silences import Silence
from gateway.config.explain import policy_rows
from gateway.config.resolve import effective_policy
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
from gateway.control.price_list import models_by_tenant, price_list
from gateway.control.records import Collector
from gateway.control.running_config import ReloadResult, RunningConfig
from gateway.control.spans import trace_families
from gateway.control.workers import CallError, WorkerRegistry
from gateway.core.model import Block, Limit, Policy
from gateway.detect.export import ExpectedRate, SubjectActivity
from gateway.limits.meters import METER_TABLE
from gateway.serve.logs import get_logger
from gateway.serve.runtime import ChildSpec
from gateway.serve.store_url import masked_url
from gateway.sinks.traces import TraceSink

_log = get_logger()
_DRAINING = "draining"
T = TypeVar("T")
# Acknowledgements that are remembered.
_MOST_NOTES = 1000


class ControlBackend:
    """Holds no state of its own but ``draining``; asks the parts of control."""

    def __init__(
        self,
        *,
        spec: ChildSpec,
        settings: RunningConfig,
        metrics: Metrics,
        clients: ClientTable,
        roster: WorkerRegistry,
        blocks: Blocks,
        table: BlockTable,
        counters: SubjectCounters,
        collector: Collector,
        enforcer: Enforcer,
        incidents: LocalIncidents,
        alerting: Alerting,
        detecting: Detection,
        history: History,
        traces: TraceSink | None,
        reload: Callable[[], ReloadResult],
    ) -> None:
        self._spec = spec
        self._settings = settings
        self.metrics = metrics
        self.clients = clients
        self._roster = roster
        self._blocks = blocks
        self._table = table
        self._counters = counters
        self._collector = collector
        self._enforcer = enforcer
        self._incidents = incidents
        self._alerting = alerting
        self._detecting = detecting
        self._history = history
        self._traces = traces
        self._reload = reload
        self._started_at = time.time()
        self.activity = ActivityFeed(int(self._started_at), self.counters)
        self.draining = False
        metrics.extra = self.families

    @property
    def tokens(self) -> AdminTokens:
        """The admin tokens in force."""
        admin = self._settings.config.admin
        return AdminTokens(
            None if admin.token is None else admin.token.reveal(),
            None if admin.viewer_token is None else admin.viewer_token.reveal(),
        )

    def audit(self, entry: AuditEntry) -> None:
        """An operator did something: the audit log, and every open console."""
        _log.info("admin_change", **msgspec.structs.asdict(entry))
        self.activity.on_change(entry)

    # -- looking -----------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Reasons for 503 on ``/readyz``."""
        return [_DRAINING] if self.draining else self._roster.not_ready()

    def status(self) -> dict[str, Any]:
        """The state of every part."""
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
            "blocks": {"active": len(self.blocks()), "synced": self._blocks.up},
            "detection": {
                "events": self._detecting.learned,
                "incidents": self._incidents.active,
                "standings": len(self.enforcement_states()),
            },
            "config": self._config_status(),
            "restarts": self.restarts(),
            "workers": self._roster.public(),
            "records": {
                "collected": self._collector.collected,
                "dropped": self._collector.dropped,
                "file": None if sink is None else sink.public(),
                "influx": self._history.public(),
                "traces": None if self._traces is None else self._traces.public(),
            },
        }

    def _config_status(self) -> dict[str, Any]:
        last = self._settings.last
        return {
            "file": self._settings.file,
            "generation": self._settings.generation,
            "last_reload": last.public() | {"at": moment(last.at)},
        }

    def restarts(self) -> dict[str, int]:
        """How often the supervisor had to start each child again."""
        path = f"{self._spec.runtime_dir}/supervisor.json"
        with suppress(OSError, msgspec.DecodeError), open(path, "rb") as file:
            state = msgspec.json.decode(file.read(), type=dict[str, dict[str, int]])
            return state["restarts"]
        return {}

    def policies(self) -> list[dict[str, Any]]:
        """Each policy in force with the tenants under it."""
        resolved = self._settings.resolved
        found = [(tenant.name, tenant.policy) for tenant in resolved.tenants]
        if resolved.anonymous is not None:
            found.append(("anonymous", resolved.anonymous))
        tenants: dict[str, list[str]] = {}
        for name, policy in found:
            tenants.setdefault(policy.name, []).append(name)
        by_name = {policy.name: policy for _, policy in found}
        now = time.time()
        asked = models_by_tenant(self.activity.recent)
        none: Counter[str] = Counter()
        return [
            public_policy(by_name[name])
            | {
                "price_list": price_list(
                    by_name[name],
                    sum((asked.get(tenant, none) for tenant in tenants[name]), none),
                ),
                "tenants": tenants[name],
                "effective": self._effective(name),
                "spend": self.activity.spend.public(tenants[name], now),
            }
            for name in sorted(by_name)
        ]

    def _effective(self, name: str) -> list[dict[str, str]]:
        """Each value of a policy with the place that states it."""
        loaded = self._settings.loaded
        rows = policy_rows(loaded, effective_policy(loaded.config, name))
        return [{"key": k, "value": v, "from": place} for k, v, place in rows]

    # -- live --------------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """What every open console is told once a second."""
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
        return sorted(
            {tenant.policy.mode for tenant in self._settings.resolved.tenants}
        )

    def expect(self, now: float, tide: ExpectedRate | None) -> None:
        """What may come from ``now`` on."""
        expected = None if tide is None else tide.expected
        notable = None if tide is None else tide.notable
        self.activity.timeline.expect(now, expected, notable)

    def baseline(
        self, kind: str, id_: str, tenant: str, *, history: bool = False
    ) -> SubjectActivity | None:
        """What detection knows of a subject; None for a stranger."""
        return self._detecting.usual(kind, id_, tenant, history=history)

    def enforcement_state(self, kind: str, id_: str, tenant: str) -> Block | None:
        """What is done to a subject now; everywhere goes before one tenant."""
        now = time.time()
        for where in ("", tenant):
            block = self._table.find((kind, id_, where))
            if block is not None and not is_over(block, now):
                return block
        return None

    async def limits_of(
        self, kind: str, id_: str, tenants: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Each limit of the subject, with what is used of it."""
        found = self._counters.cells(self._settings.resolved, kind, id_, tenants)
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

    # -- doing -------------------------------------------------------------------------

    async def reset(self, kind: str, id_: str, tenant: str | None) -> int:
        """Forget the subject's counters, and that anybody found it over them."""
        tenants = None if tenant is None else [tenant]
        found = self._counters.cells(self._settings.resolved, kind, id_, tenants)
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
        """Read the configuration again."""
        result = self._reload()
        if not result.ok:
            raise AdminError(422, "bad_config", "\n".join(result.errors))
        return result.public() | {"at": moment(result.at)}

    def blocks(self) -> list[Block]:
        """Blocks in force, oldest first."""
        return [block for block in self._blocks.items() if block.action == "block"]

    def enforcement_states(self) -> list[Block]:
        """Who is tagged or throttled, oldest first."""
        return [block for block in self._blocks.items() if block.action != "block"]

    def incidents(self) -> list[dict[str, Any]]:
        """Open and recent incidents of all gateways of the store, newest first."""
        return self._alerting.incidents(self._incidents.items())

    async def acknowledge_incident(self, id_: str, by: str) -> None:
        """Somebody looks after it."""
        await self._on_incident(self._alerting.acknowledge(id_, by))

    async def resolve_incident(self, id_: str, by: str) -> None:
        """An operator says that it is over; a later one is another."""
        await self._on_incident(self._alerting.resolve(id_, by))

    async def _on_incident(self, done: Awaitable[bool]) -> None:
        if not await _asked(done):
            raise AdminError(404, "not_found", "there is no such open incident")

    # -- alerts ------------------------------------------------------------------------

    def alerts(self) -> dict[str, Any]:
        """How alerts are delivered."""
        return self._alerting.alerts()

    async def resend_alert(self, id_: str) -> int:
        """Try a message that was given up once more, or all of a target."""
        count = await _asked(self._alerting.resend(id_))
        if not count and not self._alerting.has_receiver(id_):
            text = f"there is no dead letter and no target {id_}"
            raise AdminError(404, "not_found", text)
        return count

    async def test_alert(self, target: str) -> None:
        """Send a sample."""
        try:
            error = await self._alerting.test(target)
        except UnknownReceiver as unknown:
            text = f"there is no target {target}"
            raise AdminError(404, "not_found", text) from unknown
        if error:
            raise AdminError(502, "not_delivered", f"{target}: {error}")

    def silences(self) -> list[dict[str, Any]]:
        """Silences and maintenance windows."""
        return self._alerting.silences()

    async def add_silence(self, silence: dict[str, Any]) -> dict[str, Any]:
        """Do not send what matches for a while."""
        found = Silence(id=new_silence_id(), **silence)
        if not await _asked(self._alerting.add_silence(found)):
            raise AdminError(507, "too_many_silences", "remove some first")
        return found.public(time.time())

    async def remove_silence(self, id_: str) -> None:
        """End it now."""
        if not await _asked(self._alerting.remove_silence(id_)):
            raise AdminError(
                404, "not_found", f"there is no silence {id_} to be removed"
            )

    async def add_block(self, block: Block) -> None:
        """Block everywhere."""
        try:
            await self._blocks.add(block)
        except BlocksFull as error:
            text = f"there are {MAX_BLOCKS} blocks already; remove some first"
            raise AdminError(507, "too_many_blocks", text) from error
        except BlocksUnavailable as error:
            raise AdminError(503, "store_unavailable", str(error)) from error

    async def remove_block(self, kind: str, id_: str, tenant: str | None) -> bool:
        """Unblock everywhere; without a tenant whatever stands about the subject."""
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

    # -- metrics of control's own ------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        """What neither records nor workers say."""
        yield from self._event_families()
        yield from self._record_families()
        yield from self._history.families()
        yield from trace_families(self._traces)
        yield from self._config_families()
        yield labelled_counter(
            "tidegate_restarts",
            "Children that died and were started again.",
            ("child",),
            self.restarts(),
        )
        ready = sum(worker.ready for worker in self._roster.workers)
        yield GaugeMetricFamily("tidegate_workers_ready", "Workers ready.", value=ready)
        yield GaugeMetricFamily(
            "tidegate_start_time_seconds",
            "When control started, epoch seconds.",
            value=self._started_at,
        )

    def _event_families(self) -> Iterator[Metric]:
        """Blocks, incidents, alerts."""
        yield GaugeMetricFamily(
            "tidegate_blocks_active",
            "Subjects blocked now.",
            value=len(self.blocks()),
        )
        yield GaugeMetricFamily(
            "tidegate_standings_active",
            "Subjects tagged or throttled now.",
            value=len(self.enforcement_states()),
        )
        yield CounterMetricFamily(
            "tidegate_verdicts_turned_away",
            "Verdicts for which the list of blocks had no room.",
            value=self._enforcer.turned_away,
        )
        yield GaugeMetricFamily(
            "tidegate_verdicts_waiting",
            "Verdicts that the store does not know yet.",
            value=self._enforcer.waiting,
        )
        yield CounterMetricFamily(
            "tidegate_detected_events",
            "Requests that detection has seen.",
            value=self._detecting.learned,
        )
        yield GaugeMetricFamily(
            "tidegate_incidents_active",
            "Incidents open now.",
            value=self._incidents.active,
        )
        yield GaugeMetricFamily(
            "tidegate_blocks_synced",
            "1 when the block list is followed in the store.",
            value=self._blocks.up,
        )
        yield labelled_counter(
            "tidegate_incidents",
            "Incidents opened.",
            ("class", "severity"),
            self._incidents.opened,
        )
        yield labelled_counter(
            "tidegate_alerts",
            "Alerts by type of receiver and what became of them.",
            ("type", "result"),
            self._alerting.results,
        )
        yield labelled_counter(
            "tidegate_alerts_turned_away",
            "Alerts and incidents lost for want of room, by reason.",
            ("reason",),
            self._alerting.lost(),
        )
        yield GaugeMetricFamily(
            "tidegate_alerts_pending",
            "Alerts waiting to be delivered.",
            value=self._alerting.pending,
        )

    def _record_families(self) -> Iterator[Metric]:
        collector, sink = self._collector, self._collector.sink
        yield CounterMetricFamily(
            "tidegate_records", "Records collected.", value=collector.collected
        )
        yield labelled_counter(
            "tidegate_records_dropped",
            "Records lost on their way, by reason.",
            ("reason",),
            {
                "ring_full": collector.dropped,
                "unreadable": collector.unreadable,
                "file": 0 if sink is None else sink.dropped,
            },
        )
        yield GaugeMetricFamily(
            "tidegate_records_waiting_bytes",
            "Records written by workers and not read yet.",
            value=collector.waiting_bytes,
        )
        yield GaugeMetricFamily(
            "tidegate_clients_tracked",
            "Rows in the table of clients.",
            value=len(self.clients),
        )
        yield CounterMetricFamily(
            "tidegate_clients_evicted",
            "Rows that left the table for want of room.",
            value=self.clients.evicted,
        )

    def _config_families(self) -> Iterator[Metric]:
        last = self._settings.last
        yield GaugeMetricFamily(
            "tidegate_config_reload_success",
            "1 when the last reading of the configuration succeeded.",
            value=last.ok,
        )
        yield GaugeMetricFamily(
            "tidegate_config_reload_timestamp_seconds",
            "When the configuration was last read, epoch seconds.",
            value=last.at,
        )
        yield CounterMetricFamily(
            "tidegate_config_reload_failures",
            "Configurations refused.",
            value=self._settings.failures,
        )
        yield GaugeMetricFamily(
            "tidegate_config_generation",
            "Counts the configurations applied since the start.",
            value=self._settings.generation,
        )


async def _asked(done: Awaitable[T]) -> T:
    """What alerting answers. Raises Refused."""
    try:
        return await done
    except OutboxUnavailable as error:
        raise AdminError(503, "store_unavailable", str(error)) from error


def public_policy(policy: Policy) -> dict[str, Any]:
    """A policy as the admin API shows it."""
    shown: dict[str, Any] = msgspec.to_builtins(policy)
    return shown | {"limits": [public_policy_limit(limit) for limit in policy.limits]}


def public_policy_limit(limit: Limit) -> dict[str, Any]:
    """A limit as the configuration writes it, under its name."""
    shown: dict[str, Any] = msgspec.to_builtins(limit)
    shown.pop("window_us")
    shown.pop("calendar")
    spec = METER_TABLE[limit.meter]
    window = None if spec.leased else limit.name.rpartition(".")[2]
    amount = spec.in_units(limit.amount)
    return {"name": limit.name} | shown | {"amount": amount, "window": window}
