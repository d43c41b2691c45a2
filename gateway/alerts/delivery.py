"""Delivery worker of one receiver: from the event log to messages, sent with retries.

Every gateway has one per receiver. The one whose gateway holds the receiver's lease in
the outbox works; another takes over when that gateway dies. All state is in the outbox.
A receiver gets one attempt at a time, so its messages stay in order.
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
from gateway.alerts.outbox import MAX_PENDING, EventDecision, Outbox, OutboxUnavailable
from gateway.alerts.receivers import Receiver
from gateway.alerts.retry import Breaker, next_attempt
from gateway.alerts.send import Answer, Sender
from gateway.alerts.silences import Silence, is_silenced
from gateway.core.pace import is_due
from gateway.detect.model import format_time, parse_time

# Seconds; longer than any attempt (``send.TIMEOUT_S``). A dead gateway's receivers are
# taken over after this.
LEASE_S = 45.0
# Seconds between attempts to take the lease, between looks at the log without a
# notification, and after an error.
STAND_BY_S = 2.0
IDLE_S = 1.0
RETRY_S = 1.0
EVENTS_AT_ONCE = 100
# Seconds between searches for open incidents that were never sent to the receiver (a
# silence ended, the receiver is new).
RECONCILE_S = 15.0
# Seconds between deletions of delivery states of expired blocks.
TIDY_S = 7_200.0
MINUTE_S = 60.0
DIGEST_ITEMS = 500
_STATE_S = 2.0


class DeliveryWorker:
    """Delivers to one receiver; ``results`` counts by (receiver type, result)."""

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
        self._recent: deque[float] = deque()  # creation times of the last minute
        self._digest_at = 0.0
        self._reconciled_at = 0.0
        self._state_at = self._tidied_at = 0.0
        self._folding = False  # whether a digest is being collected
        self._stopping = False
        self._due = asyncio.Event()
        self._direct = DirectDelivery(receiver.name)
        self.breaker = Breaker()
        self.disabled = ""
        """Why the receiver is disabled; "": it is enabled."""
        self.holds_lease = False
        """Whether this gateway holds the receiver's lease."""
        self.last_error = ""
        self.sending = asyncio.Lock()
        """Held during an attempt."""
        self.ended = False
        """Whether it has stopped and given its lease back."""

    def nudge(self) -> None:
        """Look at the log now."""
        self._due.set()

    def stop(self) -> None:
        """Stop after the current attempt; a cancelled one would be repeated."""
        self._stopping = True
        self._due.set()

    async def run(self) -> None:
        """Deliver until stopped or cancelled; then give the lease back."""
        try:
            while not self._stopping:
                self._due.clear()  # a notification from here on belongs to the next turn
                await self._pause(await self._turn())
        finally:
            await self._end()

    async def _turn(self) -> float:
        try:
            wait_s = await self.turn()
        except OutboxUnavailable:
            self.holds_lease = False
            return await self.turn_alone()
        except msgspec.DecodeError as error:  # written by a newer version
            self.last_error = f"the store holds what cannot be read: {error}"
            return RETRY_S
        self._direct.leave()
        return wait_s

    async def _pause(self, wait_s: float) -> None:
        if wait_s <= 0.0 or self._stopping:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._due.wait()
        except TimeoutError:
            pass

    async def _end(self) -> None:
        try:
            await self._sender.close()
            if self.holds_lease:
                with suppress(OutboxUnavailable):
                    await self._outbox.release(self._name, self._me)
        finally:
            self.ended = True

    async def turn(self) -> float:
        """Decide, fold and make one attempt; return the seconds to wait (0: go on)."""
        self.holds_lease = await self._outbox.lease(self._name, self._me, LEASE_S)
        if not self.holds_lease:
            return STAND_BY_S
        now = self._clock()
        if is_due(self._state_at, _STATE_S, now):
            self._state_at = now
            self.disabled = await self._read_state()
        await self._fan_out(now)
        await self._fold(now)
        return await self._attempt()

    async def _read_state(self) -> str:
        """Why the receiver is disabled; a changed target enables it again."""
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
        """Forget blocks that expired long ago without an end: their gateway died."""
        state = await self._outbox.all_delivery_states(self._name)
        items = [
            EventDecision("", about, forget=True)
            for about, known in state.items()
            if _ran_out(known.payload, now - TIDY_S)
        ]
        for start in range(0, len(items), EVENTS_AT_ONCE):
            chunk = items[start : start + EVENTS_AT_ONCE]
            await self._outbox.deliver(self._name, self._me, chunk, now)

    async def _decide_all(self, events: Sequence[LoggedEvent], now: float) -> None:
        about = list(dict.fromkeys(event.about for event in events))
        state = await self._outbox.delivery_states(self._name, about)
        known = dict(zip(about, state, strict=True))
        items = []
        for event in events:
            item = self._decide(event, known[event.about], now)
            if item.forget:
                known[event.about] = None
            elif item.state is not None:
                known[event.about] = item.state
            items.append(item)
        await self._outbox.deliver(self._name, self._me, items, now)

    def _decide(
        self, event: LoggedEvent, state: DeliveryState | None, now: float
    ) -> EventDecision:
        payload = event.payload()
        if is_over(payload) or payload["type"] == ACKNOWLEDGED:
            return self._follow(event, payload, state, now)
        skip = EventDecision(event.id)
        if not self.receiver.accepts(payload):
            return skip
        if is_silenced(self._silences(), payload, now):
            self._count("silenced")
            return skip
        if event.opened:
            if payload["type"] == OPENED and state is not None:
                return skip  # ``_reconcile`` sent it before its event was read
            if state is None or state.folded:
                payload["type"] = (
                    OPENED if payload["type"] == UPDATED else payload["type"]
                )
        return self._send_or_fold(event.id, event.about, payload, state, now)

    def _follow(
        self,
        event: LoggedEvent,
        payload: Payload,
        state: DeliveryState | None,
        now: float,
    ) -> EventDecision:
        """Send an end or acknowledgement only if the beginning was sent."""
        ends = payload["type"] != ACKNOWLEDGED
        if state is None or not self.receiver.accepts_type(payload["type"]):
            return EventDecision(
                event.id, event.about, forget=ends and state is not None
            )
        if state.folded:
            if self._must_fold(state, now):
                fold = self._fold_in(event.id, payload)
                return EventDecision(event.id, event.about, fold=fold, forget=ends)
            self._recent.append(now)
        message = self._message(event.id, event.about, payload, state, now)
        return EventDecision(event.id, event.about, message, forget=ends)

    def _send_or_fold(
        self,
        event: str,
        about: str,
        payload: Payload,
        state: DeliveryState | None,
        now: float,
    ) -> EventDecision:
        message = self._message(event, about, payload, state, now)
        if self._direct.sent_at(message.id):
            return EventDecision(event, about, message, state=DeliveryState(payload))
        if self._must_fold(state, now):
            keep = state if state is not None and not state.folded else None
            keep = keep or DeliveryState(payload, folded=True, chain=DIGEST)
            fold = self._fold_in(event, payload)
            return EventDecision(event, about, fold=fold, state=keep)
        self._recent.append(now)
        chain = "" if state is None else state.chain
        return EventDecision(
            event, about, message, state=DeliveryState(payload, chain=chain)
        )

    def _must_fold(self, state: DeliveryState | None, now: float) -> bool:
        """Whether the event goes into a digest: the rate limit is reached, or the event
        it follows waits in the digest that is being collected.
        """
        waits = state is not None and state.folded and self._folding
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
        state: DeliveryState | None,
        now: float,
    ) -> AlertMessage:
        before = None if state is None else state.payload
        id_ = message_id(event_key(event, payload), self._name)
        chain = about if state is None else state.chain or about
        return AlertMessage(id_, chain, payload, now, before, about=about)

    def _is_full(self, now: float) -> bool:
        """Whether the last minute had ``per_minute`` messages already."""
        while self._recent and is_due(self._recent[0], MINUTE_S, now):
            self._recent.popleft()
        return len(self._recent) >= self.receiver.per_minute

    async def _reconcile(self, now: float) -> None:
        """Send open incidents that should have been sent and were not."""
        found = [one for one in await self._outbox.incidents() if one.state == "open"]
        state = await self._outbox.delivery_states(
            self._name, [one.id for one in found]
        )
        items = []
        for incident, known in zip(found, state, strict=True):
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
                item = self._send_or_fold(event, incident.id, payload, None, now)
                items.append(msgspec.structs.replace(item, event=""))
        if items:
            await self._outbox.deliver(self._name, self._me, items, now)

    async def _fold(self, now: float) -> None:
        """Send what exceeded the rate limit as one digest, once a minute."""
        if not is_due(self._digest_at, MINUTE_S, now):
            return
        items = await self._outbox.folded(self._name, DIGEST_ITEMS)
        if not items:
            return
        if not self._digest_at:  # the first digest of a burst: collect for a minute
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
        if self.disabled:  # another gateway may have enabled it since
            self.disabled = await self._read_state()
        if self.disabled:
            due.message.error = self.disabled
            await self._finish(due.message, "dead", now)
            return 0.0
        if self.breaker.is_open(now):
            return min(IDLE_S, self.breaker.open_until - now)
        if due.at > now:
            return min(IDLE_S, due.at - now)
        await self._record(due.message, await self._send(due.message, now))
        return 0.0

    async def _send(self, message: AlertMessage, now: float) -> Answer:
        async with self.sending:
            return await self._sender.send(message, now)

    async def _record(self, message: AlertMessage, answer: Answer) -> None:
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
        """Record a message that was sent and counted while the store was unavailable."""
        message.attempts, message.last_at = message.attempts + 1, sent_at
        now = self._clock()
        await self._outbox.finish(self._name, self._me, message, "sent", now)

    # -- without the store ---------------------------------------------------------------

    def offer(self, note: StandaloneEvent, at: float) -> None:
        """Send an event about this gateway without the store; idempotent."""
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
            self._recent.append(now)
            self._direct.add(note, at, now)
            self.nudge()

    async def turn_alone(self) -> float:
        """Send the next offered event; return the seconds to wait."""
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
        # Stored later, when the receiver answers 410 again with the store back.
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
    """The digest's entry of an alert."""
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
