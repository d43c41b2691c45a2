"""Import of the alert journal that version 0.1 wrote, into the SQLite outbox.

The file is a sequence of frames: a 4-byte big-endian length and a msgpack value. The
first frame is a whole state, each further one a change ``(name, *arguments)``.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.alerts import sqlite_incidents as incidents
from gateway.alerts import sqlite_queue as queue
from gateway.alerts.model import (
    AlertMessage,
    DeliveryState,
    IncidentReport,
    LoggedEvent,
    StandaloneEvent,
)
from gateway.alerts.outbox import EventDecision

_FRAME = struct.Struct(">I")
# Raised by an entry that does not decode, or does not fit what was read before it.
_DAMAGE = (
    msgspec.DecodeError,
    LookupError,
    OverflowError,
    TypeError,
    ValueError,
    sqlite3.Error,
)


class _Incident(msgspec.Struct):
    """An incident. ``locals``: ``gateway|id`` of each gateway that reported it."""

    body: bytes
    opened: float
    severity: int
    action: int
    score: float
    cls: str
    ended: float = 0.0
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0
    by: str = ""
    reporters: dict[str, tuple[str, float]] = {}


class _Queue(msgspec.Struct):
    """The messages of one receiver."""

    position: str = ""
    messages: dict[str, AlertMessage] = {}
    chains: dict[str, list[str]] = {}
    due: dict[str, float] = {}
    told: dict[str, DeliveryState] = {}
    folded: list[dict[str, Any]] = []
    dead: dict[str, AlertMessage] = {}
    sent: list[AlertMessage] = []


class _State(msgspec.Struct):
    """The whole state."""

    incidents: dict[str, _Incident] = {}
    causes: dict[str, str] = {}
    locals: dict[str, str] = {}
    known: dict[str, float] = {}
    log: list[LoggedEvent] = []
    version: int = 0
    serial: int = 0
    silences: dict[str, bytes] = {}
    disabled: dict[str, str] = {}
    lost: dict[str, int] = {}
    queues: dict[str, _Queue] = {}


class _Decision(msgspec.Struct):
    """A decision about one event."""

    event: str
    about: str = ""
    message: AlertMessage | None = None
    fold: dict[str, Any] | None = None
    told: DeliveryState | None = None
    forget: bool = False


def import_journal(path: str, db: sqlite3.Connection) -> bool:
    """Copy a journal into an empty database; False: a part of it was unreadable.

    A damaged file is read up to the damage, as version 0.1 did. Raises OSError.
    """
    with open(path, "rb") as file:
        entries = _frames(file.read())
    try:
        state = next(entries, None)
        if state is not None:
            _insert(db, msgspec.msgpack.decode(state, type=_State))
        for entry in entries:
            _replay(db, entry)
    except _DAMAGE:
        return False
    return True


def _frames(content: bytes) -> Iterator[bytes]:
    """Complete frames; one that a kill cut short ends the file."""
    at = 0
    while at + _FRAME.size <= len(content):
        (size,) = _FRAME.unpack_from(content, at)
        at += _FRAME.size
        if at + size > len(content):
            return
        yield content[at : at + size]
        at += size


def _insert(db: sqlite3.Connection, state: _State) -> None:
    for id_, one in state.incidents.items():
        fields = msgspec.structs.asdict(one)
        del fields["reporters"]
        by = fields.pop("by")
        incidents.save(db, incidents.Record(id=id_, resolved_by=by, **fields))
        rows = [(id_, gateway, *seen) for gateway, seen in one.reporters.items()]
        db.executemany("INSERT INTO reporters VALUES (?, ?, ?, ?)", rows)
    for name, id_ in state.locals.items():
        gateway, _, local = name.rpartition("|")
        db.execute("INSERT INTO aliases VALUES (?, ?, ?)", (gateway, local, id_))
    db.executemany("INSERT INTO causes VALUES (?, ?)", state.causes.items())
    db.executemany("INSERT INTO begun VALUES (?, ?)", state.known.items())
    db.executemany("INSERT INTO silences VALUES (?, ?)", state.silences.items())
    serial = 0
    for event in state.log:
        serial = int(event.id.rpartition("-")[2])
        incidents.insert_event(db, serial, event)
    incidents.count(db, "version", state.version)
    # A damaged counter must not give out the number of an event again.
    incidents.count(db, "serial", max(serial, state.serial))
    for reason, number in state.lost.items():
        incidents.count(db, f"lost:{reason}", number)
    for receiver, why in state.disabled.items():
        queue.disable(db, receiver, why)
    for receiver, old in state.queues.items():
        _insert_queue(db, receiver, old)


def _insert_queue(db: sqlite3.Connection, receiver: str, old: _Queue) -> None:
    queue.set_receiver(db, receiver, position=old.position)
    for chain, ids in old.chains.items():
        for id_ in ids:
            queue.enqueue(db, receiver, old.messages[id_], old.due[chain])
    for about, state in old.told.items():
        queue.put_delivery_state(db, receiver, about, state)
    for entry in old.folded:
        queue.fold(db, receiver, entry)
    for message in old.dead.values():
        queue.bury(db, receiver, message)
    for message in reversed(old.sent):
        queue.add_sent(db, receiver, message)


def _replay(db: sqlite3.Connection, entry: bytes) -> None:
    name, *packed = msgspec.msgpack.decode(entry)
    work, kinds = _CHANGES[name]
    args = (
        msgspec.convert(value, kind) for value, kind in zip(packed, kinds, strict=True)
    )
    work(db, *args)


def _deliver(
    db: sqlite3.Connection, receiver: str, items: list[_Decision], now: float
) -> None:
    for one in items:
        item = EventDecision(
            one.event, one.about, one.message, one.fold, one.told, one.forget
        )
        queue.apply_decision(db, receiver, item, now)


def _digest(
    db: sqlite3.Connection, receiver: str, message: AlertMessage, most: int, now: float
) -> None:
    _with_lease(db, queue.digest, receiver, message, most, now)


def _finish(  # noqa: PLR0917 - arguments of the old change
    db: sqlite3.Connection,
    receiver: str,
    message: AlertMessage,
    outcome: str,
    now: float,
    retry_at: float,
) -> None:
    _with_lease(db, queue.finish, receiver, message, outcome, now, retry_at)


def _with_lease(db: sqlite3.Connection, work: Any, receiver: str, *args: Any) -> None:
    """Run fenced work; version 0.1 had no leases in this file."""
    queue.set_receiver(db, receiver, holder="import")
    work(db, receiver, "import", *args)
    queue.set_receiver(db, receiver, holder="")


# Each change by its old name: what it does now, and the types of its arguments.
_CHANGES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "report": (incidents.report, (IncidentReport, float)),
    "note": (incidents.log_event, (StandaloneEvent, float)),
    "beat": (incidents.beat, (str, list[str], float)),
    "sweep": (incidents.sweep, (float,)),
    "acknowledge": (incidents.acknowledge, (str, str, float)),
    "resolve": (incidents.resolve, (str, str, float)),
    "put_silence": (queue.put_silence, (str, bytes | None)),
    "deliver": (_deliver, (str, list[_Decision], float)),
    "digest": (_digest, (str, AlertMessage, int, float)),
    "finish": (_finish, (str, AlertMessage, str, float, float)),
    "resend": (queue.resend, (str, list[str], float)),
    "set_state": (queue.disable, (str, str)),
}
