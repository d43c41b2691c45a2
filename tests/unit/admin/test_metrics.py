"""Prometheus metrics: values, names and bounds."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin.metrics import MAX_ENDPOINTS, MAX_REASONS, Histogram, Metrics
from tests.records import make_record


@pytest.fixture(name="metrics")
def _metrics():
    metrics = Metrics("1.2.3")
    metrics.configure({"acme"}, lambda model: model if model == "gpt-4o" else "other")
    return metrics


def samples(metrics):
    """Name and labels to value, as a scraper reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def sample(metrics, name, **labels):
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_record_becomes_requests_tokens_and_dollars(metrics):
    """Records are summed exactly under the documented labels."""
    for _ in range(3):
        metrics.observe(make_record(usd_nanos=1_500_000_000))
    labels = {"tenant": "acme", "endpoint": "chat.completions"}
    count = sample(
        metrics, "tidegate_requests_total", status="200", action="allow", **labels
    )
    assert count == 3
    for kind, tokens in (("prompt", 9), ("completion", 12), ("cached", 3)):
        found = sample(
            metrics, "tidegate_tokens_total", tenant="acme", model="gpt-4o", kind=kind
        )
        assert found == tokens
    assert sample(metrics, "tidegate_usd_total") == 4.5


def test_unknown_names_become_other(metrics):
    """Unknown tenants and models do not create series."""
    for number in range(200):
        metrics.observe(make_record(tenant=f"t{number}", model=f"m{number}"))
    labels = {"model": "other", "kind": "prompt", "tenant": "other"}
    assert sample(metrics, "tidegate_tokens_total", **labels) == 600


def test_endpoints_are_bounded(metrics):
    """Endpoint names beyond MAX_ENDPOINTS count as ``other``."""
    for number in range(MAX_ENDPOINTS + 50):
        metrics.observe(make_record(endpoint=f"e{number}"))
    names = [
        dict(labels)["endpoint"]
        for name, labels in samples(metrics)
        if name == "tidegate_requests_total"
    ]
    assert len(names) == MAX_ENDPOINTS + 1
    assert "other" in names


def test_times_are_in_seconds(metrics):
    """Milliseconds and microseconds of records are seconds in metrics."""
    metrics.observe(make_record(check_us=30.0, score_us=0.0, store_us=200.0))
    assert sample(metrics, "tidegate_request_duration_seconds_sum") == 0.0125
    assert math.isclose(sample(metrics, "tidegate_check_seconds_sum"), 30e-6)
    assert sample(metrics, "tidegate_check_seconds_bucket", le="5e-05") == 1
    assert sample(metrics, "tidegate_check_seconds_bucket", le="2.5e-05") == 0
    assert sample(metrics, "tidegate_score_seconds_count") == 0, "nothing was scored"
    assert sample(metrics, "tidegate_store_seconds_count") == 1


def test_refused_request_has_no_first_byte_and_no_tokens(metrics):
    """A refused request has no time to first byte and no tokens."""
    refused = make_record(
        action="limit", status=429, ttfb_ms=None, usage_source="none", outcome="refused"
    )
    metrics.observe(refused)
    assert sample(metrics, "tidegate_ttfb_seconds_count") == 0
    assert not [key for key in samples(metrics) if key[0] == "tidegate_tokens_total"]


def test_observe_mode_and_unpriced_models_are_counted(metrics):
    """Actions of observe mode and unpriced requests have their own counters."""
    metrics.observe(make_record(would="limit", unpriced=True))
    labels = {"tenant": "acme", "action": "limit"}
    assert sample(metrics, "tidegate_observed_actions_total", **labels) == 1
    assert sample(metrics, "tidegate_unpriced_requests_total", tenant="acme") == 1


def test_unmetered_answers_are_counted_by_endpoint(metrics):
    """What was neither metered nor priced has a counter of its own."""
    none = {"usage_source": "none", "metering": "unmetered"}
    metrics.observe(make_record(endpoint="images.generations", **none))
    metrics.observe(make_record(endpoint="other", **none | {"metering": ""}))
    name = "tidegate_unmetered_requests_total"
    assert sample(metrics, name, endpoint="images.generations") == 1
    assert len([key for key in samples(metrics) if key[0] == name]) == 1


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (1.0, 0), (1.1, 1), (2.0, 1), (9.0, 2)]
)
def test_bound_belongs_to_its_bucket(value, bucket):
    """A value equal to a bound counts in its bucket (``le``)."""
    histogram = Histogram("x", "x", (1.0, 2.0))
    histogram.observe(value)
    assert histogram.counts[bucket] == 1


def test_counters_of_workers_carry_on_over_a_restart(metrics):
    """Totals include the counters of earlier incarnations of a worker."""
    stats = metrics.stats_of(0)
    stats.update(0, {"store_calls": 5, "inflight": 2, "turned_away": {"full": 1}})
    stats.update(0, {"store_calls": 7, "inflight": 3, "turned_away": {"full": 2}})
    stats.update(1, {"store_calls": 1, "inflight": 1, "turned_away": {"full": 1}})
    metrics.stats_of(1).update(0, {"store_calls": 10, "inflight": 4})
    assert sample(metrics, "tidegate_store_calls_total") == 18
    assert sample(metrics, "tidegate_inflight") == 5
    assert sample(metrics, "tidegate_turned_away_total", reason="full") == 3


def test_dead_worker_has_nothing_open(metrics):
    """An exited worker keeps its counters but has no gauges."""
    metrics.stats_of(0).update(0, {"inflight": 2, "store_calls": 5, "store_up": False})
    assert sample(metrics, "tidegate_store_up") == 0
    metrics.stats_of(0).on_exit()
    assert sample(metrics, "tidegate_inflight") == 0
    assert sample(metrics, "tidegate_store_calls_total") == 5


def test_reasons_are_bounded(metrics):
    """A worker's refusal reasons are limited to MAX_REASONS series."""
    reasons = {f"r{number:03}": 1 for number in range(100)}
    metrics.stats_of(0).update(0, {"turned_away": reasons})
    found = [key for key in samples(metrics) if key[0] == "tidegate_turned_away_total"]
    assert len(found) == MAX_REASONS


def test_every_family_has_help(metrics):
    """Every metric family has a help text that is a sentence."""
    text = metrics.render().decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        assert family.name.startswith("tidegate_")
    assert 'tidegate_build_info{version="1.2.3"} 1.0' in text
