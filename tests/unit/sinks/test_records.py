"""The public record: keys, order, time."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sinks.records import RecordWriter, decode_record
from tests.records import make_record

KEYS = [
    "ts",
    "request_id",
    "tenant",
    "user",
    "client_ip",
    "method",
    "path",
    "endpoint",
    "model",
    "stream",
    "status",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "usage_source",
    "usd",
    "duration_ms",
    "ttfb_ms",
    "overhead_ms",
    "action",
    "limit",
    "score",
    "class",
    "reasons",
    "fingerprint",
    "outcome",
    "enforced",
    "metering",
    "price_source",
    "key",
    "tags",
]


def test_keys_are_the_documented_ones_in_order():
    """A record line has exactly the documented keys, in order."""
    line = json.loads(RecordWriter().line(make_record(cls="scraping", reasons=("x",))))
    assert list(line) == KEYS
    assert (line["class"], line["reasons"]) == ("scraping", ["x"])
    assert (line["total_tokens"], line["usd"], line["ttfb_ms"]) == (7, 0.5, 3.5)


@pytest.mark.parametrize(
    ("ts", "text"),
    [
        (1_763_916_387.123456, "2025-11-23T16:46:27.123456Z"),
        (1_763_916_387.0, "2025-11-23T16:46:27.000000Z"),
        (0.0, "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_time_is_rfc_3339_with_microseconds(ts, text):
    """Timestamps have six digits of fraction and a Z."""
    assert RecordWriter().timestamp(ts) == text


@given(st.lists(st.integers(0, 4_000_000_000_000_000), min_size=1, max_size=9))
def test_timestamps_equal_those_of_datetime(micros):
    """Timestamps equal those of ``datetime`` although the second is cached."""
    writer = RecordWriter()
    for micro in micros:
        seconds, rest = divmod(micro, 1_000_000)
        moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
        text = writer.timestamp(micro / 1e6)
        found = datetime.fromisoformat(text)
        assert abs((found - moment).total_seconds()) < 2e-6


def test_record_survives_the_ring_form():
    """A record encoded by a worker is decoded unchanged by control."""
    record = make_record(would="limit", usd_nanos=500_000_000)
    assert decode_record(msgspec.msgpack.encode(record)) == record
