"""OpenTelemetry's variables: what enables spans, and invalid values."""

from __future__ import annotations

import pytest

from gateway.serve import tracing
from gateway.serve.tracing import MISSING, Tracing, open_tracer, read_tracing

URL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """Pretend that the OpenTelemetry packages are installed."""
    monkeypatch.setattr(tracing, "_PACKAGES", ("gateway.core", "gateway.sinks"))


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "  "},
        {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER_ARG": "1"},
        URL | {"OTEL_SDK_DISABLED": "TRUE"},
        URL | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off(environ):
    """Without an endpoint, or if disabled, tracing is off without a message."""
    assert read_tracing(environ) == Tracing()
    assert open_tracer(environ) is None


def test_on():
    """Either endpoint variable enables spans; by default all traces are sampled."""
    for name in ("", "TRACES_"):
        found = read_tracing({f"OTEL_EXPORTER_OTLP_{name}ENDPOINT": "https://c/x"})
        assert found == Tracing(on=True)
    assert open_tracer(URL) is not None


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("always_on", (1.0, False)),
        ("always_off", (0.0, False)),
        ("traceidratio", (0.25, False)),
        ("parentbased_always_on", (1.0, True)),
        ("parentbased_always_off", (0.0, True)),
        ("ParentBased_TraceIdRatio", (0.25, True)),
        ("", (0.25, True)),
    ],
)
def test_samplers(sampler, expected):
    """The six samplers of the specification set ratio and parent."""
    more = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    found = read_tracing(URL | more)
    assert (found.ratio, found.parent_based) == expected
    assert not found.problems


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "much"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_what_cannot_be_read_is_said(name, value):
    """An invalid value is reported and replaced by its default."""
    found = read_tracing(URL | {name: value})
    assert len(found.problems) == 1
    assert found == Tracing(on=True, problems=found.problems)
    assert value not in found.problems[0]


def test_queue_and_batch():
    """The variables of the batch processor set queue, batch and delay."""
    sizes = {"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    found = read_tracing(URL | sizes)
    assert (found.queue, found.batch, found.delay_s) == (100, 100, 0.02)


@pytest.mark.parametrize("url", ["collector:4317", "http:///x", "http://[x", "unix:/x"])
def test_an_endpoint_that_is_no_url(url):
    """An invalid endpoint turns tracing off; the message does not repeat it."""
    found = read_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    assert not found.on
    assert len(found.problems) == 1
    assert url not in found.problems[0]


def test_missing_packages(monkeypatch):
    """Without the packages tracing is off; the message names the extra."""
    monkeypatch.setattr(tracing, "_PACKAGES", ("gateway.no.such",))
    assert read_tracing(URL) == Tracing(problems=(MISSING,))
