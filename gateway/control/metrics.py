"""Metrics that control measures itself, in addition to those from records and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gateway.admin.clients import ClientTable
from gateway.admin.metrics import labelled_counter
from gateway.control.alerting import Alerting
from gateway.control.blocks import Blocks
from gateway.control.detection import Detection
from gateway.control.enforcer import Enforcer
from gateway.control.history import History
from gateway.control.incidents import LocalIncidents
from gateway.control.records import Collector
from gateway.control.running_config import RunningConfig
from gateway.control.spans import trace_families
from gateway.control.user_ids import UserIds
from gateway.control.workers import WorkerRegistry
from gateway.sinks.traces import TraceSink


class ControlMetrics:
    """Metric families of the parts of control, read at each scrape."""

    def __init__(
        self,
        *,
        config: RunningConfig,
        workers: WorkerRegistry,
        blocks: Blocks,
        collector: Collector,
        clients: ClientTable,
        enforcer: Enforcer,
        incidents: LocalIncidents,
        alerting: Alerting,
        detection: Detection,
        history: History,
        traces: TraceSink | None,
        user_ids: UserIds,
        restarts: Callable[[], dict[str, int]],
        admin_closed: Callable[[], int],
        started_at: float,
    ) -> None:
        self._config = config
        self._workers = workers
        self._blocks = blocks
        self._collector = collector
        self._clients = clients
        self._enforcer = enforcer
        self._incidents = incidents
        self._alerting = alerting
        self._detection = detection
        self._history = history
        self._traces = traces
        self._user_ids = user_ids
        self._restarts = restarts
        self._admin_closed = admin_closed
        self._started_at = started_at

    def families(self) -> Iterator[Metric]:
        """All metrics of control."""
        yield from self._event_families()
        yield from self._record_families()
        yield from self._history.families()
        yield from trace_families(self._traces)
        yield from self._config_families()
        yield labelled_counter(
            "tidegate_restarts",
            "Child processes restarted after they died.",
            ("child",),
            self._restarts(),
        )
        yield CounterMetricFamily(
            "tidegate_admin_connections_closed",
            "Connections to the admin port that were closed to make room.",
            value=self._admin_closed(),
        )
        ready = sum(worker.ready for worker in self._workers.workers)
        yield GaugeMetricFamily(
            "tidegate_workers_ready", "Workers that are ready.", value=ready
        )
        yield GaugeMetricFamily(
            "tidegate_user_ids_shared",
            "1 while all workers derive user ids from the store's secret, else 0.",
            value=self._user_ids.agree,
        )
        yield GaugeMetricFamily(
            "tidegate_start_time_seconds",
            "Start of the control process, epoch seconds.",
            value=self._started_at,
        )

    # Over 60 lines: a flat list of metrics, one statement each.
    def _event_families(self) -> Iterator[Metric]:
        """Metrics of blocks, verdicts, incidents and alerts."""
        blocks = self._blocks.items()
        yield GaugeMetricFamily(
            "tidegate_blocks_active",
            "Subjects that are blocked.",
            value=sum(one.action == "block" for one in blocks),
        )
        yield GaugeMetricFamily(
            "tidegate_standings_active",
            "Subjects that are tagged or throttled.",
            value=sum(one.action != "block" for one in blocks),
        )
        yield CounterMetricFamily(
            "tidegate_verdicts_turned_away",
            "Verdicts dropped because the block list was full.",
            value=self._enforcer.dropped,
        )
        yield GaugeMetricFamily(
            "tidegate_verdicts_waiting",
            "Verdicts not yet written to the store.",
            value=self._enforcer.waiting,
        )
        yield CounterMetricFamily(
            "tidegate_detected_events",
            "Requests processed by detection.",
            value=self._detection.learned,
        )
        yield GaugeMetricFamily(
            "tidegate_incidents_active",
            "Incidents that are open.",
            value=self._incidents.active,
        )
        yield GaugeMetricFamily(
            "tidegate_blocks_synced",
            "1 while the block list is synchronized with the store.",
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
            "Alerts by receiver type and result.",
            ("type", "result"),
            self._alerting.results,
        )
        yield labelled_counter(
            "tidegate_alerts_turned_away",
            "Alerts and incidents dropped because a queue was full, by reason.",
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
            "Records dropped, by reason.",
            ("reason",),
            {
                "ring_full": collector.dropped,
                "unreadable": collector.unreadable,
                "file": 0 if sink is None else sink.dropped,
            },
        )
        yield GaugeMetricFamily(
            "tidegate_records_waiting_bytes",
            "Bytes of records in the rings that control has not read.",
            value=collector.waiting_bytes,
        )
        yield GaugeMetricFamily(
            "tidegate_clients_tracked",
            "Clients in the client table.",
            value=len(self._clients),
        )
        yield CounterMetricFamily(
            "tidegate_clients_evicted",
            "Clients evicted from the full client table.",
            value=self._clients.evicted,
        )

    def _config_families(self) -> Iterator[Metric]:
        last = self._config.last
        yield GaugeMetricFamily(
            "tidegate_config_reload_success",
            "1 if the last reload of the configuration succeeded.",
            value=last.ok,
        )
        yield GaugeMetricFamily(
            "tidegate_config_reload_timestamp_seconds",
            "Last reload of the configuration, epoch seconds.",
            value=last.at,
        )
        yield CounterMetricFamily(
            "tidegate_config_reload_failures",
            "Reloads refused because of an invalid configuration.",
            value=self._config.failures,
        )
        yield GaugeMetricFamily(
            "tidegate_config_generation",
            "Configurations applied since the start.",
            value=self._config.generation,
        )
