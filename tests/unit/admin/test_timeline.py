"""Ten-second buckets, and minutes summed from them."""

from __future__ import annotations

from gateway.admin.timeline import TrafficTimeline
from tests.records import make_record

NOW = 1_763_916_380.0


def add(line, at, **changes):
    line.observe(make_record(ts=at, duration_ms=0.0, **changes))


def test_a_record_counts_when_its_exchange_ended():
    """A bucket sums requests, tokens, spend, errors, refusals and overhead."""
    line = TrafficTimeline()
    line.observe(make_record(ts=NOW - 10, duration_ms=10_000.0, usd_nanos=500_000_000))
    add(line, NOW, status=502, total_tokens=0)
    add(line, NOW + 1, status=429, outcome="refused", action="limit")
    bucket = line.public(NOW + 5, 1)["items"][-1]
    assert (bucket["requests"], bucket["errors"], bucket["refused"]) == (3, 1, 1)
    assert (bucket["limited"], bucket["usd"], bucket["tokens"]) == (1, 0.5, 14)
    assert abs(bucket["overhead_ms"] - 0.2) < 1e-9


def test_gaps_are_zero_and_earlier_time_is_left_out():
    """There is one bucket per 10 s since the first record, none before."""
    line = TrafficTimeline()
    add(line, NOW)
    shown = line.public(NOW + 40, 60)
    assert [one["requests"] for one in shown["items"]] == [1, 0, 0, 0, 0]
    assert shown["step_s"] == 10


def test_more_than_an_hour_is_shown_in_minutes():
    """Ranges above an hour use minutes with the same sums."""
    line = TrafficTimeline()
    for second in range(0, 600, 5):
        add(line, NOW + second)
    fine, coarse = line.public(NOW + 600, 60), line.public(NOW + 600, 1440)
    assert coarse["step_s"] == 60
    assert sum(b["requests"] for b in fine["items"]) == 120
    assert sum(b["requests"] for b in coarse["items"]) == 120


def test_a_day_is_kept_and_no_more():
    """The oldest buckets are dropped, and older records are ignored."""
    line = TrafficTimeline(kept=3)
    for number in range(6):
        add(line, NOW + 10 * number)
    add(line, NOW - 1000)
    items = line.public(NOW + 50, 60)["items"]
    assert [one["requests"] for one in items] == [1, 1, 1]


def test_expected_rates_apply_from_when_they_are_set():
    """Buckets have expected rates from the time at which they were set."""
    line = TrafficTimeline()
    add(line, NOW)
    line.expect(NOW + 10, 4.0, 9.0)
    add(line, NOW + 20)
    found = [one["expected_rps"] for one in line.public(NOW + 20, 60)["items"]]
    assert found == [None, 4.0, 4.0]


def test_observe_mode_is_counted_separately():
    """Actions of observe mode count as ``would``, not as refusals."""
    line = TrafficTimeline()
    add(line, NOW, action="block", would="block")
    add(line, NOW, action="block", outcome="refused", status=403)
    add(line, NOW, action="throttle")
    add(line, NOW, action="tag")
    one = line.latest(NOW)[-1]
    found = {key: one[key] for key in ("would", "blocked", "throttled", "tagged")}
    assert set(found.values()) == {1}
