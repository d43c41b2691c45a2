"""The queue of a gateway's own events that are sent without the store."""

from __future__ import annotations

from gateway.alerts.direct import KEEP_S, MAX_SENT, MAX_WAITING, DirectDelivery
from gateway.alerts.model import StandaloneEvent, gateway_event

NOW = 1_767_600_000.0


def event(n: float = 0.0, kind: str = "gateway.degraded") -> StandaloneEvent:
    return gateway_event(kind, "gw", "no answer", NOW + n)


def test_events_are_due_in_order_and_queued_once():
    """The second one is due after the first was sent; a sent one is not new."""
    direct = DirectDelivery("r")
    for n in (0.0, 1.0):
        assert direct.is_new(event(n), NOW + n, NOW)
        direct.add(event(n), NOW + n, NOW)
        assert not direct.is_new(event(n), NOW + n, NOW)
    first = direct.due(NOW).message
    direct.sent(NOW + 2)
    assert direct.sent_at(first.id) == NOW + 2
    assert direct.due(NOW).message.id != first.id
    assert not direct.is_new(event(), NOW, NOW)


def test_old_events_are_left_to_the_store():
    """An event is dropped when it gets too old, before and in the queue."""
    direct = DirectDelivery("r")
    assert not direct.is_new(event(), NOW, NOW + KEEP_S)
    direct.add(event(), NOW, NOW)
    assert direct.due(NOW + KEEP_S) is None


def test_queue_and_memory_are_bounded():
    """A full queue takes nothing more; only the last sent ids are kept."""
    direct = DirectDelivery("r")
    for n in range(MAX_WAITING):
        direct.add(event(float(n)), NOW + n, NOW)
    assert not direct.is_new(event(99.0), NOW + 99, NOW)
    for n in range(MAX_SENT + 1):
        direct.remember(f"m{n}", NOW)
    assert (direct.sent_at("m0"), direct.sent_at("m1")) == (0.0, NOW)


def test_a_cleared_queue_remembers_what_was_sent():
    """After the store is back, ends may still follow sent beginnings."""
    direct = DirectDelivery("r")
    direct.add(event(), NOW, NOW)
    direct.leave()
    assert direct.due(NOW) is None
    assert direct.has_begun(event(1.0, "gateway.recovered"))
