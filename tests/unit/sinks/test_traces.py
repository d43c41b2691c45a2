"""Records as spans: what they say, and a queue that nobody waits for."""

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
    """Keeps spans; waits for ``go`` before each batch."""

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
    """An exporter that takes everything."""
    return Exporter()


@pytest.fixture(name="sink")
def _sink(exporter):
    """A small queue in front of it, running."""
    sink = TraceSink(queue=4, batch=2, delay_s=0.01, open_exporter=lambda: exporter)
    sink.start()
    yield sink
    exporter.go.set()
    sink.close()


def records(count: int, **changes):
    return [make_record(**({"trace": TRACE} | changes)) for _ in range(count)]


def test_a_span(sink, exporter):
    """Ids, times, kind and scope as the record has them."""
    sink.take(records(1, trace=f"{TRACE}{9:016x}", ts=100.5, duration_ms=250.0))
    until(lambda: exporter.batches)
    (span,) = exporter.batches[0]
    assert (span.context.trace_id, span.context.span_id) == (5, 6)
    assert (span.parent.trace_id, span.parent.span_id) == (5, 9)
    assert (span.start_time, span.end_time) == (100_500_000_000, 100_750_000_000)
    assert (span.kind.name, span.status.status_code.name) == ("SERVER", "UNSET")
    assert span.resource.attributes["service.name"] == "tidegate"


def test_no_span_of_what_is_not_sampled_or_goes_on(sink, exporter):
    """Neither unsampled requests nor the beginnings of long ones."""
    sink.take([*records(1, trace=""), *records(1, phase=OPENED), *records(1)])
    sink.close()
    assert [len(batch) for batch in exporter.batches] == [1]


def test_a_full_queue_turns_away_and_counts(sink, exporter):
    """``take`` never waits; what was taken is sent when the exporter goes on."""
    exporter.go.clear()
    sink.take(records(1))
    until(lambda: not sink.waiting)
    sink.take(records(10))
    assert (sink.waiting, sink.dropped) == (4, 6)
    exporter.go.set()
    until(lambda: sink.exported == 5)
    assert max(len(batch) for batch in exporter.batches) <= 2


@pytest.mark.parametrize("fault", [None, RuntimeError("x")])
def test_failures_are_counted_and_forgotten(exporter, fault):
    """A batch that was refused is not kept; the state is told when it changes."""
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


def test_the_end_sends_what_is_left(exporter):
    """More than one batch, without waiting for the next turn."""
    sink = TraceSink(queue=9, batch=2, delay_s=60.0, open_exporter=lambda: exporter)
    sink.start()
    sink.take(records(5))
    sink.close()
    assert (sink.exported, sink.waiting) == (5, 0)


def test_an_exporter_that_cannot_be_opened():
    """It is said, and spans are turned away once the queue is full."""

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
    """Few names; an error is the server's or the upstream's, never the client's."""
    record = make_record(**changes)
    assert (span_name(record), error_type(record)) == (name, failed)


def test_attributes_are_few_where_little_is_known():
    """Nothing of generation on other paths; no status that was never sent."""
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
    """A model's name is whatever the client says."""
    found = attributes_of(make_record(model="m" * 9999))
    assert found["gen_ai.request.model"] == "m" * MAX_TEXT


def test_reasons_and_fingerprints_stay_here():
    """Nor is anything sent that the documents do not name."""
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
    """``tidegate``, unless the standard variables say another."""
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    sink = TraceSink(
        queue=9, batch=2, delay_s=0.01, environ=environ, open_exporter=lambda: exporter
    )
    sink.start()
    sink.take(records(1))
    sink.close()
    assert exporter.batches[0][0].resource.attributes["service.name"] == named
