"""The port between alerting and a store: incidents, the event log, delivery queues.

Each call happens completely or not at all, and survives a SIGKILL of every process.
What a delivery worker does is fenced: it counts only while that worker's gateway holds
the receiver's lease. Times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gateway.alerts.model import (
    AlertMessage,
    DeliveryState,
    IncidentReport,
    LoggedEvent,
    Outcome,
    SharedIncident,
    StandaloneEvent,
)

# Open incidents; reports beyond it are dropped and counted.
MAX_OPEN = 2_000
# Resolved incidents that are kept.
MAX_ENDED = 1_000
# Events in the log; the oldest are dropped and counted.
MAX_LOG = 50_000
# Waiting messages of one receiver; beyond it its events wait in the log.
MAX_PENDING = 10_000
MAX_DEAD = 10_000
MAX_SENT = 200
MAX_FOLDED = 10_000
MAX_SILENCES = 500
# Reasons for which something is dropped, as in ``lost_counts``.
LOST = ("incidents", "log_full", "folded", "dead_letters")
# A gateway not seen for this long (seconds) no longer holds an incident open.
STALE_S = 3_600.0
# How long after a block's expiry its end is still accepted (seconds).
KNOWN_S = 3_600.0
# How far back in the log a new receiver starts (seconds).
LOOK_BACK_S = 300.0


class OutboxUnavailable(Exception):  # noqa: N818 - a state of the store, not a fault
    """The store does not answer. The call may or may not have taken effect."""


class EventDecision(msgspec.Struct, frozen=True):
    """What a delivery worker decided about one event of the log.

    ``message``: to be sent; ``fold``: an entry for the next digest; neither: nothing is
    sent. ``state``: the new delivery state of ``about``; ``forget``: delete it.
    """

    event: str
    about: str = ""
    message: AlertMessage | None = None
    fold: dict[str, Any] | None = None
    state: DeliveryState | None = None
    forget: bool = False


class Due(msgspec.Struct, frozen=True):
    """The message to send next, and when (epoch seconds)."""

    message: AlertMessage
    at: float


class Counts(msgspec.Struct, frozen=True):
    """Numbers of waiting messages, dead letters and folded entries of a receiver."""

    pending: int = 0
    dead: int = 0
    folded: int = 0


class Outbox(Protocol):
    """Every method but ``close`` raises OutboxUnavailable."""

    async def close(self) -> None:
        """Release what the outbox itself opened."""
        ...

    async def report(self, report: IncidentReport, now: float) -> str:
        """Open, join or end a shared incident; return its id. "": too many are open, or
        there was nothing to end.
        """
        ...

    async def log_event(self, event: StandaloneEvent, now: float) -> bool:
        """Log an event that belongs to no incident; False if it is logged already."""
        ...

    async def beat(self, gateway: str, local: Sequence[str], now: float) -> None:
        """Mark a gateway's incidents (its own ids) as seen, so that they stay open."""
        ...

    async def sweep(self, now: float) -> int:
        """End incidents that no gateway has reported for STALE_S; return how many."""
        ...

    async def version(self) -> int:
        """A number that changes with every change of an incident or silence."""
        ...

    async def incidents(self) -> list[SharedIncident]:
        """All incidents, newest first."""
        ...

    async def acknowledge(self, id_: str, by: str, now: float) -> bool:
        """Acknowledge for an operator; False if the incident is not open."""
        ...

    async def resolve(self, id_: str, by: str, now: float) -> bool:
        """End for an operator; False if the incident is not open."""
        ...

    async def silences(self) -> dict[str, bytes]:
        """All silences by id, as they were put."""
        ...

    async def put_silence(self, id_: str, body: bytes | None) -> bool:
        """Add or replace; ``body`` None: remove. False: too many, or none to remove."""
        ...

    async def lease(self, receiver: str, me: str, ttl_s: float) -> bool:
        """Take or extend the lease of a receiver; False while another holds it."""
        ...

    async def release(self, receiver: str, me: str) -> None:
        """Give the lease back."""
        ...

    async def events(self, receiver: str, count: int, now: float) -> list[LoggedEvent]:
        """The next events that no decision was made about, oldest first."""
        ...

    async def delivery_states(
        self, receiver: str, about: Sequence[str]
    ) -> list[DeliveryState | None]:
        """What the receiver was last sent about each of ``about``."""
        ...

    async def all_delivery_states(self, receiver: str) -> dict[str, DeliveryState]:
        """What the receiver was last sent, by incident or other subject."""
        ...

    async def deliver(
        self, receiver: str, me: str, items: Sequence[EventDecision], now: float
    ) -> bool:
        """Apply decisions in order; False if another holds the lease."""
        ...

    async def folded(self, receiver: str, count: int) -> list[dict[str, Any]]:
        """Entries for the next digest, oldest first."""
        ...

    async def digest(
        self, receiver: str, me: str, message: AlertMessage, count: int, now: float
    ) -> bool:
        """Replace the first ``count`` folded entries by a message; False as above."""
        ...

    async def due(self, receiver: str) -> Due | None:
        """The message to send next; None if nothing waits."""
        ...

    async def finish(  # noqa: PLR0917 - one caller
        self,
        receiver: str,
        me: str,
        message: AlertMessage,
        outcome: Outcome,
        now: float,
        retry_at: float = 0.0,
    ) -> bool:
        """Record the outcome of an attempt; False if another holds the lease."""
        ...

    async def resend(self, receiver: str, ids: Sequence[str], now: float) -> int:
        """Queue dead letters again and enable the receiver; return how many. No ids:
        all of them, and the receiver is enabled even if there are none.
        """
        ...

    async def counts(self, receiver: str) -> Counts:
        """Numbers of waiting messages, dead letters and folded entries."""
        ...

    async def listed(self, receiver: str, what: str, count: int) -> list[AlertMessage]:
        """Messages ``pending`` (next first), ``dead`` or ``sent`` (newest first)."""
        ...

    async def state(self, receiver: str) -> str:
        """Why the receiver is disabled; "": it is enabled."""
        ...

    async def set_state(self, receiver: str, why: str) -> None:
        """Disable the receiver, or ("") enable it."""
        ...

    async def lost_counts(self) -> dict[str, int]:
        """What was dropped because a table was full, by reason."""
        ...
