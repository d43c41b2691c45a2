"""The outbox of a gateway without a shared store: an SQLite file, or memory.

Same rules as the scripts in ``lua/``. SQLite calls block, a checkpoint even for an
fsync, so they run one after the other in a thread of their own; control's event loop
never waits for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from gateway.alerts import sqlite_incidents as incidents
from gateway.alerts import sqlite_queue as queue
from gateway.alerts.model import (
    AlertMessage,
    DeliveryState,
    IncidentReport,
    LoggedEvent,
    Outcome,
    SharedIncident,
    StandaloneEvent,
)
from gateway.alerts.outbox import Counts, Due, EventDecision, OutboxUnavailable
from gateway.alerts.sqlite_file import SqliteFile, Work

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SqliteOutbox:
    """``path`` "": nothing outlives the process. The constructor blocks, and raises
    OSError if an existing file cannot be opened. A full disk later costs durability,
    not alerts (``SqliteFile``).
    """

    def __init__(self, path: str = "") -> None:
        self._file = SqliteFile(path)
        self._thread = ThreadPoolExecutor(1, "alert-outbox")
        self._closed = False

    async def _run(self, call: Any, *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, call, *args)
        except sqlite3.Error as error:
            raise OutboxUnavailable(str(error)) from error

    async def _read(self, work: Work[_P, _T], *args: _P.args, **_: _P.kwargs) -> _T:
        result: _T = await self._run(self._file.read, work, *args)
        return result

    async def _change(self, work: Work[_P, _T], *args: _P.args, **_: _P.kwargs) -> _T:
        result: _T = await self._run(self._file.change, work, *args)
        return result

    async def close(self) -> None:
        """Close at a clean end. The file stays where something waits, is silenced, or
        has begun and not ended.
        """
        if self._closed:
            return
        self._closed = True
        try:
            remove = not await self._read(queue.is_needed)
        except OutboxUnavailable:
            remove = False
        self._thread.shutdown()
        self._file.close(remove=remove)

    # -- incidents -----------------------------------------------------------------------

    async def report(self, report: IncidentReport, now: float) -> str:
        """Open, join or end a shared incident."""
        return await self._change(incidents.report, report, now)

    async def log_event(self, event: StandaloneEvent, now: float) -> bool:
        """Log a standalone event."""
        return await self._change(incidents.log_event, event, now)

    async def beat(self, gateway: str, local: Sequence[str], now: float) -> None:
        """Mark a gateway's incidents as seen."""
        if local:
            await self._change(incidents.beat, gateway, local, now)

    async def sweep(self, now: float) -> int:
        """End stale incidents."""
        return await self._change(incidents.sweep, now)

    async def version(self) -> int:
        """Version of incidents and silences."""
        return await self._read(queue.counter, "version")

    async def incidents(self) -> list[SharedIncident]:
        """All incidents, newest first."""
        return await self._read(incidents.listed)

    async def acknowledge(self, id_: str, by: str, now: float) -> bool:
        """Acknowledge an incident."""
        return await self._change(incidents.acknowledge, id_, by, now)

    async def resolve(self, id_: str, by: str, now: float) -> bool:
        """End an incident by hand."""
        return await self._change(incidents.resolve, id_, by, now)

    # -- silences ------------------------------------------------------------------------

    async def silences(self) -> dict[str, bytes]:
        """All silences by id."""
        return await self._read(queue.silences)

    async def put_silence(self, id_: str, body: bytes | None) -> bool:
        """Add, replace or remove a silence."""
        return await self._change(queue.put_silence, id_, body)

    # -- a receiver's events -------------------------------------------------------------

    async def lease(self, receiver: str, me: str, ttl_s: float) -> bool:
        """Take or extend the lease."""
        return await self._change(queue.lease, receiver, me, time.time(), ttl_s)

    async def release(self, receiver: str, me: str) -> None:
        """Give the lease back."""
        await self._change(queue.lease, receiver, me, time.time(), 0.0)

    async def events(self, receiver: str, count: int, now: float) -> list[LoggedEvent]:
        """Events after the receiver's position."""
        return await self._read(queue.events, receiver, count, now)

    async def delivery_states(
        self, receiver: str, about: Sequence[str]
    ) -> list[DeliveryState | None]:
        """What the receiver was sent, per subject."""
        found = await self._read(queue.delivery_states, receiver)
        return [found.get(one) for one in about]

    async def all_delivery_states(self, receiver: str) -> dict[str, DeliveryState]:
        """What the receiver was sent, by subject."""
        return await self._read(queue.delivery_states, receiver)

    async def deliver(
        self, receiver: str, me: str, items: Sequence[EventDecision], now: float
    ) -> bool:
        """Apply decisions about events."""
        return await self._change(queue.deliver, receiver, me, items, now)

    async def folded(self, receiver: str, count: int) -> list[dict[str, Any]]:
        """Entries for the next digest, oldest first."""
        return await self._read(queue.folded, receiver, count)

    async def digest(
        self, receiver: str, me: str, message: AlertMessage, count: int, now: float
    ) -> bool:
        """Replace folded entries by one message."""
        return await self._change(queue.digest, receiver, me, message, count, now)

    # -- a receiver's messages -----------------------------------------------------------

    async def due(self, receiver: str) -> Due | None:
        """The message to send next."""
        return await self._read(queue.due, receiver)

    async def finish(  # noqa: PLR0917 - one caller
        self,
        receiver: str,
        me: str,
        message: AlertMessage,
        outcome: Outcome,
        now: float,
        retry_at: float = 0.0,
    ) -> bool:
        """Record the outcome of an attempt."""
        args = (receiver, me, message, outcome, now, retry_at)
        return await self._change(queue.finish, *args)

    async def resend(self, receiver: str, ids: Sequence[str], now: float) -> int:
        """Queue dead letters again."""
        return await self._change(queue.resend, receiver, ids, now)

    async def counts(self, receiver: str) -> Counts:
        """Numbers of waiting messages, dead letters and folded entries."""
        return await self._read(queue.counts, receiver)

    async def listed(self, receiver: str, what: str, count: int) -> list[AlertMessage]:
        """Up to ``count`` messages."""
        return await self._read(queue.listed, receiver, what, count)

    async def state(self, receiver: str) -> str:
        """Why the receiver is disabled."""
        return await self._read(queue.disabled, receiver)

    async def set_state(self, receiver: str, why: str) -> None:
        """Disable or enable the receiver."""
        await self._change(queue.disable, receiver, why)

    async def lost_counts(self) -> dict[str, int]:
        """What was dropped, by reason."""
        return await self._read(queue.lost_counts)
