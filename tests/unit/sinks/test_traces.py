"""Records as spans: attributes, and a bounded queue that never blocks."""

from __future__ import annotations

import threading
from enum import Enum

import pytest

from gateway.core.model import OPENED
from gateway.sinks.traces import (
    MAX_TEXT,
    TraceSink,
    attributes_of,
    error_type,
    span_name,
)
from tests.gateway_process import until
from tests.records import make_record

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

TRACE = f"{5:032x}{6:016x}01"


class Result(Enum):
    SUCCESS = 0
    FAILURE = 1


class Exporter:
    """An exporter that keeps spans and waits for ``go`` before each batch."""

    def __init__(self) -> None:
        self.batches: list[list] = []
        self.go = threading.Event()
        self.go.set()
        self.result = Result.SUCCESS
        self.fault: Exception | None = None
        self.closed = False

    def export(self, spans):
        assert self.go.wait(60)
        if self.fault is not None:
            raise self.fault
        self.batches.append(list(spans))
        return self.result

    def shutdown(self):
        self.closed = True


@pytest.fixture(name="exporter")
def _exporter():
    """An exporter that accepts every batch."""
    return Exporter()


@pytest.fixture(name="sink")
def _sink(exporter):
    """A started sink with a queue of four spans."""
    sink = TraceSink(queue=4, batch=2, delay_s=0.01, open_exporter=lambda: exporter)
    sink.start()
    yield sink
    exporter.go.set()
    sink.close()


def records(count: int, **changes):
    return [make_record(**({"trace": TRACE} | changes)) for _ in range(count)]


def test_a_span(sink, exporter):
    """A span has the ids, times, kind and service of its record."""
    sink.take(records(1, trace=f"{TRACE}{9:016x}", ts=100.5, duration_ms=250.0))
    until(lambda: exporter.batches)
    (span,) = exporter.batches[0]
    assert (span.context.trace_id, span.context.span_id) == (5, 6)
    assert (span.parent.trace_id, span.parent.span_id) == (5, 9)
    assert (span.start_time, span.end_time) == (100_500_000_000, 100_750_000_000)
    assert (span.kind.name, span.status.status_code.name) == ("SERVER", "UNSET")
    assert span.resource.attributes["service.name"] == "tidegate"


def test_unsampled_and_open_requests_have_no_span(sink, exporter):
    """Unsampled requests and opening records of long requests give no span."""
    sink.take([*records(1, trace=""), *records(1, phase=OPENED), *records(1)])
    sink.close()
    assert [len(batch) for batch in exporter.batches] == [1]


def test_a_full_queue_drops_and_counts(sink, exporter):
    """``take`` never blocks: a full queue drops spans and counts them, and the queued
    ones are exported.
    """
    exporter.go.clear()
    sink.take(records(1))
    until(lambda: not sink.waiting)
    sink.take(records(10))
    assert (sink.waiting, sink.dropped) == (4, 6)
    exporter.go.set()
    until(lambda: sink.exported == 5)
    assert max(len(batch) for batch in exporter.batches) <= 2


@pytest.mark.parametrize("fault", [None, RuntimeError("x")])
def test_failed_batches_are_counted_and_dropped(exporter, fault):
    """A batch that the exporter refuses is dropped and counted; failure and recovery
    are reported once each.
    """
    said: list[str] = []
    exporter.result, exporter.fault = Result.FAILURE, fault
    sink = TraceSink(
        queue=9, batch=2, delay_s=0.01, open_exporter=lambda: exporter,
        on_state=said.append,
    )  # fmt: skip
    sink.start()
    sink.take(records(3))
    until(lambda: sink.failed == 3)
    assert sink.public()["error"]
    exporter.result, exporter.fault = Result.SUCCESS, None
    sink.take(records(1))
    until(lambda: sink.exported == 1)
    sink.close()
    assert len(said) == 2
    assert said[1] == ""
    assert exporter.closed


def test_close_exports_all_queued_spans(exporter):
    """``close`` exports all queued spans at once, in several batches."""
    sink = TraceSink(queue=9, batch=2, delay_s=60.0, open_exporter=lambda: exporter)
    sink.start()
    sink.take(records(5))
    sink.close()
    assert (sink.exported, sink.waiting) == (5, 0)


def test_an_exporter_that_cannot_be_opened():
    """An exporter that fails to open is reported, and spans beyond the queue are
    dropped.
    """

    def broken():
        raise ImportError

    sink = TraceSink(queue=2, batch=2, delay_s=0.01, open_exporter=broken)
    sink.start()
    until(lambda: sink.error)
    sink.take(records(3))
    assert sink.dropped == 1
    sink.close()


@pytest.mark.parametrize(
    ("changes", "name", "failed"),
    [
        ({}, "POST chat.completions", ""),
        ({"endpoint": "other", "method": "GET", "status": 404}, "GET", ""),
        ({"endpoint": "other", "method": "MKCOL", "status": 503}, "HTTP", "503"),
        ({"outcome": "timeout", "status": 504}, "POST chat.completions", "timeout"),
        ({"outcome": "upstream_error"}, "POST chat.completions", "upstream_error"),
        ({"outcome": "client_closed", "status": 499}, "POST chat.completions", ""),
        ({"outcome": "refused", "status": 429}, "POST chat.completions", ""),
    ],
)
def test_names_and_errors(changes, name, failed):
    """Span names have few values; failures of gateway and upstream are errors, those of
    the client are not.
    """
    record = make_record(**changes)
    assert (span_name(record), error_type(record)) == (name, failed)


def test_unknown_values_have_no_attribute():
    """Other endpoints have no ``gen_ai`` attributes; an unsent status is left out."""
    found = attributes_of(
        make_record(
            endpoint="other", method="MKCOL", status=499, outcome="client_closed",
            ttfb_ms=None, tenant="",
        )
    )  # fmt: skip
    assert not [key for key in found if key.startswith("gen_ai")]
    assert "http.response.status_code" not in found
    assert "tidegate.tenant" not in found
    assert found["http.request.method_original"] == "MKCOL"


def test_clients_texts_are_cut():
    """A long model name is cut to ``MAX_TEXT``."""
    found = attributes_of(make_record(model="m" * 9999))
    assert found["gen_ai.request.model"] == "m" * MAX_TEXT


def test_reasons_and_fingerprints_are_not_exported():
    """Reasons and fingerprints are not exported."""
    record = make_record(reasons=("qzv",), fingerprint="qzv", cls="scraping", score=4.5)
    found = attributes_of(record)
    assert "qzv" not in str(found)
    assert (found["tidegate.class"], found["tidegate.score"]) == ("scraping", 4.5)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "tidegate"),
        ({"OTEL_SERVICE_NAME": "front"}, "front"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name=side"}, "side"),
    ],
)
def test_the_service_has_a_name(exporter, environ, named, monkeypatch):
    """``service.name`` is ``tidegate`` unless the standard variables set another."""
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    sink = TraceSink(
        queue=9, batch=2, delay_s=0.01, environ=environ, open_exporter=lambda: exporter
    )
    sink.start()
    sink.take(records(1))
    sink.close()
    assert exporter.batches[0][0].resource.attributes["service.name"] == named
