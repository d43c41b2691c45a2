"""The book of incidents: the newest word on each, bounded."""

from __future__ import annotations

import msgspec
import pytest

from gateway.control import incidents as module
from gateway.control.incidents import LocalIncidents
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time

NOW = 1_767_600_000.0


def line(id_="inc_a", kind="opened", at=0.0, **changes) -> Output:
    """What the detector says of an incident."""
    moment = format_time(NOW + at)
    said = Output(
        type=f"incident.{kind}", id=id_, ts=moment, severity="warning", cls="scraping",
        score=4.5, subject=Ref("client_ip", "203.0.113.9"), tenant="acme",
        action="tag", until=None, window=EvidenceWindow(format_time(NOW - 60), moment),
        observed={"requests_1m": 90.0}, expected={}, reasons=("It walks.",),
    )  # fmt: skip
    return msgspec.structs.replace(said, **changes)


@pytest.fixture(name="heard")
def _heard():
    return []


@pytest.fixture(name="book")
def _book(heard):
    return LocalIncidents(heard.append)


def test_everything_is_heard_in_order_and_only_incidents_are_kept(book, heard):
    """Lines about single clients are for the log and for alerts."""
    lines = [line(), line(type="client.tagged"), line(kind="updated", score=6.0)]
    book.take(lines)
    assert heard == lines
    assert [one["score"] for one in book.items()] == [6.0]


def test_an_incident_from_its_opening_to_its_end(book):
    """One entry in the shape of alerts; when it opened is not forgotten."""
    book.take([line(), line(kind="updated", at=5, severity="critical")])
    (entry,) = book.items()
    assert (entry["class"], entry["state"], book.active) == ("scraping", "open", 1)
    assert entry["opened_at"] == format_time(NOW)
    assert entry["window"]["from"] == format_time(NOW - 60)
    book.take([line(kind="resolved", at=9)])
    (entry,) = book.items()
    assert (entry["state"], book.active) == ("resolved", 0)
    assert (entry["ts"], entry["opened_at"]) == (format_time(NOW + 9), format_time(NOW))


def test_the_newest_word_comes_first(book):
    """What was just updated is on top."""
    book.take([line("inc_a"), line("inc_b"), line("inc_a", "updated")])
    assert [entry["id"] for entry in book.items()] == ["inc_a", "inc_b"]


def test_what_goes_on_from_before_is_there_and_said_to_nobody(book, heard):
    """What the book knows of an incident is newer, its end too."""
    book.take([line("inc_a", score=7.0), line("inc_b"), line("inc_b", "resolved")])
    book.recall(line(id_, "updated") for id_ in ("inc_a", "inc_b", "inc_old"))
    found = {entry["id"]: (entry["score"], entry["state"]) for entry in book.items()}
    assert found == {
        "inc_a": (7.0, "open"), "inc_b": (4.5, "resolved"), "inc_old": (4.5, "open")
    }  # fmt: skip
    assert (book.active, len(heard), sum(book.opened.values())) == (2, 3, 2)


def test_openings_are_counted_as_they_opened(book):
    """Once for each, by the severity of then; one of before a restart is no opening."""
    book.take([line(), line(kind="updated", severity="critical")])
    book.take([line("inc_old", "updated"), line("inc_older", "resolved")])
    assert book.opened == {("scraping", "warning"): 1}
    assert [entry["opened_at"] for entry in book.items()[:2]] == [
        format_time(NOW - 60)
    ] * 2


def test_resolved_incidents_make_room_first_then_the_oldest(book, monkeypatch):
    """Bounded, whatever happens."""
    monkeypatch.setattr(module, "MAX_INCIDENTS", 2)
    book.take([line("inc_a"), line("inc_b"), line("inc_b", "resolved"), line("inc_c")])
    assert [entry["id"] for entry in book.items()] == ["inc_c", "inc_a"]
    book.take([line("inc_d")])
    assert [entry["id"] for entry in book.items()] == ["inc_d", "inc_c"]
    assert book.evicted == 2


def test_nobody_watches_its_tenant_any_more(book, heard):
    """Open incidents of such tenants are over, and that is said, once."""
    book.take([line("inc_a"), line("inc_b", tenant="other"), line("inc_c")])
    book.take([line("inc_c", "resolved")])
    for _ in range(2):
        book.end(lambda tenant: tenant == "other", NOW + 60)
    assert [entry["id"] for entry in book.items() if entry["state"] == "open"] == [
        "inc_b"
    ]
    said = heard[4:]
    assert [(one.type, one.id, one.at) for one in said] == [
        ("incident.resolved", "inc_a", NOW + 60)
    ]
