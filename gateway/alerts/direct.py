"""Events about a gateway itself, sent without the store while it is unavailable.

An alert that the store is down cannot wait for the store. Each gateway sends its own
events from memory, with the message ids that they will have when they are delivered
through the store, so that receivers recognise duplicates. No lease is needed: every
gateway sends only its own events.
"""

from __future__ import annotations

from collections import deque

import msgspec

from gateway.alerts.model import (
    DEGRADED,
    AlertMessage,
    StandaloneEvent,
    event_key,
    message_id,
)

# Events that wait to be sent without the store, and ids of sent ones that are kept.
MAX_WAITING = 32
MAX_SENT = 64
# Seconds; older events are left to the store.
KEEP_S = 600.0


class Attempt(msgspec.Struct):
    """A message and when it is due (epoch seconds)."""

    message: AlertMessage
    at: float


class DirectDelivery:
    """Queue of one gateway's own events for one receiver."""

    def __init__(self, receiver: str) -> None:
        self._receiver = receiver
        self._waiting: deque[Attempt] = deque()
        self._sent: dict[str, float] = {}
        self._begun: set[str] = set()

    def is_new(self, note: StandaloneEvent, at: float, now: float) -> bool:
        """Whether the event is recent, not sent or queued, and fits into the queue."""
        id_ = self._message(note, at).id
        return (
            now - at < KEEP_S
            and len(self._waiting) < MAX_WAITING
            and id_ not in self._sent
            and all(one.message.id != id_ for one in self._waiting)
        )

    def add(self, note: StandaloneEvent, at: float, now: float) -> None:
        """Append an event; it is due immediately."""
        begins = note.type == DEGRADED
        (self._begun.add if begins else self._begun.discard)(note.chain)
        self._waiting.append(Attempt(self._message(note, at), now))

    def has_begun(self, note: StandaloneEvent) -> bool:
        """Whether a beginning was sent last, so that its end may follow."""
        return note.chain in self._begun

    def _message(self, note: StandaloneEvent, at: float) -> AlertMessage:
        payload = msgspec.json.decode(note.body)
        # "": the event has no id in the log yet.
        id_ = message_id(event_key("", payload), self._receiver)
        return AlertMessage(id_, note.chain, payload, at)

    def due(self, now: float) -> Attempt | None:
        """The first attempt if it is due; drops events older than KEEP_S."""
        while self._waiting and self._waiting[0].message.created <= now - KEEP_S:
            self._waiting.popleft()
        if self._waiting and self._waiting[0].at <= now:
            return self._waiting[0]
        return None

    def sent(self, now: float) -> None:
        """Remove the first one: it was sent."""
        self.remember(self._waiting.popleft().message.id, now)

    def remember(self, id_: str, now: float) -> None:
        """Remember a message that was sent and is not recorded in the store."""
        self._sent[id_] = now
        if len(self._sent) > MAX_SENT:
            del self._sent[next(iter(self._sent))]

    def sent_at(self, id_: str) -> float:
        """When a message was sent; 0 if it was not."""
        return self._sent.get(id_, 0.0)

    def leave(self) -> None:
        """Clear the queue: the store is back and delivers the rest."""
        self._waiting.clear()
