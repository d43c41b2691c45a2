"""One receiver's courier: reads the log of events, decides, delivers, tries again.

Every gateway has one for each receiver; the one that holds the lease in the store works,
another takes over when it dies. All it knows is in the ledger, so nothing is lost with
it. One attempt at a time: a receiver is never asked twice at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from gateway.alerts.direct import KEEP_S, DirectDelivery
from gateway.alerts.formats import is_over
from gateway.alerts.model import (
    ACKNOWLEDGED,
    DIGEST,
    OPENED,
    SEVERITIES,
    UPDATED,
    AlertMessage,
    DeliveryState,
    LoggedEvent,
    Payload,
    StandaloneEvent,
    event_key,
    message_id,
    short_id,
)
from gateway.alerts.outbox import MAX_PENDING, Decision, Outbox, OutboxUnavailable
from gateway.alerts.receivers import Receiver
from gateway.alerts.retry import Breaker, next_attempt
from gateway.alerts.send import Answer, Sender
from gateway.alerts.silences import Silence, is_silenced
from gateway.core.pace import is_due
from gateway.detect.model import format_time, parse_time

# Longer than any attempt lasts; a dead courier is succeeded after that.
LEASE_S = 45.0
# How often others ask whether the lease is free, and how often the log is looked at
# when nobody says that there is something new.
STAND_BY_S = 2.0
IDLE_S = 1.0
RETRY_S = 1.0
EVENTS_AT_ONCE = 100
# Open incidents that a receiver was never told of (a silence ended, it is new) are
# looked for this often.
RECONCILE_S = 15.0
# What a receiver knows of clients is looked through this often.
TIDY_S = 7_200.0
MINUTE_S = 60.0
DIGEST_ITEMS = 500
_STATE_S = 2.0


class DeliveryWorker:
    """``results`` counts what became of alerts by (receiver type, result)."""

    def __init__(
        self,
        receiver: Receiver,
        outbox: Outbox,
        sender: Sender,
        me: str,
        *,
        silences: Callable[[], Sequence[Silence]] = tuple,
        results: Counter[tuple[str, str]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.receiver = receiver
        self._name = receiver.name
        self._outbox = outbox
        self._sender = sender
        self._me = me
        self._silences = silences
        self._results = Counter() if results is None else results
        self._clock = clock
        self._chance = random.Random().random  # noqa: S311 - jitter
        self._made: deque[float] = deque()  # when messages of the last minute were
        self._digest_at = 0.0
        self._reconciled_at = 0.0
        self._state_at = self._tidied_at = 0.0
        self._folding = False  # whether a digest is being collected
        self._ending = False
        self._due = asyncio.Event()
        self._direct = DirectDelivery(receiver.name)
        self.breaker = Breaker()
        self.disabled = ""
        """Why nothing is sent."""
        self.holds = False
        """Whether this gateway is the one that delivers."""
        self.last_error = ""
        self.line = asyncio.Lock()
        """Held while something is sent."""
        self.ended = False
        """Whether it is done for good, and its lease given back."""

    def nudge(self) -> None:
        """There may be something new."""
        self._due.set()

    def stop(self) -> None:
        """After the attempt that is under way: cut off, it would be made again."""
        self._ending = True
        self._due.set()

    async def run(self) -> None:
        """Until stopped or cancelled; then the lease is another's at once."""
        try:
            while not self._ending:
                self._due.clear()  # what comes from now on is for the next turn
                await self._pause(await self._turn())
        finally:
            await self._leave()

    async def _turn(self) -> float:
        try:
            wait_s = await self.turn()
        except OutboxUnavailable:
            self.holds = False
            return await self.turn_alone()
        except msgspec.DecodeError as error:  # of a newer version
            self.last_error = f"the store holds what cannot be read: {error}"
            return RETRY_S
        self._direct.leave()
        return wait_s

    async def _pause(self, wait_s: float) -> None:
        if wait_s <= 0.0 or self._ending:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._due.wait()
        except TimeoutError:
            pass

    async def _leave(self) -> None:
        try:
            await self._sender.close()
            if self.holds:
                with suppress(OutboxUnavailable):
                    await self._outbox.release(self._name, self._me)
        finally:
            self.ended = True

    async def turn(self) -> float:
        """Do what is to be done; seconds until there may be more (0: there is)."""
        self.holds = await self._outbox.lease(self._name, self._me, LEASE_S)
        if not self.holds:
            return STAND_BY_S
        now = self._clock()
        if is_due(self._state_at, _STATE_S, now):
            self._state_at = now
            self.disabled = await self._read_state()
        await self._fan_out(now)
        await self._fold(now)
        return await self._attempt()

    async def _read_state(self) -> str:
        """A receiver that goes elsewhere now is not the one that was disabled."""
        target, _, why = (await self._outbox.state(self._name)).partition(" ")
        if why and target != self.receiver.target:
            await self._outbox.set_state(self._name, "")
            return ""
        return why

    # -- from events to messages ---------------------------------------------------------

    async def _fan_out(self, now: float) -> None:
        while True:
            counts = await self._outbox.counts(self._name)
            self._folding = counts.folded > 0
            if counts.pending + EVENTS_AT_ONCE > MAX_PENDING:
                return
            events = await self._outbox.events(self._name, EVENTS_AT_ONCE, now)
            if events:
                await self._decide_all(events, now)
            if len(events) < EVENTS_AT_ONCE:
                break
        if is_due(self._reconciled_at, RECONCILE_S, now):
            self._reconciled_at = now
            await self._reconcile(now)
        if is_due(self._tidied_at, TIDY_S, now):
            self._tidied_at = now
            await self._tidy(now)

    async def _tidy(self, now: float) -> None:
        """A client whose block ran out long ago, and nobody said so: its gateway died."""
        told = await self._outbox.all_delivery_states(self._name)
        items = [
            Decision("", about, forget=True)
            for about, known in told.items()
            if _ran_out(known.payload, now - TIDY_S)
        ]
        for start in range(0, len(items), EVENTS_AT_ONCE):
            chunk = items[start : start + EVENTS_AT_ONCE]
            await self._outbox.deliver(self._name, self._me, chunk, now)

    async def _decide_all(self, events: Sequence[LoggedEvent], now: float) -> None:
        about = list(dict.fromkeys(event.about for event in events))
        told = await self._outbox.delivery_states(self._name, about)
        known = dict(zip(about, told, strict=True))
        items = []
        for event in events:
            item = self._decide(event, known[event.about], now)
            if item.forget:
                known[event.about] = None
            elif item.told is not None:
                known[event.about] = item.told
            items.append(item)
        await self._outbox.deliver(self._name, self._me, items, now)

    def _decide(
        self, event: LoggedEvent, told: DeliveryState | None, now: float
    ) -> Decision:
        payload = event.payload()
        if is_over(payload) or payload["type"] == ACKNOWLEDGED:
            return self._follow(event, payload, told, now)
        skip = Decision(event.id)
        if not self.receiver.accepts(payload):
            return skip
        if is_silenced(self._silences(), payload, now):
            self._count("silenced")
            return skip
        if event.opened:
            if payload["type"] == OPENED and told is not None:
                return skip  # found open, and told, before its event came
            if told is None or told.folded:
                payload["type"] = (
                    OPENED if payload["type"] == UPDATED else payload["type"]
                )
        return self._say(event.id, event.about, payload, told, now)

    def _follow(
        self,
        event: LoggedEvent,
        payload: Payload,
        told: DeliveryState | None,
        now: float,
    ) -> Decision:
        """What was begun is ended, and nothing else is."""
        ends = payload["type"] != ACKNOWLEDGED
        if told is None or not self.receiver.accepts_type(payload["type"]):
            return Decision(event.id, event.about, forget=ends and told is not None)
        if told.folded:
            if self._must_fold(told, now):
                fold = self._fold_in(event.id, payload)
                return Decision(event.id, event.about, fold=fold, forget=ends)
            self._made.append(now)
        message = self._message(event.id, event.about, payload, told, now)
        return Decision(event.id, event.about, message, forget=ends)

    def _say(
        self,
        event: str,
        about: str,
        payload: Payload,
        told: DeliveryState | None,
        now: float,
    ) -> Decision:
        message = self._message(event, about, payload, told, now)
        if self._direct.sent_at(message.id):
            return Decision(event, about, message, told=DeliveryState(payload))
        if self._must_fold(told, now):
            keep = told if told is not None and not told.folded else None
            keep = keep or DeliveryState(payload, folded=True, chain=DIGEST)
            fold = self._fold_in(event, payload)
            return Decision(event, about, fold=fold, told=keep)
        self._made.append(now)
        chain = "" if told is None else told.chain
        return Decision(event, about, message, told=DeliveryState(payload, chain=chain))

    def _must_fold(self, told: DeliveryState | None, now: float) -> bool:
        """There is no room for a message, or what it follows is not told before the
        digest that is being collected.
        """
        waits = told is not None and told.folded and self._folding
        return waits or self._is_full(now)

    def _fold_in(self, event: str, payload: Payload) -> dict[str, Any]:
        self._count("folded")
        self._folding = True
        return _folded(event, payload)

    def _message(
        self,
        event: str,
        about: str,
        payload: Payload,
        told: DeliveryState | None,
        now: float,
    ) -> AlertMessage:
        before = None if told is None else told.payload
        id_ = message_id(event_key(event, payload), self._name)
        chain = about if told is None else told.chain or about
        return AlertMessage(id_, chain, payload, now, before, about=about)

    def _is_full(self, now: float) -> bool:
        """Whether it had as many in the last minute as it may."""
        while self._made and is_due(self._made[0], MINUTE_S, now):
            self._made.popleft()
        return len(self._made) >= self.receiver.per_minute

    async def _reconcile(self, now: float) -> None:
        """Tell of open incidents that it was not told of and should have been."""
        found = [one for one in await self._outbox.incidents() if one.state == "open"]
        told = await self._outbox.delivery_states(self._name, [one.id for one in found])
        items = []
        for incident, known in zip(found, told, strict=True):
            if known is not None:
                continue
            payload = incident.public()
            for extra in ("state", "acknowledged", "resolved", "gateways"):
                del payload[extra]
            payload["type"] = OPENED
            if not self.receiver.accepts(payload):
                continue
            if not is_silenced(self._silences(), payload, now):
                event = f"open:{incident.id}:{incident.opened:.3f}"
                said = self._say(event, incident.id, payload, None, now)
                items.append(msgspec.structs.replace(said, event=""))
        if items:
            await self._outbox.deliver(self._name, self._me, items, now)

    async def _fold(self, now: float) -> None:
        """What was too much for a minute, in one message after it."""
        if not is_due(self._digest_at, MINUTE_S, now):
            return
        items = await self._outbox.folded(self._name, DIGEST_ITEMS)
        if not items:
            return
        if not self._digest_at:  # the first of a storm: collect for a minute
            self._digest_at = now
            return
        self._digest_at = now
        payload = _digest(items, now)
        id_ = message_id(items[0]["event"], f"{self._name}\0digest")
        message = AlertMessage(id_, DIGEST, payload, now)
        await self._outbox.digest(self._name, self._me, message, len(items), now)

    # -- delivery ------------------------------------------------------------------------

    async def _attempt(self) -> float:
        due = await self._outbox.due(self._name)
        if due is None:
            return IDLE_S
        now = self._clock()
        if sent_at := self._direct.sent_at(due.message.id):
            await self._finish_sent(due.message, sent_at)
            return 0.0
        if self.disabled:  # or was: another gateway may have enabled it since
            self.disabled = await self._read_state()
        if self.disabled:
            due.message.error = self.disabled
            await self._finish(due.message, "dead", now)
            return 0.0
        if self.breaker.is_open(now):
            return min(IDLE_S, self.breaker.open_until - now)
        if due.at > now:
            return min(IDLE_S, due.at - now)
        await self._settle(due.message, await self._send(due.message, now))
        return 0.0

    async def _send(self, message: AlertMessage, now: float) -> Answer:
        async with self.line:
            return await self._sender.send(message, now)

    async def _settle(self, message: AlertMessage, answer: Answer) -> None:
        now = self._clock()
        message.attempts += 1
        message.last_at, message.error = now, answer.error
        self.last_error = answer.error
        if not answer.error:
            self.breaker.succeeded()
            try:
                await self._finish(message, "sent", now)
            except OutboxUnavailable:
                self._direct.remember(message.id, now)
                raise
            return
        if answer.gone:
            self.disabled = answer.error
            why = f"{self.receiver.target} {answer.error}"
            await self._outbox.set_state(self._name, why)
            await self._finish(message, "dead", now)
            return
        self.breaker.failed(now, answer.retry_after_s)
        again = next_attempt(
            message.attempts,
            now,
            answer.retry_after_s,
            self._chance(),
            self.receiver.retries,
        )
        self._count("failed")
        await self._finish(message, "retry" if again else "dead", now, again or 0.0)

    async def _finish(
        self, message: AlertMessage, outcome: Any, now: float, retry_at: float = 0.0
    ) -> None:
        if outcome != "retry":
            self._count(outcome)
        await self._outbox.finish(self._name, self._me, message, outcome, now, retry_at)

    async def _finish_sent(self, message: AlertMessage, sent_at: float) -> None:
        """It was told, and counted, while the store was away."""
        message.attempts, message.last_at = message.attempts + 1, sent_at
        now = self._clock()
        await self._outbox.finish(self._name, self._me, message, "sent", now)

    # -- without the store ---------------------------------------------------------------

    def offer(self, note: StandaloneEvent, at: float) -> None:
        """A trouble of this gateway that waits for the store; the same any number of
        times.
        """
        now = self._clock()
        if not self._direct.is_new(note, at, now) or self._is_full(now):
            return
        payload = msgspec.json.decode(note.body)
        if is_over(payload):
            wanted = self._direct.has_begun(note) and self.receiver.accepts_type(
                note.type
            )
        else:
            wanted = self.receiver.accepts(payload)
        if wanted and not is_silenced(self._silences(), payload, now):
            self._made.append(now)
            self._direct.add(note, at, now)
            self.nudge()

    async def turn_alone(self) -> float:
        """Send the next of what was offered; seconds until there may be more."""
        now = self._clock()
        if self.disabled or self.breaker.is_open(now):
            return RETRY_S
        due = self._direct.due(now)
        if due is None:
            return RETRY_S
        answer = await self._send(due.message, now)
        now = self._clock()
        self.last_error = answer.error
        if not answer.error:
            self.breaker.succeeded()
            self._count("sent")
            self._direct.sent(now)
            return 0.0
        self._count("failed")
        # The store hears of it once it is back and the receiver says so again.
        self.disabled = answer.error if answer.gone else ""
        self.breaker.failed(now, answer.retry_after_s)
        due.message.attempts += 1
        again = next_attempt(
            due.message.attempts,
            now,
            answer.retry_after_s,
            self._chance(),
            self.receiver.retries,
        )
        due.at = again or now + KEEP_S
        return RETRY_S

    def _count(self, result: str) -> None:
        self._results[self.receiver.type, result] += 1


def _ran_out(payload: Payload, since: float) -> bool:
    if not payload["type"].startswith("client.") or not payload.get("until"):
        return False
    return parse_time(payload["until"]) < since


def _folded(event: str, payload: Payload) -> dict[str, Any]:
    """What a digest says of an alert."""
    subject = payload["subject"]
    return {
        "event": event,
        "type": payload["type"],
        "id": payload["id"],
        "ts": payload["ts"],
        "severity": payload["severity"],
        "class": payload.get("class"),
        "subject": subject,
        "tenant": payload["tenant"],
    }


def _digest(items: Sequence[dict[str, Any]], now: float) -> Payload:
    first, last = items[0], items[-1]
    tenants = {one["tenant"] for one in items}
    tenant = tenants.pop() if len(tenants) == 1 else "*"
    shown = [{k: v for k, v in one.items() if k != "event"} for one in items]
    return {
        "type": DIGEST,
        "id": "dig_" + short_id(f"{first['event']}\0{last['event']}"),
        "ts": format_time(now),
        "severity": SEVERITIES[max(SEVERITIES.index(o["severity"]) for o in items)],
        "tenant": tenant,
        "subject": {"kind": "tenant", "id": tenant},
        "window": {"from": first["ts"], "to": last["ts"]},
        "count": len(items),
        "ids": list(dict.fromkeys(one["id"] for one in items)),
        "items": shown,
    }
