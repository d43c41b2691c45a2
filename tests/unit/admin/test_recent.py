"""The last records, and watched subjects."""

from __future__ import annotations

from gateway.admin.recent import PinnedRecords, RecentRecords, public_record
from tests.records import make_record

NOW = 1_763_916_380.0


def test_records_of_one_subject_newest_first():
    """By address, user or tenant; the oldest are forgotten."""
    recent = RecentRecords(capacity=3)
    for number in range(4):
        recent.observe(make_record(request_id=f"r{number}", user=f"u{number % 2}"))
    assert [r.request_id for r in recent.of_subject("user", "u1", None)] == ["r3", "r1"]
    assert len(recent.of_subject("tenant", "acme", "acme")) == len(recent) == 3
    assert recent.of_subject("client_ip", "203.0.113.9", "other") == []


def test_who_is_watched_has_a_past():
    """From the last records on; the one watched for longest makes room."""
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


def test_a_record_as_it_is_shown():
    """Without its path, and with whether it was enforced."""
    shown = public_record(make_record(would="block", action="block", cls="scraping"))
    assert (shown["class"], shown["enforced"]) == ("scraping", False)
    assert "path" not in shown
