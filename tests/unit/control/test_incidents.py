"""The incidents of this gateway: the latest output of each, bounded."""

from __future__ import annotations

import msgspec
import pytest

from gateway.control import incidents as module
from gateway.control.incidents import LocalIncidents
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time

NOW = 1_767_600_000.0


def line(id_="inc_a", kind="opened", at=0.0, **changes) -> Output:
    """An output of the detector about an incident."""
    moment = format_time(NOW + at)
    said = Output(
        type=f"incident.{kind}", id=id_, ts=moment, severity="warning", cls="scraping",
        score=4.5, subject=Ref("client_ip", "203.0.113.9"), tenant="acme",
        action="tag", until=None, window=EvidenceWindow(format_time(NOW - 60), moment),
        observed={"requests_1m": 90.0}, expected={}, reasons=("It walks.",),
    )  # fmt: skip
    return msgspec.structs.replace(said, **changes)


@pytest.fixture(name="forwarded")
def _heard():
    return []


@pytest.fixture(name="book")
def _book(forwarded):
    return LocalIncidents(forwarded.append)


def test_every_output_is_forwarded_and_incidents_are_kept(book, forwarded):
    """Every output is forwarded in order, and only incidents are kept."""
    lines = [line(), line(type="client.tagged"), line(kind="updated", score=6.0)]
    book.take(lines)
    assert forwarded == lines
    assert [one["score"] for one in book.items()] == [6.0]


def test_an_incident_from_its_opening_to_its_end(book):
    """An incident is one entry to its end, which keeps its opening time."""
    book.take([line(), line(kind="updated", at=5, severity="critical")])
    (entry,) = book.items()
    assert (entry["class"], entry["state"], book.active) == ("scraping", "open", 1)
    assert entry["opened_at"] == format_time(NOW)
    assert entry["window"]["from"] == format_time(NOW - 60)
    book.take([line(kind="resolved", at=9)])
    (entry,) = book.items()
    assert (entry["state"], book.active) == ("resolved", 0)
    assert (entry["ts"], entry["opened_at"]) == (format_time(NOW + 9), format_time(NOW))


def test_the_latest_update_comes_first(book):
    """The incident with the latest update is listed first."""
    book.take([line("inc_a"), line("inc_b"), line("inc_a", "updated")])
    assert [entry["id"] for entry in book.items()] == ["inc_a", "inc_b"]


def test_recalled_incidents_are_listed_and_not_forwarded(book, forwarded):
    """Recalled incidents are listed without being forwarded, and do not replace newer
    entries.
    """
    book.take([line("inc_a", score=7.0), line("inc_b"), line("inc_b", "resolved")])
    book.recall(line(id_, "updated") for id_ in ("inc_a", "inc_b", "inc_old"))
    found = {entry["id"]: (entry["score"], entry["state"]) for entry in book.items()}
    assert found == {
        "inc_a": (7.0, "open"), "inc_b": (4.5, "resolved"), "inc_old": (4.5, "open")
    }  # fmt: skip
    assert (book.active, len(forwarded), sum(book.opened.values())) == (2, 3, 2)


def test_openings_are_counted_as_they_opened(book):
    """Openings are counted once by their first severity; incidents from before a
    restart are not.
    """
    book.take([line(), line(kind="updated", severity="critical")])
    book.take([line("inc_old", "updated"), line("inc_older", "resolved")])
    assert book.opened == {("scraping", "warning"): 1}
    assert [entry["opened_at"] for entry in book.items()[:2]] == [
        format_time(NOW - 60)
    ] * 2


def test_resolved_incidents_make_room_first_then_the_oldest(book, monkeypatch):
    """In a full list resolved incidents are evicted first, then the oldest."""
    monkeypatch.setattr(module, "MAX_INCIDENTS", 2)
    book.take([line("inc_a"), line("inc_b"), line("inc_b", "resolved"), line("inc_c")])
    assert [entry["id"] for entry in book.items()] == ["inc_c", "inc_a"]
    book.take([line("inc_d")])
    assert [entry["id"] for entry in book.items()] == ["inc_d", "inc_c"]
    assert book.evicted == 2


def test_incidents_of_tenants_without_detection_end(book, forwarded):
    """Open incidents of tenants without detection are resolved, which is forwarded
    once.
    """
    book.take([line("inc_a"), line("inc_b", tenant="other"), line("inc_c")])
    book.take([line("inc_c", "resolved")])
    for _ in range(2):
        book.end(lambda tenant: tenant == "other", NOW + 60)
    assert [entry["id"] for entry in book.items() if entry["state"] == "open"] == [
        "inc_b"
    ]
    said = forwarded[4:]
    assert [(one.type, one.id, one.at) for one in said] == [
        ("incident.resolved", "inc_a", NOW + 60)
    ]
