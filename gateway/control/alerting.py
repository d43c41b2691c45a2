"""Alerting of one gateway: detector outputs become shared incidents, and each receiver
has a delivery worker.

Neither requests nor the detector wait for alerting: outputs go into a bounded queue
(``alert_queue.py``) and from there into the outbox. While the store is down they stay in
the queue, except for events about this gateway itself: these are then delivered at once,
without the outbox.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.alerts.delivery import DeliveryWorker
from gateway.alerts.direct import MAX_WAITING
from gateway.alerts.model import (
    DEGRADED,
    RECOVERED,
    AlertMessage,
    Payload,
    SharedIncident,
    client_event_of,
    gateway_event,
    report_of,
    short_id,
)
from gateway.alerts.outbox import LOST, Counts, Outbox, OutboxUnavailable
from gateway.alerts.receivers import Receiver, open_sender, receivers_of
from gateway.alerts.redis_outbox import RedisOutbox
from gateway.alerts.silences import Silence, moment_of, read_silences
from gateway.alerts.sqlite_outbox import SqliteOutbox
from gateway.control.alert_queue import (
    AlertQueue,
    Waiting,
    WaitingEvent,
    WaitingReport,
)
from gateway.core.pace import is_due
from gateway.detect.model import Output, format_time

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.config.structs import Config
    from gateway.serve.background import Background

# Interval at which incidents, silences and counts are read from the store, seconds.
LOOK_S = 0.5
# Pause after the store failed, seconds.
RETRY_S = 1.0
# Interval at which this gateway's open incidents are confirmed in the store, seconds.
BEAT_S = 30.0
# Most messages of each state that the console lists for a receiver.
LISTED = 200
# Longest wait for the store at the end, seconds.
CLOSE_S = 2.0
# Silences that ended longer ago are removed when another is added, seconds.
FORGOTTEN_S = 86_400.0
# Lists for the console are refreshed this long after a request for them, seconds.
SHOWN_S = 5.0
_NOTED = frozenset(
    {"client.tagged", "client.throttled", "client.blocked", "client.unblocked"}
)


class UnknownReceiver(LookupError):  # noqa: N818 - becomes an answer
    """No receiver has this name."""


class Alerting:
    """``me``: name of this gateway, stable over restarts; ``client`` None: no store."""

    def __init__(  # noqa: PLR0917 - one caller
        self,
        client: Redis | None,
        prefix: str,
        runtime_dir: str,
        me: str,
        background: Background,
        workers: int = 1,
        on_state: Callable[[str], None] = lambda _problem: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._me = me
        self._workers = workers
        self._clock = clock
        self._background = background
        self._on_state = on_state
        self._outbox: Outbox
        if client is None:
            # Next to the runtime directory, which is removed at a regular end.
            self._outbox = SqliteOutbox(f"{runtime_dir}.alerts")
        else:
            self._outbox = RedisOutbox(client, prefix)
        self._queue = AlertQueue(f"{runtime_dir}.alerts-waiting")
        self._due = asyncio.Event()
        self._open: dict[str, None] = {}  # local ids of this gateway's open incidents
        self._troubled: set[int] = set()  # workers without the store
        self._well: set[int] = set()  # workers that had the store at some time
        # Whether each part of the gateway fails, as reported last.
        self._troubles = self._queue.gateway_troubles()
        self._delivery_workers: dict[str, DeliveryWorker] = {}
        self._leaving: dict[str, DeliveryWorker] = {}  # stopped, not yet ended
        self._wanted: list[Receiver] = []
        self._fixed: list[Silence] = []  # from the configuration
        self._put: list[Silence] = []  # from the store
        self._incidents: list[SharedIncident] = []
        self._version = -1
        self._counts: dict[str, Counts] = {}
        self._lost: dict[str, int] = {}
        self._problem = ""
        self._asked_at = 0.0
        self._shown: dict[str, Any] = {"targets": [], "pending": 0, "items": []}
        self.results: Counter[tuple[str, str]] = Counter()
        """Alerts by receiver type and result."""

    # -- inputs --------------------------------------------------------------------------

    def take(self, output: Output) -> None:
        """Queue an output of the detector."""
        now = self._clock()
        if output.type.startswith("incident."):
            if output.type == "incident.resolved":
                self._open.pop(output.id, None)
            else:
                self._open[output.id] = None
            self._enqueue(WaitingReport(report_of(output, self._me), now))
        elif output.type in _NOTED:
            self._enqueue(WaitingEvent(client_event_of(output, self._me), now))

    def recall(self, output: Output) -> None:
        """Report an incident from before a restart again, at the time of its evidence:
        the store may not have it, or may have ended it.
        """
        self._open[output.id] = None
        self._enqueue(WaitingReport(report_of(output, self._me), output.at))

    def take_event(self, worker: int, name: str, reason: str) -> None:
        """Take a worker's event that it lost or regained the store. A failure is reported
        for the first worker that loses it, recovery once all workers have it.
        """
        if name == DEGRADED:
            self._troubled.add(worker)
        elif name == RECOVERED:
            self._troubled.discard(worker)
            self._well.add(worker)
        if self._troubled:
            self.take_trouble("", reason)
        elif len(self._well) == self._workers:
            self.take_trouble("", "")

    def take_stats(self, worker: int, *, store_up: bool) -> None:
        """Take a recovery from a worker's statistics: the event of it is lost if the
        worker, or the control process at that time, was killed.
        """
        if store_up and (worker in self._troubled or worker not in self._well):
            self.take_event(worker, RECOVERED, "")

    def take_trouble(self, what: str, problem: str) -> None:
        """Take the state of a part of this gateway (``what``; "": its store): ``problem``
        is the reason of a failure, "" if it works. Changes are reported, and the first
        state as well: an earlier process may have reported a failure.
        """
        if self._troubles.get(what) is bool(problem):
            return
        self._troubles[what] = bool(problem)
        now = self._clock()
        kind = DEGRADED if problem else RECOVERED
        self._enqueue(
            WaitingEvent(gateway_event(kind, self._me, problem, now, what), now)
        )

    def _enqueue(self, entry: Waiting) -> None:
        self._queue.put(entry)
        self._due.set()

    # -- life ----------------------------------------------------------------------------

    def configure(self, config: Config) -> None:
        """Apply receivers and maintenance windows of a configuration."""
        zone = ZoneInfo(config.server.timezone)
        self._fixed = [
            Silence(
                id=f"config-{index}",
                since=moment_of(one.starts, zone),
                until=moment_of(one.ends, zone),
                tenant=one.tenant,
                cls=one.cls,
                subject=one.subject,
                reason=one.reason,
                by="configuration",
            )
            for index, one in enumerate(config.silences)
        ]
        self._wanted = receivers_of(config.alerts)
        for receiver in self._wanted:  # rates need the zero of the first scrape
            for result in ("sent", "failed", "dead", "folded"):
                self.results[receiver.type, result] += 0
        self._due.set()

    def silences_in_force(self) -> list[Silence]:
        """Silences of the configuration and the store."""
        return self._fixed + self._put

    async def run(self) -> None:
        """Run until cancelled; then call ``close``."""
        beat_at = looked_at = 0.0
        while True:
            self._sync_delivery_workers()
            try:
                await self._flush()
                # At most every LOOK_S: the store changes often during an attack.
                if is_due(looked_at, LOOK_S, self._clock()):
                    looked_at = self._clock()
                    await self._look()
                if is_due(beat_at, BEAT_S, self._clock()):
                    beat_at = self._clock()
                    await self._beat(beat_at)
            except (OutboxUnavailable, msgspec.DecodeError) as error:
                self._set_problem(str(error))
                self._offer_troubles()
                await asyncio.sleep(RETRY_S)
                continue
            self._set_problem("")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._due.wait()
            self._due.clear()

    def _sync_delivery_workers(self) -> None:
        """Start and stop delivery workers, so that each configured receiver has one. A
        changed receiver gets its new worker only after the old one has ended its attempt:
        both would hold the same lease.
        """
        wanted = {one.name: one for one in self._wanted}
        for name, delivery_worker in list(self._delivery_workers.items()):
            if wanted.get(name) != delivery_worker.receiver:
                self._leaving[name] = self._delivery_workers.pop(name)
                delivery_worker.stop()
        self._leaving = {
            name: delivery_worker
            for name, delivery_worker in self._leaving.items()
            if not delivery_worker.ended
        }
        for name, receiver in wanted.items():
            if name not in self._delivery_workers and name not in self._leaving:
                self._delivery_workers[name] = delivery_worker = (
                    self._new_delivery_worker(receiver)
                )
                self._background.start(delivery_worker.run(), f"alert {name}")

    def _new_delivery_worker(self, receiver: Receiver) -> DeliveryWorker:
        return DeliveryWorker(
            receiver,
            self._outbox,
            open_sender(receiver),
            self._me,
            silences=self.silences_in_force,
            results=self.results,
            clock=self._clock,
        )

    async def close(self) -> None:
        """Write the rest of the queue into the store, else into the file."""
        try:
            with suppress(OutboxUnavailable, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._flush()
        finally:
            self._queue.save()
            await self._outbox.close()

    def _set_problem(self, problem: str) -> None:
        if bool(problem) != bool(self._problem):
            self._on_state(problem)
        self._problem = problem

    async def _flush(self) -> None:
        """Write the queue into the outbox. Raises OutboxUnavailable."""
        if await self._queue.flush(self._outbox):
            for delivery_worker in self._delivery_workers.values():
                delivery_worker.nudge()

    def _offer_troubles(self) -> None:
        """Deliver events about this gateway directly while the store is down."""
        for one in self._queue.gateway_events()[-MAX_WAITING:]:
            for delivery_worker in self._delivery_workers.values():
                delivery_worker.offer(one.said, one.at)

    # -- what is read from the store -----------------------------------------------------

    async def _look(self) -> None:
        """Read incidents and silences if they changed, and the counts. Raises
        OutboxUnavailable.
        """
        version = await self._outbox.version()
        if version != self._version:
            self._incidents = await self._outbox.incidents()
            self._put = read_silences(await self._outbox.silences())
            self._version = version
        for name in self._delivery_workers:
            self._counts[name] = await self._outbox.counts(name)
        self._lost = await self._outbox.lost_counts()
        names = [one["name"] for one in self._shown["targets"]]
        if (
            names != list(self._delivery_workers)
            or self._clock() - self._asked_at < SHOWN_S
        ):
            await self._list()

    async def _beat(self, now: float) -> None:
        """Confirm this gateway's open incidents, and resolve those that no gateway has
        confirmed for some time. Raises OutboxUnavailable.
        """
        await self._outbox.beat(self._me, list(self._open), now)
        await self._outbox.sweep(now)

    @property
    def pending(self) -> int:
        """Alerts that wait for delivery, and queue entries that wait for the store."""
        waiting = sum(
            counts.pending + counts.folded for counts in self._counts.values()
        )
        return waiting + len(self._queue)

    @property
    def active(self) -> int:
        """Number of open incidents in the store."""
        return sum(one.state == "open" for one in self._incidents)

    def lost(self) -> dict[str, int]:
        """Dropped entries by reason."""
        return dict.fromkeys(LOST, 0) | self._lost | {"queue": self._queue.dropped}

    def incidents(self, local: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Incidents of all gateways, with those of ``local`` that are not in the store."""
        known = {name for one in self._incidents for name in (one.id, *one.aliases)}
        own = [one for one in local if one["id"] not in known]
        return own + [one.public() for one in self._incidents]

    # -- operator actions; raise OutboxUnavailable, UnknownReceiver ------------------------

    async def acknowledge(self, id_: str, by: str) -> bool:
        """False if it is not open, or unknown."""
        done = await self._outbox.acknowledge(id_, by, self._clock())
        await self._changed()
        return done

    async def resolve(self, id_: str, by: str) -> bool:
        """False if it is not open, or unknown."""
        done = await self._outbox.resolve(id_, by, self._clock())
        await self._changed()
        return done

    async def _changed(self) -> None:
        await self._look()
        for delivery_worker in self._delivery_workers.values():
            delivery_worker.nudge()

    async def _list(self) -> None:
        """Refresh the lists for the console; only while they are requested."""
        targets, items = [], []
        for name, delivery_worker in list(self._delivery_workers.items()):
            targets.append(await self._target(name, delivery_worker))
            for state in ("pending", "dead", "sent"):
                listed = await self._outbox.listed(name, state, LISTED)
                items += [_item(one, name, state) for one in listed]
        items.sort(key=lambda one: (one["at"], one["id"]), reverse=True)
        self._shown = {"targets": targets, "pending": self.pending, "items": items}

    async def _target(
        self, name: str, delivery_worker: DeliveryWorker
    ) -> dict[str, Any]:
        counts = await self._outbox.counts(name)
        _, _, why = (await self._outbox.state(name)).partition(" ")
        (last,) = await self._outbox.listed(name, "sent", 1) or (None,)
        state = (
            "disabled"
            if why
            else "failing"
            if delivery_worker.breaker.failures
            else "ok"
        )
        return {
            "name": name,
            "type": delivery_worker.receiver.type,
            "min_severity": delivery_worker.receiver.min_severity,
            "state": state,
            "since": format_time(last.last_at) if last is not None else None,
            "pending": counts.pending,
            "folded": counts.folded,
            "dead": counts.dead,
            "sent": self.results[delivery_worker.receiver.type, "sent"],
            "last_error": why or delivery_worker.last_error,
            "delivers_here": delivery_worker.holds_lease,
        }

    def alerts(self) -> dict[str, Any]:
        """Targets and messages of the last refresh, newest first; requests the next one."""
        if self._clock() - self._asked_at > LOOK_S:
            self._asked_at = self._clock()
            self._due.set()
        return self._shown | {"pending": self.pending}

    def has_receiver(self, name: str) -> bool:
        """Whether a receiver has this name."""
        return any(one.name == name for one in self._wanted)

    def _find(self, name: str) -> Receiver:
        for receiver in self._wanted:
            if receiver.name == name:
                return receiver
        raise UnknownReceiver(name)

    async def resend(self, what: str) -> int:
        """Queue one dead letter (by id) or all of a receiver (by name) again, and enable
        the receiver; the number of messages.
        """
        names = (
            [what] if what in self._delivery_workers else list(self._delivery_workers)
        )
        ids = [] if what in self._delivery_workers else [what]
        count = 0
        for name in names:
            found = await self._outbox.resend(name, ids, self._clock())
            if found or not ids:
                self._delivery_workers[name].breaker.succeeded()
            count += found
        await self._changed()
        return count

    async def test(self, name: str) -> str:
        """Send a test incident and its end, without the queue but not in parallel with a
        delivery; the error text, "" on success.
        """
        receiver = self._find(name)
        delivery_worker = self._delivery_workers.get(name)
        async with (
            nullcontext() if delivery_worker is None else delivery_worker.sending
        ):
            error = await self._send_sample(receiver)
        self.results[receiver.type, "test_failed" if error else "test"] += 1
        return error

    async def _send_sample(self, receiver: Receiver) -> str:
        sender, now, error = open_sender(receiver), self._clock(), ""
        try:
            for payload in sample(secrets.token_hex(8), now):
                id_ = "msg_" + short_id(f"{payload['id']}{payload['type']}")
                message = AlertMessage(id_, payload["id"], payload, now)
                error = error or (await sender.send(message, now)).error
        finally:
            await sender.close()
        return error

    def silences(self) -> list[dict[str, Any]]:
        """All silences in the form of the admin API."""
        now = self._clock()
        return [one.public(now) for one in self.silences_in_force()]

    async def add_silence(self, silence: Silence) -> bool:
        """Add a silence, removing those long over; False if there are too many."""
        now = self._clock()
        for old in self._put:
            ended = old.ended()
            if ended is not None and ended < now - FORGOTTEN_S:
                await self._outbox.put_silence(old.id, None)
        body = msgspec.json.encode(silence)
        done = await self._outbox.put_silence(silence.id, body)
        await self._changed()
        return done

    async def remove_silence(self, id_: str) -> bool:
        """Remove a silence; False if unknown or set by the configuration."""
        done = await self._outbox.put_silence(id_, None)
        await self._changed()
        return done


def _item(message: AlertMessage, receiver: str, state: str) -> dict[str, Any]:
    """A message in the form of the admin API."""
    shown = message.summary()
    last = shown["last_attempt_at"]
    return shown | {
        "target": receiver,
        "state": state,
        "at": last or shown["created_at"],
        "answer": message.error or ("accepted" if state == "sent" else ""),
    }


def sample(token: str, now: float) -> list[Payload]:
    """A test alert about an address reserved for documentation, and its end."""
    moment = format_time(now)
    opened: Payload = {
        "type": "incident.opened",
        "id": "inc_" + short_id(f"test {token}"),
        "ts": moment,
        "severity": "critical",
        "class": "scraping",
        "score": 5.0,
        "subject": {"kind": "client_ip", "id": "192.0.2.1"},
        "tenant": "test",
        "action": "allow",
        "until": None,
        "window": {"from": moment, "to": moment},
        "observed": {"requests_1m": 412.0},
        "expected": {"requests_1m": 12.0},
        "reasons": ["This is a test: nothing has happened."],
        "subjects": [],
        "opened_at": moment,
        "test": True,
    }
    return [opened, opened | {"type": "incident.resolved"}]


def new_silence_id() -> str:
    """Id for a silence added by an operator."""
    return "sil_" + secrets.token_hex(8)
