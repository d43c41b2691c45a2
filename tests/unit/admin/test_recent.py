"""Recent records and pinned timelines."""

from __future__ import annotations

from gateway.admin.recent import PinnedRecords, RecentRecords, public_record
from tests.records import make_record

NOW = 1_763_916_380.0


def test_records_of_one_subject_newest_first():
    """Records are found by address, user or tenant; the oldest are evicted."""
    recent = RecentRecords(capacity=3)
    for number in range(4):
        recent.observe(make_record(request_id=f"r{number}", user=f"u{number % 2}"))
    assert [r.request_id for r in recent.of_subject("user", "u1", None)] == ["r3", "r1"]
    assert len(recent.of_subject("tenant", "acme", "acme")) == len(recent) == 3
    assert recent.of_subject("client_ip", "203.0.113.9", "other") == []


def test_a_pinned_timeline_includes_recent_records():
    """A new pin starts with the recent records and evicts the oldest pin."""
    recent = RecentRecords()
    pinned = PinnedRecords(recent, capacity=1)
    recent.observe(make_record(ts=NOW))
    pinned.pin("user", "acme", "key_1")
    pinned.observe(make_record(ts=NOW + 10))
    line = pinned.line("user", "acme", "key_1", NOW + 10)
    assert [one["requests"] for one in line["items"]] == [1, 1]
    pinned.pin("tenant", "*", "*")
    pinned.observe(make_record(ts=NOW + 10, tenant="another"))
    assert pinned.line("user", "acme", "key_1", NOW) is None
    assert pinned.line("tenant", "*", "*", NOW + 10)["items"][-1]["requests"] == 1


def test_public_record():
    """A public record has no path and says whether the action was enforced."""
    shown = public_record(make_record(would="block", action="block", cls="scraping"))
    assert (shown["class"], shown["enforced"]) == ("scraping", False)
    assert "path" not in shown
