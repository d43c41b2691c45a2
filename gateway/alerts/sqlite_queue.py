"""Silences, leases and the messages of each receiver in SQLite.

The work of one transaction each, with the rules of ``lua/queue.lua`` and the scripts
beside it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.alerts import outbox as limits
from gateway.alerts.model import AlertMessage, DeliveryState, LoggedEvent
from gateway.alerts.outbox import Counts, Due, EventDecision
from gateway.alerts.sqlite_incidents import count, count_lost, events_after, value

_encode = msgspec.json.encode
_decode_message = msgspec.json.Decoder(AlertMessage).decode
_decode_state = msgspec.json.Decoder(DeliveryState).decode
# While one of these has a row, the file is needed after a restart.
_NEEDED = (
    "SELECT 1 FROM messages",
    "SELECT 1 FROM folded",
    "SELECT 1 FROM dead",
    "SELECT 1 FROM delivery_states",
    "SELECT 1 FROM incidents WHERE ended = 0",
    "SELECT 1 FROM begun",
    "SELECT 1 FROM silences",
)


def is_needed(db: sqlite3.Connection) -> bool:
    """Whether something waits, is silenced, or has begun and not ended."""
    return any(value(db, f"{query} LIMIT 1") for query in _NEEDED)


def counter(db: sqlite3.Connection, name: str) -> int:
    """A counter; 0 if it was never counted."""
    return int(value(db, "SELECT value FROM counters WHERE name = ?", name) or 0)


def lost_counts(db: sqlite3.Connection) -> dict[str, int]:
    """What was dropped, by reason."""
    rows = db.execute("SELECT name, value FROM counters WHERE name LIKE 'lost:%'")
    return {name.removeprefix("lost:"): number for name, number in rows}


# -- silences --------------------------------------------------------------------------


def silences(db: sqlite3.Connection) -> dict[str, bytes]:
    """All silences by id."""
    return dict(db.execute("SELECT id, body FROM silences").fetchall())


def put_silence(db: sqlite3.Connection, id_: str, body: bytes | None) -> bool:
    """Add, replace or (None) remove; False: no room, or there was none."""
    count(db, "version")
    if body is None:
        return db.execute("DELETE FROM silences WHERE id = ?", (id_,)).rowcount > 0
    if value(db, "SELECT count(*) FROM silences") >= limits.MAX_SILENCES:
        return False
    db.execute("INSERT OR REPLACE INTO silences VALUES (?, ?)", (id_, body))
    return True


# -- receivers -------------------------------------------------------------------------


def set_receiver(db: sqlite3.Connection, receiver: str, **columns: Any) -> None:
    """Set columns of a receiver's row."""
    db.execute("INSERT OR IGNORE INTO receivers (name) VALUES (?)", (receiver,))
    for column, content in columns.items():
        db.execute(
            f"UPDATE receivers SET {column} = ? WHERE name = ?",  # noqa: S608 - ours
            (content, receiver),
        )


def lease(
    db: sqlite3.Connection, receiver: str, me: str, now: float, ttl_s: float
) -> bool:
    """Take, extend or (0 s) give back; False while another holds it."""
    query = "SELECT holder, held_until FROM receivers WHERE name = ?"
    holder, until = db.execute(query, (receiver,)).fetchone() or ("", 0.0)
    if holder != me and until > now:
        return False
    if holder == me and now + ttl_s / 2 < until <= now + ttl_s:
        return True  # not written at every turn of a delivery worker
    set_receiver(db, receiver, holder=me if ttl_s else "", held_until=now + ttl_s)
    return True


def _holds(db: sqlite3.Connection, receiver: str, me: str) -> bool:
    return bool(
        value(db, "SELECT holder FROM receivers WHERE name = ?", receiver) == me
    )


def disabled(db: sqlite3.Connection, receiver: str) -> str:
    """Why the receiver is disabled; "": it is not."""
    return value(db, "SELECT disabled FROM receivers WHERE name = ?", receiver) or ""


def disable(db: sqlite3.Connection, receiver: str, why: str) -> None:
    """Disable, or ("") enable."""
    set_receiver(db, receiver, disabled=why)


def counts(db: sqlite3.Connection, receiver: str) -> Counts:
    """Numbers of waiting messages, dead letters and folded entries."""
    tables = ("messages", "dead", "folded")
    return Counts(*(_size(db, table, receiver) for table in tables))


def _size(db: sqlite3.Connection, table: str, receiver: str) -> int:
    query = f"SELECT count(*) FROM {table} WHERE receiver = ?"  # noqa: S608 - ours
    return int(value(db, query, receiver))


# -- from events to messages -----------------------------------------------------------


def events(
    db: sqlite3.Connection, receiver: str, most: int, now: float
) -> list[LoggedEvent]:
    """Events after the receiver's position; a new one starts LOOK_BACK_S ago."""
    start = value(db, "SELECT position FROM receivers WHERE name = ?", receiver)
    start = start or f"{round(max(0.0, now - limits.LOOK_BACK_S) * 1000):013d}"
    return events_after(db, start, most)


def delivery_states(db: sqlite3.Connection, receiver: str) -> dict[str, DeliveryState]:
    """What the receiver was sent, by incident or other subject."""
    query = "SELECT about, body FROM delivery_states WHERE receiver = ?"
    return {
        about: _decode_state(body) for about, body in db.execute(query, (receiver,))
    }


def deliver(
    db: sqlite3.Connection,
    receiver: str,
    me: str,
    items: Sequence[EventDecision],
    now: float,
) -> bool:
    """Apply decisions in order; False without the lease."""
    if not _holds(db, receiver, me):
        return False
    last = items[-1].event if items else ""
    position = value(db, "SELECT position FROM receivers WHERE name = ?", receiver)
    if not last or last != position:  # else: a repeated call
        for item in items:
            apply_decision(db, receiver, item, now)
    return True


def apply_decision(
    db: sqlite3.Connection, receiver: str, item: EventDecision, now: float
) -> None:
    """Enqueue, fold and remember what was decided about one event."""
    if item.event:
        set_receiver(db, receiver, position=item.event)
    if item.message is not None:
        enqueue(db, receiver, item.message, now)
    if item.fold is not None:
        if _size(db, "folded", receiver) >= limits.MAX_FOLDED:
            count_lost(db, "folded")
        else:
            fold(db, receiver, item.fold)
    if item.forget:
        db.execute(
            "DELETE FROM delivery_states WHERE receiver = ? AND about = ?",
            (receiver, item.about),
        )
    elif item.state is not None:
        put_delivery_state(db, receiver, item.about, item.state)


def fold(db: sqlite3.Connection, receiver: str, entry: dict[str, Any]) -> None:
    """Append an entry for the next digest."""
    db.execute(
        "INSERT INTO folded (receiver, body) VALUES (?, ?)", (receiver, _encode(entry))
    )


def put_delivery_state(
    db: sqlite3.Connection, receiver: str, about: str, state: DeliveryState
) -> None:
    """Remember what the receiver was sent of a subject."""
    db.execute(
        "INSERT OR REPLACE INTO delivery_states VALUES (?, ?, ?)",
        (receiver, about, _encode(state)),
    )


def folded(db: sqlite3.Connection, receiver: str, most: int) -> list[dict[str, Any]]:
    """Entries for the next digest, oldest first."""
    query = "SELECT body FROM folded WHERE receiver = ? ORDER BY place LIMIT ?"
    rows = db.execute(query, (receiver, most))
    return [msgspec.json.decode(body) for (body,) in rows]


def digest(  # noqa: PLR0917 - one caller
    db: sqlite3.Connection,
    receiver: str,
    me: str,
    message: AlertMessage,
    most: int,
    now: float,
) -> bool:
    """Replace the first ``most`` folded entries by a message; False: no lease."""
    if not _holds(db, receiver, me):
        return False
    query = "SELECT 1 FROM messages WHERE receiver = ? AND id = ?"
    if not value(db, query, receiver, message.id):  # else: a repeated call
        db.execute(
            "DELETE FROM folded WHERE place IN (SELECT place FROM folded"
            " WHERE receiver = ? ORDER BY place LIMIT ?)",
            (receiver, most),
        )
        enqueue(db, receiver, message, now)
    return True


# -- messages --------------------------------------------------------------------------


def enqueue(
    db: sqlite3.Connection, receiver: str, message: AlertMessage, at: float
) -> None:
    """Append a message to its chain; the first of a chain is due ``at``."""
    db.execute(
        "INSERT INTO messages (receiver, id, chain, body) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (receiver, id) DO UPDATE SET body = excluded.body",
        (receiver, message.id, message.chain, _encode(message)),
    )
    db.execute(
        "INSERT OR IGNORE INTO chains VALUES (?, ?, ?)", (receiver, message.chain, at)
    )


def due(db: sqlite3.Connection, receiver: str) -> Due | None:
    """The first message of the chain that is due first."""
    row = db.execute(
        "SELECT m.body, c.due FROM chains c JOIN messages m"
        " ON m.receiver = c.receiver AND m.chain = c.chain"
        " WHERE c.receiver = ? ORDER BY c.due, c.chain, m.place LIMIT 1",
        (receiver,),
    ).fetchone()
    return None if row is None else Due(_decode_message(row[0]), row[1])


def finish(  # noqa: PLR0917 - one caller
    db: sqlite3.Connection,
    receiver: str,
    me: str,
    message: AlertMessage,
    outcome: str,
    now: float,
    retry_at: float,
) -> bool:
    """Record the outcome of an attempt; False without the lease."""
    if not _holds(db, receiver, me):
        return False
    if _first_of(db, receiver, message.chain) != message.id:
        return True  # a repeated call
    body = _encode(message)
    if outcome == "retry":
        db.execute(
            "UPDATE messages SET body = ? WHERE receiver = ? AND id = ?",
            (body, receiver, message.id),
        )
        set_due(db, receiver, message.chain, retry_at)
        return True
    db.execute(
        "DELETE FROM messages WHERE receiver = ? AND id = ?", (receiver, message.id)
    )
    if _first_of(db, receiver, message.chain):
        set_due(db, receiver, message.chain, now)
    else:
        db.execute(
            "DELETE FROM chains WHERE receiver = ? AND chain = ?",
            (receiver, message.chain),
        )
    if outcome == "sent":
        add_sent(db, receiver, message)
    else:
        bury(db, receiver, message)
    return True


def _first_of(db: sqlite3.Connection, receiver: str, chain: str) -> Any:
    query = "SELECT id FROM messages WHERE receiver = ? AND chain = ? ORDER BY place"
    return value(db, f"{query} LIMIT 1", receiver, chain)


def set_due(db: sqlite3.Connection, receiver: str, chain: str, at: float) -> None:
    """When the first message of a chain is due."""
    db.execute("INSERT OR REPLACE INTO chains VALUES (?, ?, ?)", (receiver, chain, at))


def add_sent(db: sqlite3.Connection, receiver: str, message: AlertMessage) -> None:
    """List a delivered message; only the last MAX_SENT are kept."""
    db.execute(
        "INSERT INTO sent (receiver, body) VALUES (?, ?)", (receiver, _encode(message))
    )
    _trim(db, "sent", receiver, limits.MAX_SENT)


def bury(db: sqlite3.Connection, receiver: str, message: AlertMessage) -> None:
    """Make a message a dead letter; beyond MAX_DEAD the oldest are dropped."""
    db.execute(
        "INSERT OR REPLACE INTO dead (receiver, id, body) VALUES (?, ?, ?)",
        (receiver, message.id, _encode(message)),
    )
    for _ in range(_trim(db, "dead", receiver, limits.MAX_DEAD)):
        count_lost(db, "dead_letters")


def _trim(db: sqlite3.Connection, table: str, receiver: str, most: int) -> int:
    """Delete the oldest rows beyond ``most``; how many."""
    return db.execute(
        f"DELETE FROM {table} WHERE place IN (SELECT place FROM {table}"  # noqa: S608
        " WHERE receiver = ? ORDER BY place DESC LIMIT -1 OFFSET ?)",
        (receiver, most),
    ).rowcount


def resend(
    db: sqlite3.Connection, receiver: str, ids: Sequence[str], now: float
) -> int:
    """Queue dead letters (no ids: all) again and enable the receiver; how many."""
    query = "SELECT id, body FROM dead WHERE receiver = ? ORDER BY place"
    dead = dict(db.execute(query, (receiver,)).fetchall())
    wanted = [id_ for id_ in ids or dead if id_ in dead]
    for id_ in wanted:
        db.execute("DELETE FROM dead WHERE receiver = ? AND id = ?", (receiver, id_))
        message = _decode_message(dead[id_])
        message.attempts, message.error = 0, ""
        enqueue(db, receiver, message, now)
    # In the same transaction, else a delivery worker could bury them again.
    if wanted or not ids:
        disable(db, receiver, "")
    return len(wanted)


_LISTED = {
    "sent": "SELECT body FROM sent WHERE receiver = ? ORDER BY place DESC LIMIT ?",
    "dead": "SELECT body FROM dead WHERE receiver = ? ORDER BY place DESC LIMIT ?",
    "pending": (
        "SELECT m.body FROM chains c JOIN messages m"
        " ON m.receiver = c.receiver AND m.chain = c.chain"
        " WHERE c.receiver = ? ORDER BY c.due, c.chain, m.place LIMIT ?"
    ),
}


def listed(
    db: sqlite3.Connection, receiver: str, what: str, most: int
) -> list[AlertMessage]:
    """Messages ``pending`` (next first), ``dead`` or ``sent`` (newest first)."""
    rows = db.execute(_LISTED[what], (receiver, most))
    return [_decode_message(body) for (body,) in rows]
