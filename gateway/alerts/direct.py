"""What one courier says of its own gateway while the store is away.

That the store is down cannot wait for the store. Each gateway tells its own trouble from
memory then, with the message id that it will have when it comes through the store, so
that whoever hears it twice knows. Without a lease each gateway speaks for itself.
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

# Troubles that wait to be sent past the store, and ids of those that were.
MAX_WAITING = 32
MAX_SENT = 64
# Older ones are left for the store: they are no news any more.
KEEP_S = 600.0


class Attempt(msgspec.Struct):
    """A message, and when (epoch seconds) it is to be sent."""

    message: AlertMessage
    at: float


class DirectDelivery:
    """Troubles of one gateway for one receiver, in order."""

    def __init__(self, receiver: str) -> None:
        self._receiver = receiver
        self._waiting: deque[Attempt] = deque()
        self._sent: dict[str, float] = {}
        self._begun: set[str] = set()

    def is_new(self, note: StandaloneEvent, at: float, now: float) -> bool:
        """Whether there is room for it and it was neither sent nor is it old."""
        id_ = self._message(note, at).id
        return (
            now - at < KEEP_S
            and len(self._waiting) < MAX_WAITING
            and id_ not in self._sent
            and all(one.message.id != id_ for one in self._waiting)
        )

    def add(self, note: StandaloneEvent, at: float, now: float) -> None:
        """To be sent at once, after those before it."""
        begins = note.type == DEGRADED
        (self._begun.add if begins else self._begun.discard)(note.chain)
        self._waiting.append(Attempt(self._message(note, at), now))

    def has_begun(self, note: StandaloneEvent) -> bool:
        """Whether the last one of its kind was a beginning: its end may follow."""
        return note.chain in self._begun

    def _message(self, note: StandaloneEvent, at: float) -> AlertMessage:
        payload = msgspec.json.decode(note.body)
        # Never the log's name of the event: it has none yet.
        id_ = message_id(event_key("", payload), self._receiver)
        return AlertMessage(id_, note.chain, payload, at)

    def due(self, now: float) -> Attempt | None:
        """The first of all, if its time has come."""
        while self._waiting and self._waiting[0].message.created <= now - KEEP_S:
            self._waiting.popleft()
        if self._waiting and self._waiting[0].at <= now:
            return self._waiting[0]
        return None

    def sent(self, now: float) -> None:
        """The first was."""
        self.remember(self._waiting.popleft().message.id, now)

    def remember(self, id_: str, now: float) -> None:
        """It was told, and the store does not know."""
        self._sent[id_] = now
        if len(self._sent) > MAX_SENT:
            del self._sent[next(iter(self._sent))]

    def sent_at(self, id_: str) -> float:
        """When a message was; 0: it was not."""
        return self._sent.get(id_, 0.0)

    def leave(self) -> None:
        """The store is back: what still waits comes through it."""
        self._waiting.clear()
