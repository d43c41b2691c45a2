"""Queue between alerting and the outbox, saved in a file while the store is down.

Entries leave the queue once the outbox has them. The file holds the rest, so that a
killed process loses nothing: the next one reads it at its start.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from gateway.alerts.model import DEGRADED, RECOVERED, IncidentReport, StandaloneEvent
from gateway.alerts.outbox import Outbox
from gateway.serve.runtime import write_private

# Longest queue; when it is full the oldest standalone event is dropped first.
MAX_QUEUE = 10_000


class _Waiting(msgspec.Struct, frozen=True, tag_field="k"):
    """An entry of the queue, as saved in the file. ``at``: epoch seconds."""


class WaitingReport(_Waiting, frozen=True, tag="r"):
    """A report on an incident, and when it was made."""

    said: IncidentReport
    at: float


class WaitingEvent(_Waiting, frozen=True, tag="n"):
    """An event about a client or about this gateway, and when it was made."""

    said: StandaloneEvent
    at: float


Waiting = WaitingReport | WaitingEvent


class AlertQueue:
    """Bounded queue of entries for the outbox. ``path``: its file, which may not exist.

    An unreadable file counts as empty. Failures to write it are ignored: entries are then
    lost only if the process is killed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._entries: deque[Waiting] = deque(self._read())
        self._unsaved = False  # whether the file is out of date
        self.dropped = 0
        """Entries dropped because the queue was full."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Waiting) -> None:
        """Append an entry. If the queue is full, drop the oldest standalone event, or the
        oldest report if there is no event.
        """
        if len(self._entries) >= MAX_QUEUE:
            self.dropped += 1
            self._drop()
        self._entries.append(entry)
        self._unsaved = True

    def _drop(self) -> None:
        for index, one in enumerate(self._entries):
            if isinstance(one, WaitingEvent):
                del self._entries[index]
                return
        self._entries.popleft()

    async def flush(self, outbox: Outbox) -> bool:
        """Write all entries into the outbox, oldest first; whether there were any. Raises
        OutboxUnavailable; the entries that were not written stay in the queue.
        """
        self.save()  # before the store, which may take long
        wrote = False
        while self._entries:
            one = self._entries[0]
            if isinstance(one, WaitingReport):
                await outbox.report(one.said, one.at)
            else:
                await outbox.log_event(one.said, one.at)
            # It may have been dropped from the full queue meanwhile.
            if self._entries and self._entries[0] is one:
                self._entries.popleft()
                self._unsaved = True
            wrote = True
        self.save()
        return wrote

    def gateway_events(self) -> list[WaitingEvent]:
        """Queued events about this gateway, oldest first."""
        events = [one for one in self._entries if isinstance(one, WaitingEvent)]
        return [one for one in events if one.said.type.startswith("gateway.")]

    def gateway_troubles(self) -> dict[str, bool]:
        """Parts of this gateway ("": its store) that the queued events are about; whether
        the last event reports a failure.
        """
        troubles = {}
        for one in self.gateway_events():
            if one.said.type in (DEGRADED, RECOVERED):
                _, _, name = one.said.chain.partition(":")
                troubles[name.partition(":")[2]] = one.said.begins
        return troubles

    def save(self) -> None:
        """Write the file if it is out of date; remove it when the queue is empty."""
        if not self._unsaved:
            return
        self._unsaved = False
        with suppress(OSError):  # disk full: then only a kill loses entries
            if self._entries:
                write_private(self._path, msgspec.msgpack.encode(list(self._entries)))
            else:
                os.unlink(self._path)

    def _read(self) -> Iterable[Waiting]:
        with suppress(OSError, msgspec.DecodeError), open(self._path, "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=list[Waiting])
        return ()
