"""OpenTelemetry export in control: the sink set by the environment, and its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gateway import __version__
from gateway.admin.metrics import labelled_counter
from gateway.serve.logs import log_state
from gateway.serve.tracing import read_tracing
from gateway.sinks.traces import TraceSink

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


def open_traces(
    environ: Mapping[str, str], log: FilteringBoundLogger, *, tls: bool
) -> TraceSink | None:
    """The sink for spans, not started; None without an endpoint or without the package.
    Invalid variables are logged.
    """
    found = read_tracing(environ)
    for problem in found.problems:
        log.warning("tracing_misconfigured", why=problem)
    if not found.on:
        return None

    def on_state(problem: str) -> None:
        log_state(log, problem, failing="spans_lost", working="spans_exported")

    return TraceSink(
        queue=found.queue,
        batch=found.batch,
        delay_s=found.delay_s,
        scheme="https" if tls else "http",
        version=__version__,
        environ=environ,
        on_state=on_state,
    )


def trace_families(sink: TraceSink | None) -> Iterable[Metric]:
    """Metrics of the sink."""
    counts = {}
    if sink is not None:
        counts = {
            "exported": sink.exported,
            "failed": sink.failed,
            "turned_away": sink.dropped,
        }
    yield labelled_counter(
        "tidegate_spans",
        "OpenTelemetry spans, by result.",
        ("result",),
        counts,
    )
    yield GaugeMetricFamily(
        "tidegate_spans_waiting",
        "OpenTelemetry spans queued for export.",
        value=0 if sink is None else sink.waiting,
    )
