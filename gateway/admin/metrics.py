"""Prometheus metrics, counted from the records of finished exchanges.

Counters and histograms are counted from records. They survive a worker, because its
records are in shared memory. Values without a record (open exchanges, connections, the
state of the store) come from the statistics that workers send twice a second; their
counters continue across worker restarts.

Label sets are bounded: configured tenants, priced or configured models, and the first
MAX_ENDPOINTS endpoint names; everything else is ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.core.model import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
# Dialects name about 40 endpoints; the bound only guards against a defect.
MAX_ENDPOINTS = 64
MAX_MODELS_CACHED = 4096
MAX_REASONS = 32

# Bucket bounds for time spent in the gateway: 10 microseconds to 1 second.
SHORT_S = (
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3,
    50e-3, 100e-3, 250e-3, 500e-3, 1.0,
)  # fmt: skip
# Bucket bounds for upstream latency: 5 milliseconds to 10 minutes.
LONG_S = (
    5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
)  # fmt: skip

# Worker statistics: key in the message -> (metric, help text).
STAT_GAUGES: Mapping[str, tuple[str, str]] = {
    "inflight": ("tidegate_inflight", "Requests in flight."),
    "connections": ("tidegate_connections", "Open client connections."),
    "upstream_connections": (
        "tidegate_upstream_connections",
        "Open upstream connections.",
    ),
    "journal": (
        "tidegate_store_journal_entries",
        "Settlements queued until the store is reachable.",
    ),
    "over_limit": (
        "tidegate_over_limit_subjects",
        "Subjects in the over-limit cache, refused without a store call.",
    ),
    "delayed": ("tidegate_delayed", "Throttled requests being delayed."),
    "breakers": (
        "tidegate_store_breakers_open",
        "Workers whose store circuit breaker is open (local limits apply).",
    ),
}
STAT_COUNTERS: Mapping[str, tuple[str, str]] = {
    "store_calls": ("tidegate_store_calls", "Script calls to the store."),
    "store_ops": (
        "tidegate_store_ops",
        "Reserve, settle and renew operations in store calls.",
    ),
    "store_timeouts": ("tidegate_store_timeouts", "Store calls that timed out."),
    "store_lost": (
        "tidegate_store_lost",
        "Store operations not sent before a worker exited.",
    ),
    "store_replayed": (
        "tidegate_store_replayed",
        "Acknowledged store calls that were lost and replayed.",
    ),
    "store_merged": (
        "tidegate_store_merged",
        "Journalled operations merged after the store became reachable.",
    ),
    "plan_evictions": (
        "tidegate_plan_evictions",
        "Limit plans evicted from the cache.",
    ),
    "count_turned_away": (
        "tidegate_count_turned_away",
        "Responses with estimated tokens because the token counter was overloaded.",
    ),
    "accepted": ("tidegate_connections_accepted", "Accepted client connections."),
    "works_accepted": (
        "tidegate_work_accepted",
        "Work accepted that is paid later (background responses, runs, batches).",
    ),
    "works_settled": ("tidegate_work_settled", "Such work whose end was seen."),
    "works_reserved": (
        "tidegate_work_reserved",
        "Such work that stays charged as reserved, as its usage is not known.",
    ),
    "session_overdue": (
        "tidegate_session_answers_overdue",
        "Answers of sessions charged as reserved, as the upstream named no end.",
    ),
    "session_pauses": (
        "tidegate_session_pauses",
        "Times that a session was not read: its client sent too many frames.",
    ),
    "head_hits": ("tidegate_head_cache_hits", "Request heads found in the cache."),
    "head_misses": (
        "tidegate_head_cache_misses",
        "Request heads parsed (not in the cache).",
    ),
}


class Histogram:
    """A cumulative histogram with upper bounds in seconds."""

    __slots__ = ("bounds", "counts", "name", "text", "total")

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.text = text
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count a value; bounds are inclusive."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def family(self) -> Metric:
        """The metric family with cumulative counts."""
        family = HistogramMetricFamily(self.name, self.text)
        cumulative = 0
        buckets = []
        for bound, count in zip(
            [*map(floatToGoString, self.bounds), "+Inf"], self.counts, strict=True
        ):
            cumulative += count
            buckets.append((bound, cumulative))
        family.add_metric([], buckets=buckets, sum_value=self.total)
        return family


class WorkerStats:
    """Latest statistics of one worker index; counters continue across restarts."""

    __slots__ = ("_base", "_last", "gauges", "incarnation", "store_up")

    def __init__(self) -> None:
        self._base: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        self.gauges: dict[str, float] = {}
        self.incarnation = -1
        self.store_up = True

    def update(self, incarnation: int, message: Mapping[str, Any]) -> None:
        """Apply a ``stats`` message; unknown keys are ignored."""
        if incarnation != self.incarnation:
            self._base.update(self._last)
            self._last = {}
            self.incarnation = incarnation
        self.store_up = bool(message.get("store_up", True))
        self.gauges = {key: message[key] for key in STAT_GAUGES if key in message}
        self._last = {key: message[key] for key in STAT_COUNTERS if key in message}
        reasons: Mapping[str, int] = message.get("turned_away", {})
        for reason in sorted(reasons)[:MAX_REASONS]:
            self._last[f"turned_away:{reason}"] = reasons[reason]

    def on_exit(self) -> None:
        """Clear the gauges of a worker that exited."""
        self.gauges = {}

    def counters(self) -> Counter[str]:
        """Totals over all incarnations of the worker."""
        total = Counter(self._base)
        total.update(self._last)
        return total


class Metrics:
    """The metrics of a gateway. ``observe`` runs per record, the rest at a scrape."""

    def __init__(
        self, version: str, known_model: Callable[[str], str] = lambda _model: OTHER
    ) -> None:
        self._version = version
        self._known_model = known_model
        self._models: dict[str, str] = {}
        self._endpoints: set[str] = set()
        self._tenants: frozenset[str] = frozenset()
        # defaultdict, not Counter: an increment takes half the time, and there are
        # several per record.
        self.requests: defaultdict[tuple[str, str, int, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.usd_nanos: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.outcomes: defaultdict[str, int] = defaultdict(int)
        self.usage_sources: defaultdict[str, int] = defaultdict(int)
        self.would: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.unpriced: defaultdict[str, int] = defaultdict(int)
        self.unmetered: defaultdict[str, int] = defaultdict(int)
        self.unread: defaultdict[str, int] = defaultdict(int)
        self.duration = Histogram(
            "tidegate_request_duration_seconds",
            "Time from the first byte of a request to the last byte of its response.",
            LONG_S,
        )
        self.ttfb = Histogram(
            "tidegate_ttfb_seconds",
            "Time from a request to the first byte of its response.",
            LONG_S,
        )
        self.overhead = Histogram(
            "tidegate_overhead_seconds",
            "Time of a request spent in the gateway itself.",
            SHORT_S,
        )
        self.check = Histogram(
            "tidegate_check_seconds",
            "Time to identify, admit and score a request.",
            SHORT_S,
        )
        self.score = Histogram(
            "tidegate_score_seconds", "Time to score a request.", SHORT_S
        )
        self.store = Histogram(
            "tidegate_store_seconds",
            "Time waiting for a response of the store.",
            SHORT_S,
        )
        self.workers: dict[int, WorkerStats] = {}
        self.extra: Callable[[], Iterable[Metric]] = lambda: ()
        """Further metric families, provided by the control process."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self._families))

    def configure(
        self, tenants: Iterable[str], known_model: Callable[[str], str]
    ) -> None:
        """Set the known tenants and models; existing series stay."""
        self._tenants = frozenset(tenants)
        self._known_model = known_model
        self._models = {}

    def observe(self, r: RequestRecord) -> None:
        """Count a finished exchange."""
        tenant = r.tenant if r.tenant in self._tenants else OTHER
        endpoint = r.endpoint
        if endpoint not in self._endpoints:
            endpoint = self._new_endpoint(endpoint)
        self.requests[tenant, endpoint, r.status, r.action] += 1
        self.outcomes[r.outcome] += 1
        self.duration.observe(r.duration_ms * 1e-3)
        self.overhead.observe(r.overhead_ms * 1e-3)
        if r.ttfb_ms is not None:
            self.ttfb.observe(r.ttfb_ms * 1e-3)
        if r.check_us:
            self.check.observe(r.check_us * 1e-6)
        if r.score_us:
            self.score.observe(r.score_us * 1e-6)
        if r.store_us:
            self.store.observe(r.store_us * 1e-6)
        if r.usage_source != "none":
            self._observe_usage(tenant, r)
        elif r.metering == "unmetered":
            self.unmetered[endpoint] += 1
        if r.metering == "unread":
            self.unread[endpoint] += 1
        if r.would:
            self.would[tenant, r.would] += 1

    def _observe_usage(self, tenant: str, r: RequestRecord) -> None:
        model = self._models.get(r.model) or self._new_model(r.model)
        tokens = self.tokens
        if r.prompt_tokens:
            tokens[tenant, model, "prompt"] += r.prompt_tokens
        if r.completion_tokens:
            tokens[tenant, model, "completion"] += r.completion_tokens
        if r.cached_tokens:
            tokens[tenant, model, "cached"] += r.cached_tokens
        if r.reasoning_tokens:
            tokens[tenant, model, "reasoning"] += r.reasoning_tokens
        self.usage_sources[r.usage_source] += 1
        if r.usd_nanos:
            self.usd_nanos[tenant, model] += r.usd_nanos
        if r.unpriced:
            self.unpriced[tenant] += 1

    def _new_endpoint(self, endpoint: str) -> str:
        if len(self._endpoints) >= MAX_ENDPOINTS:
            return OTHER
        self._endpoints.add(endpoint)
        return endpoint

    def _new_model(self, model: str) -> str:
        label = self._known_model(model)
        if len(self._models) >= MAX_MODELS_CACHED:
            self._models.clear()
        self._models[model] = label
        return label

    def stats_of(self, index: int) -> WorkerStats:
        """The statistics kept for a worker."""
        return self.workers.setdefault(index, WorkerStats())

    def gauge(self, key: str) -> float:
        """A gauge of ``STAT_GAUGES``, summed over workers."""
        return sum(stats.gauges.get(key, 0) for stats in self.workers.values())

    def render(self) -> bytes:
        """The exposition text, of type CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _families(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "tidegate_build",
            "Version of the running gateway.",
            {"version": self._version},
        )
        yield from self._counted()
        for histogram in (
            self.duration,
            self.ttfb,
            self.overhead,
            self.check,
            self.score,
            self.store,
        ):
            yield histogram.family()
        yield from self._worker_families()
        yield from self.extra()

    def _counted(self) -> Iterator[Metric]:
        """Counters from records."""
        yield labelled_counter(
            "tidegate_requests",
            "Finished requests.",
            ("tenant", "endpoint", "status", "action"),
            self.requests,
        )
        yield labelled_counter(
            "tidegate_tokens",
            "Tokens of finished requests.",
            ("tenant", "model", "kind"),
            self.tokens,
        )
        usd = CounterMetricFamily(
            "tidegate_usd", "Spend in US dollars, by the price table."
        )
        usd.add_metric([], sum(self.usd_nanos.values()) / 1e9)
        yield usd
        yield labelled_counter(
            "tidegate_tenant_usd",
            "Spend in US dollars by tenant and model.",
            ("tenant", "model"),
            {key: nanos / 1e9 for key, nanos in self.usd_nanos.items()},
        )
        yield labelled_counter(
            "tidegate_outcomes",
            "Finished requests by outcome.",
            ("outcome",),
            self.outcomes,
        )
        yield labelled_counter(
            "tidegate_usage",
            "Finished requests by source of the token counts.",
            ("source",),
            self.usage_sources,
        )
        yield labelled_counter(
            "tidegate_observed_actions",
            "Actions that observe mode did not enforce.",
            ("tenant", "action"),
            self.would,
        )
        yield labelled_counter(
            "tidegate_unpriced_requests",
            "Requests whose model, or some unit of whose answer, has no price.",
            ("tenant",),
            self.unpriced,
        )
        yield from self._uncounted()

    def _uncounted(self) -> Iterator[Metric]:
        """Counters of what was not metered or not read."""
        yield labelled_counter(
            "tidegate_unmetered_requests",
            "Answers that were neither metered nor priced.",
            ("endpoint",),
            self.unmetered,
        )
        yield labelled_counter(
            "tidegate_unread_requests",
            "Requests that passed although their body could not be read (observe mode).",
            ("endpoint",),
            self.unread,
        )

    def _worker_families(self) -> Iterator[Metric]:
        """Gauges and counters from worker statistics."""
        for key, (name, text) in STAT_GAUGES.items():
            yield GaugeMetricFamily(name, text, value=self.gauge(key))
        up = all(stats.store_up for stats in self.workers.values())
        yield GaugeMetricFamily(
            "tidegate_store_up", "1 if all workers reach the store, else 0.", value=up
        )
        total: Counter[str] = Counter()
        for stats in self.workers.values():
            total.update(stats.counters())
        for key, (name, text) in STAT_COUNTERS.items():
            yield CounterMetricFamily(name, text, value=total[key])
        yield labelled_counter(
            "tidegate_turned_away",
            "Requests and connections refused before admission.",
            ("reason",),
            {
                key.removeprefix("turned_away:"): count
                for key, count in total.items()
                if key.startswith("turned_away:")
            },
        )


def labelled_counter(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Mapping[Any, float],
) -> Metric:
    """A counter family; keys of ``values`` are label values (a tuple, or one value)."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key in sorted(values):
        row = key if isinstance(key, tuple) else (key,)
        family.add_metric([str(label) for label in row], values[key])
    return family


class _Families(Collector):
    """Adapter to prometheus-client's registry."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._collect = families

    def collect(self) -> Iterator[Metric]:
        return self._collect()
