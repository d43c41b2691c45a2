"""The ledger of one gateway without a store: in memory, and in a file beside it.

Every change is appended to a journal before it takes effect; a process that comes after
a SIGKILL makes the same changes again. The semantics are those of ``lua/``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from gateway.alerts import outbox as limits
from gateway.alerts.journal import Journal
from gateway.alerts.model import (
    ACKNOWLEDGED,
    OPENED,
    RESOLVED,
    UPDATED,
    AlertMessage,
    DeliveryState,
    IncidentReport,
    LoggedEvent,
    Outcome,
    SharedIncident,
    StandaloneEvent,
    aliases_of,
    lasting_causes,
)
from gateway.alerts.outbox import Counts, Decision, Due

# Changes after which the journal begins anew with the state as it is.
COMPACT_CHANGES = 4_000
# After a full disk it is tried again that often: the whole state is written then.
RETRY_CHANGES = 100


class _Shared(msgspec.Struct):
    """An incident's record."""

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
    locals: set[str] = set()
    causes: set[str] = set()

    @property
    def is_open(self) -> bool:
        return not self.ended


class _Queue(msgspec.Struct):
    """One receiver."""

    position: str = ""
    messages: dict[str, AlertMessage] = {}
    chains: dict[str, list[str]] = {}
    due: dict[str, float] = {}
    told: dict[str, DeliveryState] = {}
    folded: list[dict[str, Any]] = []
    dead: dict[str, AlertMessage] = {}
    sent: list[AlertMessage] = []

    def enqueue(self, message: AlertMessage, at: float) -> None:
        self.messages[message.id] = message
        chain = self.chains.setdefault(message.chain, [])
        chain.append(message.id)
        if len(chain) == 1:
            self.due[message.chain] = at

    def advance(self, chain: str, now: float) -> None:
        self.chains[chain].pop(0)
        if self.chains[chain]:
            self.due[chain] = now
        else:
            del self.chains[chain], self.due[chain]


class _State(msgspec.Struct):
    """Everything."""

    incidents: dict[str, _Shared] = {}
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


class MemoryOutbox:
    """``path`` "": nothing outlives the process. Raises nothing but OSError at the
    start; a full disk later costs durability, not alerts.
    """

    def __init__(self, path: str = "") -> None:
        self._state = _State()
        self._journal = Journal(path) if path else None
        self._changes = 0
        if self._journal is not None:
            self._load(self._journal)
            self._journal.begin(msgspec.msgpack.encode(self._state))

    def _load(self, journal: Journal) -> None:
        entries = journal.entries()
        # What is damaged, or of another version, is read as far as it can be.
        with suppress(msgspec.DecodeError, LookupError, ValueError):
            state = next(entries, None)
            if state is not None:
                self._state = msgspec.msgpack.decode(state, type=_State)
            for entry in entries:
                self._replay(entry)

    def _replay(self, entry: bytes) -> None:
        name, *packed = msgspec.msgpack.decode(entry)
        args = (
            msgspec.convert(value, kind)
            for value, kind in zip(packed, _CHANGES[name], strict=True)
        )
        getattr(self, "_" + name)(*args)

    def _do(self, name: str, *args: Any) -> Any:
        if self._journal is not None:
            self._write(self._journal, name, args)
        return getattr(self, "_" + name)(*args)

    def _write(self, journal: Journal, name: str, args: tuple[Any, ...]) -> None:
        self._changes += 1
        most = COMPACT_CHANGES if journal.is_written else RETRY_CHANGES
        if self._changes > most:
            self._changes = 0
            journal.begin(msgspec.msgpack.encode(self._state))
        journal.append(msgspec.msgpack.encode((name, *args)))

    def close(self) -> None:
        """At a clean end. A file is left behind where something waits, is silenced, or
        has begun and not ended.
        """
        if self._journal is None:
            return
        queues = self._state.queues.values()
        waits = any(q.messages or q.folded or q.dead or q.told for q in queues)
        if waits or self._open() or self._state.known or self._state.silences:
            self._journal.close()
        else:
            self._journal.remove()

    # -- incidents -----------------------------------------------------------------------

    def _say(
        self,
        kind: str,
        about: str,
        one: _Shared | StandaloneEvent,
        now: float,
        body: bytes,
    ) -> None:
        state = self._state
        state.serial += 1
        if len(state.log) >= limits.MAX_LOG:
            del state.log[0]
            self._lose("log_full")
        shared = isinstance(one, _Shared)
        # As a stream's: never before the last one, though a clock was set back.
        millis = f"{round(now * 1000):013d}"
        if state.log:
            millis = max(millis, state.log[-1].id.partition("-")[0])
        state.log.append(
            LoggedEvent(
                id=f"{millis}-{state.serial:010d}",
                type=kind,
                about=about,
                severity=one.severity,
                action=one.action if isinstance(one, _Shared) else 0,
                opened=one.opened if isinstance(one, _Shared) else 0.0,
                body=body,
                at=now,
            )
        )
        state.version += shared

    def _lose(self, reason: str) -> None:
        self._state.lost[reason] = self._state.lost.get(reason, 0) + 1

    async def report(self, report: IncidentReport, now: float) -> str:
        """Open, join or end."""
        id_: str = self._do("report", report, now)
        return id_

    def _report(self, report: IncidentReport, now: float) -> str:
        mine = f"{report.gateway}|{report.local}"
        id_ = self._state.locals.get(mine, report.local)
        one = self._state.incidents.get(id_)
        if report.verb == "resolved":
            if one is not None and one.is_open:
                self._calm(id_, one, report, now)
            return id_ if one is not None else ""
        if one is not None and not one.is_open:
            if one.by or now < one.ended:
                return id_
            one = None
        if one is None:
            id_, one = self._find(report)
        kind = None
        if one is None:
            if len(self._open()) >= limits.MAX_OPEN:
                self._lose("incidents")
                return ""
            id_, kind = report.local, OPENED
            one = self._begin(report, now)
        elif (
            report.severity > one.severity
            or report.action > one.action
            or (report.cls != one.cls and one.cls == "volume")
        ):
            kind = UPDATED
        self._join(id_, one, report, now, changes=kind is not None)
        if kind is not None:
            self._say(kind, id_, one, now, report.body)
        return id_

    def _open(self) -> list[str]:
        return [id_ for id_, one in self._state.incidents.items() if one.is_open]

    def _find(self, report: IncidentReport) -> tuple[str, _Shared | None]:
        for cause in report.causes:
            id_ = self._state.causes.get(cause, "")
            one = self._state.incidents.get(id_)
            if one is not None and one.is_open:
                return id_, one
        id_ = self._state.causes.get(report.loose, "")
        one = self._state.incidents.get(id_)
        if one is not None and one.is_open and report.gateway not in one.reporters:
            return id_, one
        return "", None

    def _begin(self, report: IncidentReport, now: float) -> _Shared:
        one = _Shared(
            report.body, now, report.severity, report.action, report.score, report.cls
        )
        self._state.incidents.pop(report.local, None)
        self._state.incidents[report.local] = one
        return one

    def _join(
        self,
        id_: str,
        one: _Shared,
        report: IncidentReport,
        now: float,
        *,
        changes: bool,
    ) -> None:
        if changes or report.score > one.score:
            one.body, one.cls = report.body, report.cls
        one.severity = max(one.severity, report.severity)
        one.action = max(one.action, report.action)
        one.score = max(one.score, report.score)
        mine = f"{report.gateway}|{report.local}"
        one.reporters[report.gateway] = (report.local, now)
        one.locals.add(mine)
        self._state.locals[mine] = id_
        for cause in lasting_causes(report):
            if self._state.causes.setdefault(cause, id_) == id_:
                one.causes.add(cause)
        self._state.version += 1

    def _calm(self, id_: str, one: _Shared, report: IncidentReport, now: float) -> None:
        if one.reporters.get(report.gateway, ("",))[0] == report.local:
            del one.reporters[report.gateway]
        if not one.reporters:
            self._end(id_, one, report.body, "", now)
        self._state.version += 1

    def _end(self, id_: str, one: _Shared, body: bytes, by: str, now: float) -> None:
        state = self._state
        one.body, one.ended, one.by = body, now, by
        for cause in one.causes:
            if state.causes.get(cause) == id_:
                del state.causes[cause]
        one.causes = set()
        self._say(RESOLVED, id_, one, now, body)
        ended = [key for key, other in state.incidents.items() if not other.is_open]
        ended.sort(key=lambda key: state.incidents[key].ended)
        for key in ended[: max(0, len(ended) - limits.MAX_ENDED)]:
            for mine in state.incidents.pop(key).locals:
                state.locals.pop(mine, None)

    async def log_event(self, note: StandaloneEvent, now: float) -> bool:
        """Log an event."""
        return bool(self._do("note", note, now))

    def _note(self, note: StandaloneEvent, now: float) -> bool:
        state = self._state
        if note.key:
            old = now - limits.KNOWN_S
            for key in [key for key, until in state.known.items() if until <= old]:
                del state.known[key]
            held = state.known.get(note.key)
            if note.begins:
                state.known[note.key] = max(note.until, held or 0.0)
                if held is not None and held > now:
                    return False
            elif state.known.pop(note.key, None) is None:
                return False
        body = note.body
        shared = state.locals.get(f"{note.gateway}|{note.local}")
        if shared:
            was = f'"id":"{note.local}"'.encode()
            body = body.replace(was, f'"id":"{shared}"'.encode(), 1)
        self._say(note.type, note.chain, note, now, body)
        return True

    async def beat(self, gateway: str, local: Sequence[str], now: float) -> None:
        """Still at it."""
        if local:
            self._do("beat", gateway, list(local), now)

    def _beat(self, gateway: str, local: list[str], now: float) -> None:
        for one in local:
            id_ = self._state.locals.get(f"{gateway}|{one}", "")
            held = self._state.incidents.get(id_)
            if held is not None and held.is_open:
                held.reporters[gateway] = (one, now)

    async def sweep(self, now: float) -> int:
        """End what nobody holds open any more."""
        return int(self._do("sweep", now))

    def _sweep(self, now: float) -> int:
        ended = 0
        for id_ in self._open():
            one = self._state.incidents[id_]
            seen = max((at for _, at in one.reporters.values()), default=0.0)
            if seen <= now - limits.STALE_S:
                one.reporters = {}
                self._end(id_, one, one.body, "", now)
                ended += 1
        return ended

    async def version(self) -> int:
        """Of incidents and silences."""
        return self._state.version

    async def incidents(self) -> list[SharedIncident]:
        """Newest first."""
        found = [
            SharedIncident(
                id=id_,
                state="open" if one.is_open else "resolved",
                severity=one.severity,
                action=one.action,
                opened=one.opened,
                ended=one.ended,
                body=one.body,
                gateways=tuple(sorted(one.reporters)),
                aliases=aliases_of(one.locals),
                acknowledged_by=one.acknowledged_by,
                acknowledged_at=one.acknowledged_at,
                resolved_by=one.by,
            )
            for id_, one in self._state.incidents.items()
        ]
        found.sort(key=lambda one: (one.opened, one.id), reverse=True)
        return found

    async def acknowledge(self, id_: str, by: str, now: float) -> bool:
        """By an operator."""
        return bool(self._do("acknowledge", id_, by, now))

    def _acknowledge(self, id_: str, by: str, now: float) -> bool:
        one = self._state.incidents.get(id_)
        if one is None or not one.is_open:
            return False
        if not one.acknowledged_at:
            one.acknowledged_by, one.acknowledged_at = by, now
            self._say(ACKNOWLEDGED, id_, one, now, one.body)
        return True

    async def resolve(self, id_: str, by: str, now: float) -> bool:
        """By an operator."""
        return bool(self._do("resolve", id_, by, now))

    def _resolve(self, id_: str, by: str, now: float) -> bool:
        one = self._state.incidents.get(id_)
        if one is None or not one.is_open:
            return False
        one.reporters = {}
        self._end(id_, one, one.body, by, now)
        return True

    # -- silences ------------------------------------------------------------------------

    async def silences(self) -> dict[str, bytes]:
        """By id."""
        return dict(self._state.silences)

    async def put_silence(self, id_: str, body: bytes | None) -> bool:
        """Put or remove."""
        return bool(self._do("put_silence", id_, body))

    def _put_silence(self, id_: str, body: bytes | None) -> bool:
        silences = self._state.silences
        self._state.version += 1
        if body is None:
            return silences.pop(id_, None) is not None
        if len(silences) >= limits.MAX_SILENCES:
            return False
        silences[id_] = body
        return True

    # -- a receiver's events -------------------------------------------------------------

    def _queue(self, receiver: str) -> _Queue:
        return self._state.queues.setdefault(receiver, _Queue())

    async def lease(self, receiver: str, me: str, ttl_s: float) -> bool:
        """There is nobody else."""
        return True

    async def release(self, receiver: str, me: str) -> None:
        """Nobody waits for it."""

    async def events(self, receiver: str, count: int, now: float) -> list[LoggedEvent]:
        """After the receiver's position."""
        start = self._queue(receiver).position
        start = start or f"{round(max(0.0, now - limits.LOOK_BACK_S) * 1000):013d}"
        log = self._state.log
        first = bisect_right(log, start, key=lambda one: one.id)
        return log[first : first + count]

    async def delivery_states(
        self, receiver: str, about: Sequence[str]
    ) -> list[DeliveryState | None]:
        """What it knows."""
        told = self._queue(receiver).told
        return [told.get(one) for one in about]

    async def all_delivery_states(self, receiver: str) -> dict[str, DeliveryState]:
        """All that it knows."""
        return dict(self._queue(receiver).told)

    async def deliver(
        self, receiver: str, me: str, items: Sequence[Decision], now: float
    ) -> bool:
        """Take decisions in."""
        self._do("deliver", receiver, list(items), now)
        return True

    def _deliver(self, receiver: str, items: list[Decision], now: float) -> None:
        queue = self._queue(receiver)
        for one in items:
            queue.position = one.event or queue.position
            if one.message is not None:
                queue.enqueue(one.message, now)
            if one.fold is not None:
                if len(queue.folded) >= limits.MAX_FOLDED:
                    self._lose("folded")
                else:
                    queue.folded.append(one.fold)
            if one.forget:
                queue.told.pop(one.about, None)
            elif one.told is not None:
                queue.told[one.about] = one.told

    async def folded(self, receiver: str, count: int) -> list[dict[str, Any]]:
        """Oldest first."""
        return self._queue(receiver).folded[:count]

    async def digest(
        self, receiver: str, me: str, message: AlertMessage, count: int, now: float
    ) -> bool:
        """One message for many events."""
        self._do("digest", receiver, message, count, now)
        return True

    def _digest(
        self, receiver: str, message: AlertMessage, count: int, now: float
    ) -> None:
        queue = self._queue(receiver)
        del queue.folded[:count]
        queue.enqueue(message, now)

    # -- a receiver's messages -----------------------------------------------------------

    async def due(self, receiver: str) -> Due | None:
        """Whose turn it is."""
        queue = self._queue(receiver)
        if not queue.due:
            return None
        chain = min(queue.due, key=lambda name: (queue.due[name], name))
        message = queue.messages[queue.chains[chain][0]]
        return Due(_copy(message), queue.due[chain])

    async def finish(  # noqa: PLR0917 - one caller
        self,
        receiver: str,
        me: str,
        message: AlertMessage,
        outcome: Outcome,
        now: float,
        retry_at: float = 0.0,
    ) -> bool:
        """What became of it."""
        self._do("finish", receiver, _copy(message), outcome, now, retry_at)
        return True

    def _finish(
        self,
        receiver: str,
        message: AlertMessage,
        outcome: str,
        now: float,
        retry_at: float,
    ) -> None:
        queue = self._queue(receiver)
        if queue.chains.get(message.chain, [""])[0] != message.id:
            return
        if outcome == "retry":
            queue.messages[message.id] = message
            queue.due[message.chain] = retry_at
            return
        del queue.messages[message.id]
        queue.advance(message.chain, now)
        if outcome == "sent":
            queue.sent.insert(0, message)
            del queue.sent[limits.MAX_SENT :]
            return
        queue.dead[message.id] = message
        if len(queue.dead) > limits.MAX_DEAD:
            del queue.dead[next(iter(queue.dead))]
            self._lose("dead_letters")

    async def resend(self, receiver: str, ids: Sequence[str], now: float) -> int:
        """Dead letters live again."""
        return int(self._do("resend", receiver, list(ids), now))

    def _resend(self, receiver: str, ids: list[str], now: float) -> int:
        queue = self._queue(receiver)
        wanted = [one for one in ids or list(queue.dead) if one in queue.dead]
        for id_ in wanted:
            letter = queue.dead.pop(id_)
            letter.attempts, letter.error = 0, ""
            queue.enqueue(letter, now)
        if wanted or not ids:
            self._state.disabled.pop(receiver, None)
        return len(wanted)

    async def counts(self, receiver: str) -> Counts:
        """How much waits."""
        queue = self._queue(receiver)
        return Counts(len(queue.messages), len(queue.dead), len(queue.folded))

    async def listed(self, receiver: str, what: str, count: int) -> list[AlertMessage]:
        """As many as asked for."""
        queue = self._queue(receiver)
        if what == "sent":
            return queue.sent[:count]
        if what == "dead":
            return list(reversed(queue.dead.values()))[:count]
        chains = sorted(queue.due, key=lambda name: queue.due[name])
        ids = [id_ for chain in chains for id_ in queue.chains[chain]]
        return [queue.messages[id_] for id_ in ids[:count]]

    async def state(self, receiver: str) -> str:
        """Why it is disabled."""
        return self._state.disabled.get(receiver, "")

    async def set_state(self, receiver: str, why: str) -> None:
        """Disable or enable."""
        self._do("set_state", receiver, why)

    def _set_state(self, receiver: str, why: str) -> None:
        if why:
            self._state.disabled[receiver] = why
        else:
            self._state.disabled.pop(receiver, None)

    async def lost_counts(self) -> dict[str, int]:
        """By reason."""
        return dict(self._state.lost)


# How the journal's arguments are read again.
_CHANGES: dict[str, tuple[Any, ...]] = {
    "report": (IncidentReport, float),
    "note": (StandaloneEvent, float),
    "beat": (str, list[str], float),
    "sweep": (float,),
    "acknowledge": (str, str, float),
    "resolve": (str, str, float),
    "put_silence": (str, bytes | None),
    "deliver": (str, list[Decision], float),
    "digest": (str, AlertMessage, int, float),
    "finish": (str, AlertMessage, str, float, float),
    "resend": (str, list[str], float),
    "set_state": (str, str),
}


def _copy(message: AlertMessage) -> AlertMessage:
    """Couriers write on what they hold."""
    return msgspec.structs.replace(message)
