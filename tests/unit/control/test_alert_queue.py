"""The queue between alerting and the outbox, and its file."""

from __future__ import annotations

import pytest

from gateway.alerts.model import (
    DEGRADED,
    RECOVERED,
    IncidentReport,
    StandaloneEvent,
    gateway_event,
)
from gateway.alerts.outbox import OutboxUnavailable
from gateway.control import alert_queue
from gateway.control.alert_queue import AlertQueue, WaitingEvent, WaitingReport

NOW = 1_767_600_000.0


class FakeOutbox:
    """Accepts ``room`` entries; then the store is down."""

    def __init__(self, room: int = 99) -> None:
        self.room = room
        self.written: list[str] = []

    async def report(self, report: IncidentReport, _at: float) -> None:
        self._write(report.local)

    async def log_event(self, event: StandaloneEvent, _at: float) -> None:
        self._write(event.type)

    def _write(self, name: str) -> None:
        if len(self.written) >= self.room:
            msg = "no answer"
            raise OutboxUnavailable(msg)
        self.written.append(name)


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "waiting"


def report(local: str) -> WaitingReport:
    """A report on the incident ``local``."""
    body = IncidentReport("gw", local, "opened", 1, 0, 4.5, "cost_spike", b"{}", ())
    return WaitingReport(body, NOW)


def event(kind: str, part: str = "") -> WaitingEvent:
    """An event about a part of this gateway."""
    return WaitingEvent(gateway_event(kind, "gw", "no answer", NOW, part), NOW)


async def test_entries_that_the_store_refuses_stay_in_queue_and_file(path):
    """What the outbox did not take is kept in order, for a later process as well."""
    queue = AlertQueue(str(path))
    for entry in (report("a"), event(DEGRADED), report("b")):
        queue.put(entry)
    outbox = FakeOutbox(room=1)
    with pytest.raises(OutboxUnavailable):
        await queue.flush(outbox)
    queue.save()
    assert (outbox.written, len(queue)) == (["a"], 2)
    later = AlertQueue(str(path))
    outbox.room = 99
    assert await later.flush(outbox)
    assert outbox.written == ["a", DEGRADED, "b"]
    assert not path.exists()
    assert not await later.flush(outbox)


async def test_full_queue_drops_the_oldest_event_before_any_report(path, monkeypatch):
    """Reports on incidents are dropped only when no standalone event is left."""
    monkeypatch.setattr(alert_queue, "MAX_QUEUE", 2)
    queue = AlertQueue(str(path))
    for entry in (report("a"), event(DEGRADED), report("b"), report("c")):
        queue.put(entry)
    outbox = FakeOutbox()
    await queue.flush(outbox)
    assert (outbox.written, queue.dropped) == (["b", "c"], 2)


def test_queued_gateway_events_give_the_last_state_of_each_part(path):
    """The last queued event of a part says whether it fails; "" is the store."""
    queue = AlertQueue(str(path))
    for entry in (
        event(DEGRADED),
        report("a"),
        event(DEGRADED, "records"),
        event(RECOVERED),
    ):
        queue.put(entry)
    assert queue.gateway_troubles() == {"": False, "records": True}
    assert len(queue.gateway_events()) == 3


def test_unreadable_file_counts_as_empty(path):
    """A file that cannot be decoded does not stop the start."""
    path.write_bytes(b"\xff\xff")
    assert len(AlertQueue(str(path))) == 0
