"""The outbox in Redis or Valkey: one script per call, all keys under one hash tag."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from gateway.alerts import outbox as limits
from gateway.alerts.model import (
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
from gateway.alerts.outbox import Counts, Due, EventDecision, OutboxUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

_INCIDENT = ("report", "act", "beat", "sweep", "event")
_QUEUE = ("deliver", "digest", "due", "finish", "resend")
_SWEEP_AT_ONCE = 500
_LISTED_OF_A_CHAIN = 20

_encode = msgspec.json.encode
_decode_message = msgspec.json.Decoder(AlertMessage).decode
_decode_state = msgspec.json.Decoder(DeliveryState).decode


class RedisOutbox:
    """``prefix``: of the store's keys; the client may be shared."""

    def __init__(self, client: Redis, prefix: str) -> None:
        # redis-py's annotations are too loose for these options.
        self._client: Any = client
        self._base = f"{prefix}1:{{alerts}}:"
        names = (
            "inc",
            "body",
            "cause",
            "local",
            "ended",
            "log",
            "ver",
            "lost",
            "known",
        )
        self._keys = [self._base + name for name in names]
        self._silences = self._base + "quiet"
        self._disabled = self._base + "disabled"
        self._scripts: dict[str, Any] = {"lease": self._script("lease")}
        for name in _INCIDENT:
            self._scripts[name] = self._script("incident", name)
        for name in _QUEUE:
            self._scripts[name] = self._script("queue", name)

    async def close(self) -> None:
        """No-op: the client belongs to the caller."""

    def _script(self, *names: str) -> Any:
        folder = files("gateway.alerts") / "lua"
        text = "".join((folder / f"{name}.lua").read_text() for name in names)
        return self._client.register_script(text)

    async def _guard(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except (RedisError, OSError) as error:
            why = str(error) or type(error).__name__
            raise OutboxUnavailable(why) from error

    async def _run(self, name: str, keys: Sequence[str], *args: Any) -> Any:
        return await self._guard(self._scripts[name](keys=keys, args=args))

    def _queue(self, receiver: str) -> tuple[str, list[str]]:
        base = f"{self._base}r:{receiver}:"
        names = (
            "lease",
            "at",
            "messages",
            "due",
            "told",
            "folded",
            "dead",
            "buried",
            "sent",
        )
        own = (base + name for name in names)
        return f"{base}c:", [*own, self._keys[7], self._disabled]

    # -- incidents -----------------------------------------------------------------------

    async def report(self, report: IncidentReport, now: float) -> str:
        """Open, join or end a shared incident."""
        causes = report.causes
        id_: bytes = await self._run(
            "report",
            self._keys,
            f"{now:.3f}",
            report.gateway,
            report.local,
            report.verb,
            report.severity,
            report.action,
            report.score,
            report.cls,
            report.body,
            limits.MAX_OPEN,
            limits.MAX_LOG,
            limits.MAX_ENDED,
            report.loose,
            len(causes),
            *causes,
            *lasting_causes(report),
        )
        return id_.decode()

    async def log_event(self, note: StandaloneEvent, now: float) -> bool:
        """Log a standalone event."""
        logged = await self._run(
            "event",
            self._keys,
            f"{now:.3f}",
            note.type,
            note.gateway,
            note.local,
            note.severity,
            note.body,
            note.chain,
            note.key,
            int(note.begins),
            f"{note.until:.3f}",
            limits.MAX_LOG,
            limits.KNOWN_S,
        )
        return bool(logged)

    async def beat(self, gateway: str, local: Sequence[str], now: float) -> None:
        """Mark a gateway's incidents as seen."""
        if local:
            await self._run("beat", self._keys, f"{now:.3f}", gateway, *local)

    async def sweep(self, now: float) -> int:
        """End stale incidents."""
        ids = [one.id for one in await self.incidents() if one.state == "open"]
        since, ended = now - limits.STALE_S, 0
        for start in range(0, len(ids), _SWEEP_AT_ONCE):
            args = [f"{now:.3f}", f"{since:.3f}", limits.MAX_LOG, limits.MAX_ENDED]
            chunk = ids[start : start + _SWEEP_AT_ONCE]
            ended += await self._run("sweep", self._keys, *args, *chunk)
        return ended

    async def version(self) -> int:
        """Version of incidents and silences."""
        return int(await self._guard(self._client.get(self._keys[6])) or 0)

    async def incidents(self) -> list[SharedIncident]:
        """All incidents, newest first."""
        turn = self._client.pipeline(transaction=True)
        turn.hgetall(self._keys[0])
        turn.hgetall(self._keys[1])
        records, bodies = await self._guard(turn.execute())
        found = [
            _incident(id_.decode(), msgspec.json.decode(record), bodies[id_])
            for id_, record in records.items()
            if id_ in bodies
        ]
        found.sort(key=lambda one: (one.opened, one.id), reverse=True)
        return found

    async def acknowledge(self, id_: str, by: str, now: float) -> bool:
        """Acknowledge an incident."""
        return await self._act("acknowledge", id_, by, now)

    async def resolve(self, id_: str, by: str, now: float) -> bool:
        """End an incident by hand."""
        return await self._act("resolve", id_, by, now)

    async def _act(self, verb: str, id_: str, by: str, now: float) -> bool:
        args = (f"{now:.3f}", id_, verb, by, limits.MAX_LOG, limits.MAX_ENDED)
        return bool(await self._run("act", self._keys, *args))

    # -- silences ------------------------------------------------------------------------

    async def silences(self) -> dict[str, bytes]:
        """All silences by id."""
        found = await self._guard(self._client.hgetall(self._silences))
        return {id_.decode(): body for id_, body in found.items()}

    async def put_silence(self, id_: str, body: bytes | None) -> bool:
        """Add, replace or remove a silence."""
        if body is None:
            done = bool(await self._guard(self._client.hdel(self._silences, id_)))
        else:
            done = await self._guard(self._client.hlen(self._silences)) < (
                limits.MAX_SILENCES
            )
            if done:
                await self._guard(self._client.hset(self._silences, id_, body))
        await self._guard(self._client.incr(self._keys[6]))
        return done

    # -- a receiver's events -------------------------------------------------------------

    async def lease(self, receiver: str, me: str, ttl_s: float) -> bool:
        """Take or extend the lease."""
        keys = self._queue(receiver)[1]
        return bool(await self._run("lease", keys[:1], me, round(ttl_s * 1000)))

    async def release(self, receiver: str, me: str) -> None:
        """Give the lease back."""
        await self._run("lease", self._queue(receiver)[1][:1], me, 0)

    async def events(self, receiver: str, count: int, now: float) -> list[LoggedEvent]:
        """Events after the receiver's position."""
        at = await self._guard(self._client.get(self._queue(receiver)[1][1]))
        start = at or b"%d-0" % max(0, round((now - limits.LOOK_BACK_S) * 1000))
        asked = self._client.xrange(self._keys[5], b"(" + start, count=count)
        return [_event(id_, fields) for id_, fields in await self._guard(asked)]

    async def delivery_states(
        self, receiver: str, about: Sequence[str]
    ) -> list[DeliveryState | None]:
        """What the receiver was sent, per subject."""
        if not about:
            return []
        keys = self._queue(receiver)[1]
        found = await self._guard(self._client.hmget(keys[4], list(about)))
        return [None if one is None else _decode_state(one) for one in found]

    async def all_delivery_states(self, receiver: str) -> dict[str, DeliveryState]:
        """What the receiver was sent, by subject."""
        keys = self._queue(receiver)[1]
        found = await self._guard(self._client.hgetall(keys[4]))
        return {about.decode(): _decode_state(one) for about, one in found.items()}

    async def deliver(
        self, receiver: str, me: str, items: Sequence[EventDecision], now: float
    ) -> bool:
        """Apply decisions about events."""
        base, keys = self._queue(receiver)
        args: list[Any] = [me, base, f"{now:.3f}", limits.MAX_FOLDED]
        for one in items:
            args += [one.event, one.about, *_message_args(one.message)]
            args.append(b"" if one.fold is None else _encode(one.fold))
            args.append("-" if one.forget else _encode(one.state) if one.state else "")
        return bool(await self._run("deliver", keys, *args))

    async def folded(self, receiver: str, count: int) -> list[dict[str, Any]]:
        """Entries for the next digest, oldest first."""
        keys = self._queue(receiver)[1]
        found = await self._guard(self._client.lrange(keys[5], 0, count - 1))
        return [msgspec.json.decode(one) for one in found]

    async def digest(
        self, receiver: str, me: str, message: AlertMessage, count: int, now: float
    ) -> bool:
        """Replace folded entries by one message."""
        base, keys = self._queue(receiver)
        args = (me, base, f"{now:.3f}", count, *_message_args(message))
        return bool(await self._run("digest", keys, *args))

    # -- a receiver's messages -----------------------------------------------------------

    async def due(self, receiver: str) -> Due | None:
        """The message to send next."""
        base, keys = self._queue(receiver)
        found = await self._run("due", keys, base)
        return Due(_decode_message(found[1]), float(found[0])) if found else None

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
        base, keys = self._queue(receiver)
        id_, chain, body = _message_args(message)
        args = (me, base, f"{now:.3f}", id_, chain, outcome, body, f"{retry_at:.3f}")
        done = await self._run("finish", keys, *args, limits.MAX_DEAD, limits.MAX_SENT)
        return bool(done)

    async def resend(self, receiver: str, ids: Sequence[str], now: float) -> int:
        """Queue dead letters again."""
        base, keys = self._queue(receiver)
        wanted: list[Any] = list(ids)
        if not wanted:
            wanted = await self._guard(self._client.zrange(keys[7], 0, -1))
        args: list[Any] = [base, f"{now:.3f}", receiver, int(not ids)]
        for body in await self._bodies(keys[6], wanted):
            if body is not None:
                letter = _decode_message(body)
                letter.attempts, letter.error = 0, ""
                args += _message_args(letter)
                args[-2], args[-1] = letter.chain, _encode(letter)
        return int(await self._run("resend", keys, *args))

    async def counts(self, receiver: str) -> Counts:
        """Numbers of waiting messages, dead letters and folded entries."""
        keys = self._queue(receiver)[1]
        turn = self._client.pipeline(transaction=False)
        turn.hlen(keys[2])
        turn.zcard(keys[7])
        turn.llen(keys[5])
        return Counts(*await self._guard(turn.execute()))

    async def listed(self, receiver: str, what: str, count: int) -> list[AlertMessage]:
        """Up to ``count`` messages."""
        base, keys = self._queue(receiver)
        if what == "sent":
            bodies = await self._guard(self._client.lrange(keys[8], 0, count - 1))
        elif what == "dead":
            ids = await self._guard(self._client.zrevrange(keys[7], 0, count - 1))
            bodies = await self._bodies(keys[6], ids)
        else:
            bodies = await self._bodies(keys[2], await self._waiting(base, keys, count))
        return [_decode_message(body) for body in bodies if body is not None]

    async def _waiting(self, base: str, keys: list[str], count: int) -> list[bytes]:
        chains = await self._guard(self._client.zrange(keys[3], 0, count - 1))
        turn = self._client.pipeline(transaction=False)
        for chain in chains:
            turn.lrange(base.encode() + chain, 0, _LISTED_OF_A_CHAIN - 1)
        found = await self._guard(turn.execute()) if chains else []
        return [id_ for ids in found for id_ in ids][:count]

    async def _bodies(self, key: str, ids: Sequence[bytes]) -> list[bytes | None]:
        if not ids:
            return []
        found: list[bytes | None] = await self._guard(self._client.hmget(key, ids))
        return found

    async def state(self, receiver: str) -> str:
        """Why the receiver is disabled."""
        why = await self._guard(self._client.hget(self._disabled, receiver))
        return (why or b"").decode()

    async def set_state(self, receiver: str, why: str) -> None:
        """Disable or enable the receiver."""
        if why:
            await self._guard(self._client.hset(self._disabled, receiver, why))
        else:
            await self._guard(self._client.hdel(self._disabled, receiver))

    async def lost_counts(self) -> dict[str, int]:
        """What was dropped, by reason."""
        found = await self._guard(self._client.hgetall(self._keys[7]))
        return {name.decode(): int(count) for name, count in found.items()}


def _message_args(message: AlertMessage | None) -> tuple[str, str, bytes]:
    if message is None:
        return "", "", b""
    return message.id, message.chain, _encode(message)


def _event(id_: bytes, fields: dict[bytes, bytes]) -> LoggedEvent:
    return LoggedEvent(
        id=id_.decode(),
        type=fields[b"t"].decode(),
        about=fields[b"i"].decode(),
        severity=int(fields[b"s"]),
        action=int(fields[b"a"]),
        opened=float(fields[b"o"]),
        body=fields[b"b"],
        at=float(fields[b"n"]),
    )


def _incident(id_: str, record: dict[str, Any], body: bytes) -> SharedIncident:
    return SharedIncident(
        id=id_,
        state=record["state"],
        severity=int(record["sev"]),
        action=int(record["act"]),
        opened=float(record["opened"]),
        ended=float(record["ended"]),
        body=body,
        gateways=tuple(sorted(record["rep"])),
        aliases=aliases_of(record["loc"]),
        acknowledged_by=record["ack"],
        acknowledged_at=float(record["acked"]),
        resolved_by=record["by"],
    )
