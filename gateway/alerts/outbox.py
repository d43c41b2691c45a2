"""What the store keeps for alerting, and the promises that every kind of store gives.

Each call happens as a whole or not at all, and outlives a SIGKILL of everything. What a
courier does is fenced: it counts only while that courier holds the receiver's lease.
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

# Open incidents; more are counted as turned away.
MAX_OPEN = 2_000
# Resolved ones that are remembered.
MAX_ENDED = 1_000
# Events that wait for receivers; the oldest leave first, and are counted.
MAX_LOG = 50_000
# Messages of one receiver that wait; then its events wait in the log.
MAX_PENDING = 10_000
MAX_DEAD = 10_000
MAX_SENT = 200
MAX_FOLDED = 10_000
MAX_SILENCES = 500
# Reasons for which something is lost.
LOST = ("incidents", "log_full", "folded", "dead_letters")
# A reporter not heard of for so long does not hold an incident open any more.
STALE_S = 3_600.0
# The end of a block comes after its time; it is known of for so long.
KNOWN_S = 3_600.0
# A receiver that is new begins so far back.
LOOK_BACK_S = 300.0


class OutboxUnavailable(Exception):  # noqa: N818 - the store is away, nothing is wrong
    """The store does not answer. The call may or may not have taken effect."""


class Decision(msgspec.Struct, frozen=True):
    """What a courier decided about one event of the log.

    ``message`` None and ``fold`` None: nothing is said. ``told`` is what the receiver
    knows of ``about`` from now on; ``forget``: it need not be known any more.
    """

    event: str
    about: str = ""
    message: AlertMessage | None = None
    fold: dict[str, Any] | None = None
    told: DeliveryState | None = None
    forget: bool = False


class Due(msgspec.Struct, frozen=True):
    """The message whose turn is next, and when (epoch seconds)."""

    message: AlertMessage
    at: float


class Counts(msgspec.Struct, frozen=True):
    """What waits for a receiver."""

    pending: int = 0
    dead: int = 0
    folded: int = 0


class Outbox(Protocol):
    """Every method raises LedgerUnavailable. Times are epoch seconds."""

    async def report(self, report: IncidentReport, now: float) -> str:
        """Open, join or end a shared incident; its id ("": there was no room, or
        nothing to end).
        """
        ...

    async def log_event(self, note: StandaloneEvent, now: float) -> bool:
        """Log an event; False when it was told already."""
        ...

    async def beat(self, gateway: str, local: Sequence[str], now: float) -> None:
        """Still at it: these incidents of this gateway go on."""
        ...

    async def sweep(self, now: float) -> int:
        """End incidents whose reporters have all fallen silent; how many."""
        ...

    async def version(self) -> int:
        """Changes with every change of an incident or silence."""
        ...

    async def incidents(self) -> list[SharedIncident]:
        """All that are known, newest first."""
        ...

    async def acknowledge(self, id_: str, by: str, now: float) -> bool:
        """False when it is not open."""
        ...

    async def resolve(self, id_: str, by: str, now: float) -> bool:
        """By hand; False when it is not open."""
        ...

    async def silences(self) -> dict[str, bytes]:
        """By id, as they were put."""
        ...

    async def put_silence(self, id_: str, body: bytes | None) -> bool:
        """None: remove. False: no room, or there was none."""
        ...

    async def lease(self, receiver: str, me: str, ttl_s: float) -> bool:
        """Take or prolong; False while another holds it."""
        ...

    async def release(self, receiver: str, me: str) -> None:
        """Give the lease back."""
        ...

    async def events(self, receiver: str, count: int, now: float) -> list[LoggedEvent]:
        """The next ones that the receiver was not asked about yet."""
        ...

    async def delivery_states(
        self, receiver: str, about: Sequence[str]
    ) -> list[DeliveryState | None]:
        """What the receiver knows of incidents."""
        ...

    async def all_delivery_states(self, receiver: str) -> dict[str, DeliveryState]:
        """All that it knows, by what it is about."""
        ...

    async def deliver(
        self, receiver: str, me: str, items: Sequence[Decision], now: float
    ) -> bool:
        """Take decisions in, in order; False when the lease is another's."""
        ...

    async def folded(self, receiver: str, count: int) -> list[dict[str, Any]]:
        """What waits for a digest, oldest first."""
        ...

    async def digest(
        self, receiver: str, me: str, message: AlertMessage, count: int, now: float
    ) -> bool:
        """Exchange the first ``count`` folded events for a message."""
        ...

    async def due(self, receiver: str) -> Due | None:
        """Whose turn it is; None: nothing waits."""
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
        """What became of an attempt; False when the lease is another's."""
        ...

    async def resend(self, receiver: str, ids: Sequence[str], now: float) -> int:
        """Dead letters back into the queue, and the receiver enabled; how many. No
        ids: all, and it is enabled though there are none.
        """
        ...

    async def counts(self, receiver: str) -> Counts:
        """How much waits."""
        ...

    async def listed(self, receiver: str, what: str, count: int) -> list[AlertMessage]:
        """``pending``, ``dead`` or ``sent``; newest first but for the pending."""
        ...

    async def state(self, receiver: str) -> str:
        """Why the receiver is disabled; "": it is not."""
        ...

    async def set_state(self, receiver: str, why: str) -> None:
        """Disable, or ("") enable."""
        ...

    async def lost_counts(self) -> dict[str, int]:
        """What was lost for want of room, by reason."""
        ...
