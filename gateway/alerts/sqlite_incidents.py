"""Shared incidents and the event log in SQLite: the work of one transaction each.

The same rules as ``lua/incident.lua`` and the scripts beside it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.alerts import outbox as limits
from gateway.alerts.model import (
    ACKNOWLEDGED,
    OPENED,
    RESOLVED,
    UPDATED,
    IncidentReport,
    LoggedEvent,
    SharedIncident,
    StandaloneEvent,
    aliases_of,
    lasting_causes,
)


class Record(msgspec.Struct):
    """A row of ``incidents``, columns in order."""

    id: str
    body: bytes
    severity: int
    action: int
    score: float
    cls: str
    opened: float
    ended: float = 0.0
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0
    resolved_by: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return not self.ended


def value(db: sqlite3.Connection, query: str, *args: Any) -> Any:
    """The first column of the first row; None without a row."""
    row = db.execute(query, args).fetchone()
    return None if row is None else row[0]


def count(db: sqlite3.Connection, name: str, by: int = 1) -> None:
    """Add to a counter."""
    db.execute(
        "INSERT INTO counters VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, by),
    )


def count_lost(db: sqlite3.Connection, reason: str) -> None:
    """Count something dropped because a table is full."""
    count(db, f"lost:{reason}")


def save(db: sqlite3.Connection, record: Record) -> None:
    """Insert or replace an incident."""
    db.execute(
        "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        msgspec.structs.astuple(record),
    )
    count(db, "version")


def _load(db: sqlite3.Connection, id_: str | None) -> Record | None:
    row = db.execute("SELECT * FROM incidents WHERE id = ?", (id_,)).fetchone()
    return None if row is None else Record(*row)


def _load_open(db: sqlite3.Connection, id_: str | None) -> Record | None:
    record = _load(db, id_)
    return record if record is not None and record.is_open else None


def _incident_of(db: sqlite3.Connection, gateway: str, local: str) -> str | None:
    """The shared id of what a gateway calls ``local``."""
    query = "SELECT incident FROM aliases WHERE gateway = ? AND local = ?"
    id_: str | None = value(db, query, gateway, local)
    return id_


def _reporters(db: sqlite3.Connection, id_: str) -> dict[str, tuple[str, float]]:
    query = "SELECT gateway, local, seen FROM reporters WHERE incident = ?"
    return {
        gateway: (local, seen) for gateway, local, seen in db.execute(query, (id_,))
    }


# -- reports ---------------------------------------------------------------------------


def report(db: sqlite3.Connection, new: IncidentReport, now: float) -> str:
    """Open, join or end an incident; see ``Outbox.report``."""
    id_ = _incident_of(db, new.gateway, new.local) or new.local
    record = _load(db, id_)
    if new.verb == "resolved":
        if record is not None and record.is_open:
            _withdraw(db, record, new, now)
        return "" if record is None else id_
    if record is not None and not record.is_open:
        # Ended by an operator, or the report is older than the end.
        if record.resolved_by or now < record.ended:
            return id_
        record = None
    record = record or _find(db, new)
    if record is not None:
        kind = UPDATED if _is_rise(new, record) else None
    elif value(db, "SELECT count(*) FROM incidents WHERE ended = 0") < limits.MAX_OPEN:
        kind = OPENED
        record = Record(
            new.local, new.body, new.severity, new.action, new.score, new.cls, now
        )
        db.execute("DELETE FROM reporters WHERE incident = ?", (new.local,))
    else:
        count_lost(db, "incidents")
        return ""
    _join(db, record, new, now, changes=kind is not None)
    if kind is not None:
        log_incident(db, kind, record, now)
    return record.id


def _is_rise(new: IncidentReport, record: Record) -> bool:
    sharper = new.cls != record.cls and record.cls == "volume"
    return new.severity > record.severity or new.action > record.action or sharper


def _find(db: sqlite3.Connection, new: IncidentReport) -> Record | None:
    """The open incident of one of the report's causes."""
    query = "SELECT incident FROM causes WHERE cause = ?"
    for cause in new.causes:
        record = _load_open(db, value(db, query, cause))
        if record is not None:
            return record
    record = _load_open(db, value(db, query, new.loose))
    if record is not None and new.gateway not in _reporters(db, record.id):
        return record
    return None


def _join(
    db: sqlite3.Connection,
    record: Record,
    new: IncidentReport,
    now: float,
    *,
    changes: bool,
) -> None:
    if changes or new.score > record.score:
        record.body, record.cls = new.body, new.cls
    record.severity = max(record.severity, new.severity)
    record.action = max(record.action, new.action)
    record.score = max(record.score, new.score)
    save(db, record)
    _see(db, record.id, new.gateway, new.local, now)
    db.execute(
        "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)",
        (new.gateway, new.local, record.id),
    )
    db.executemany(
        "INSERT OR IGNORE INTO causes VALUES (?, ?)",
        [(cause, record.id) for cause in lasting_causes(new)],
    )


def _see(
    db: sqlite3.Connection, id_: str, gateway: str, local: str, now: float
) -> None:
    db.execute(
        "INSERT OR REPLACE INTO reporters VALUES (?, ?, ?, ?)",
        (id_, gateway, local, now),
    )


def _withdraw(
    db: sqlite3.Connection, record: Record, new: IncidentReport, now: float
) -> None:
    """A gateway reports the end: it is over once no gateway holds it open."""
    db.execute(
        "DELETE FROM reporters WHERE incident = ? AND gateway = ? AND local = ?",
        (record.id, new.gateway, new.local),
    )
    if not _reporters(db, record.id):
        record.body = new.body
        _end(db, record, "", now)
    count(db, "version")


def _end(db: sqlite3.Connection, record: Record, by: str, now: float) -> None:
    record.ended, record.resolved_by = now, by
    for table in ("causes", "reporters"):
        db.execute(f"DELETE FROM {table} WHERE incident = ?", (record.id,))  # noqa: S608
    save(db, record)
    log_incident(db, RESOLVED, record, now)
    over = db.execute(
        "SELECT id FROM incidents WHERE ended > 0 ORDER BY ended DESC"
        " LIMIT -1 OFFSET ?",
        (limits.MAX_ENDED,),
    ).fetchall()
    db.executemany("DELETE FROM incidents WHERE id = ?", over)
    db.executemany("DELETE FROM aliases WHERE incident = ?", over)


def beat(
    db: sqlite3.Connection, gateway: str, local: Sequence[str], now: float
) -> None:
    """Mark a gateway's incidents as seen."""
    for one in local:
        record = _load_open(db, _incident_of(db, gateway, one))
        if record is not None:
            _see(db, record.id, gateway, one, now)


def sweep(db: sqlite3.Connection, now: float) -> int:
    """End incidents that no gateway was seen to hold open for STALE_S."""
    stale = db.execute(
        "SELECT * FROM incidents WHERE ended = 0 AND NOT EXISTS ("
        " SELECT 1 FROM reporters WHERE incident = incidents.id AND seen > ?)",
        (now - limits.STALE_S,),
    ).fetchall()
    for row in stale:
        _end(db, Record(*row), "", now)
    return len(stale)


def acknowledge(db: sqlite3.Connection, id_: str, by: str, now: float) -> bool:
    """By an operator, the first one counts; False: not open."""
    record = _load_open(db, id_)
    if record is None:
        return False
    if not record.acknowledged_at:
        record.acknowledged_by, record.acknowledged_at = by, now
        save(db, record)
        log_incident(db, ACKNOWLEDGED, record, now)
    return True


def resolve(db: sqlite3.Connection, id_: str, by: str, now: float) -> bool:
    """By an operator; False: not open."""
    record = _load_open(db, id_)
    if record is None:
        return False
    _end(db, record, by, now)
    return True


def listed(db: sqlite3.Connection) -> list[SharedIncident]:
    """All incidents, newest first."""
    reporters: dict[str, list[str]] = {}
    for id_, gateway in db.execute(
        "SELECT incident, gateway FROM reporters ORDER BY gateway"
    ):
        reporters.setdefault(id_, []).append(gateway)
    aliases: dict[str, list[str]] = {}
    for id_, local in db.execute("SELECT incident, local FROM aliases"):
        aliases.setdefault(id_, []).append(local)
    return [
        SharedIncident(
            id=one.id,
            state="open" if one.is_open else "resolved",
            severity=one.severity,
            action=one.action,
            opened=one.opened,
            ended=one.ended,
            body=one.body,
            gateways=tuple(reporters.get(one.id, ())),
            aliases=aliases_of(aliases.get(one.id, ())),
            acknowledged_by=one.acknowledged_by,
            acknowledged_at=one.acknowledged_at,
            resolved_by=one.resolved_by,
        )
        for one in (
            Record(*row)
            for row in db.execute(
                "SELECT * FROM incidents ORDER BY opened DESC, id DESC"
            )
        )
    ]


# -- the event log ---------------------------------------------------------------------


def log_incident(db: sqlite3.Connection, kind: str, record: Record, now: float) -> None:
    """Append an event of an incident."""
    _append(
        db,
        LoggedEvent(
            id="",
            type=kind,
            about=record.id,
            severity=record.severity,
            action=record.action,
            opened=record.opened,
            body=record.body,
            at=now,
        ),
    )


def _append(db: sqlite3.Connection, event: LoggedEvent) -> None:
    first, last = db.execute("SELECT min(serial), max(serial) FROM log").fetchone()
    if first is not None and last - first + 1 >= limits.MAX_LOG:
        db.execute("DELETE FROM log WHERE serial = ?", (first,))
        count_lost(db, "log_full")
    count(db, "serial")
    serial = value(db, "SELECT value FROM counters WHERE name = 'serial'")
    millis = f"{round(event.at * 1000):013d}"
    if last is not None:  # ids never go back, even if the clock was set back
        newest = value(db, "SELECT id FROM log WHERE serial = ?", last)
        millis = max(millis, newest.partition("-")[0])
    insert_event(
        db, serial, msgspec.structs.replace(event, id=f"{millis}-{serial:010d}")
    )


def insert_event(db: sqlite3.Connection, serial: int, event: LoggedEvent) -> None:
    """Write a row of the log."""
    db.execute(
        "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (serial, *msgspec.structs.astuple(event)),
    )


def log_event(db: sqlite3.Connection, new: StandaloneEvent, now: float) -> bool:
    """Append a standalone event; False: it was logged already, or never begun."""
    if new.key and not _is_news(db, new, now):
        return False
    body = new.body
    shared = _incident_of(db, new.gateway, new.local)
    if shared is not None:
        local_id = f'"id":"{new.local}"'.encode()
        body = body.replace(local_id, f'"id":"{shared}"'.encode(), 1)
    _append(
        db,
        LoggedEvent(
            id="",
            type=new.type,
            about=new.chain,
            severity=new.severity,
            action=0,
            opened=0.0,
            body=body,
            at=now,
        ),
    )
    return True


def _is_news(db: sqlite3.Connection, new: StandaloneEvent, now: float) -> bool:
    db.execute("DELETE FROM begun WHERE until <= ?", (now - limits.KNOWN_S,))
    until = value(db, "SELECT until FROM begun WHERE key = ?", new.key)
    if not new.begins:
        db.execute("DELETE FROM begun WHERE key = ?", (new.key,))
        return until is not None
    longest = new.until if until is None else max(new.until, until)
    db.execute("INSERT OR REPLACE INTO begun VALUES (?, ?)", (new.key, longest))
    return until is None or until <= now


def events_after(db: sqlite3.Connection, start: str, most: int) -> list[LoggedEvent]:
    """The next events behind the id ``start``, oldest first."""
    rows = db.execute(
        "SELECT id, type, about, severity, action, opened, body, at FROM log"
        " WHERE id > ? ORDER BY id LIMIT ?",
        (start, most),
    )
    return [LoggedEvent(*row) for row in rows]
