"""One delivery worker: what a receiver is sent, what is folded or dropped, in order."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.alerts.delivery import TIDY_S, DeliveryWorker
from gateway.alerts.direct import KEEP_S, MAX_SENT, MAX_WAITING
from gateway.alerts.model import (
    AlertMessage,
    StandaloneEvent,
    client_event_of,
    gateway_event,
    report_of,
)
from gateway.alerts.outbox import OutboxUnavailable
from gateway.alerts.receivers import Receiver, open_sender
from gateway.alerts.send import Answer
from gateway.alerts.sqlite_outbox import SqliteOutbox
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time

NOW = 1_767_600_000.0


def said(n=0, kind="incident.opened", **changes) -> Output:
    line = Output(
        type=kind, id=f"inc_{n}", ts=format_time(NOW), severity="warning",
        cls="cost_spike", score=4.5, subject=Ref("user", f"key_{n}"), tenant="acme",
        action="tag", until=None, window=EvidenceWindow(format_time(NOW), format_time(NOW)),
        observed={}, expected={}, reasons=("It costs.",),
    )  # fmt: skip
    return msgspec.structs.replace(line, **changes)


class Wire:
    """A sender that accepts messages, or returns scripted results."""

    def __init__(self) -> None:
        self.now = NOW
        self.answers: list[Answer] = []
        self.sent: list[AlertMessage] = []

    async def send(self, message: AlertMessage, now: float) -> Answer:
        answer = self.answers.pop(0) if self.answers else Answer()
        if not answer.error:
            self.sent.append(message)
        return answer

    async def close(self) -> None:
        """No-op: no connection is open."""

    def kinds(self) -> list[tuple[str, str]]:
        return [(one.payload["type"], one.payload["id"]) for one in self.sent]


@pytest.fixture(name="wire")
def _wire():
    return Wire()


@pytest.fixture(name="outbox")
def _outbox():
    return SqliteOutbox()


def delivery_worker(outbox, wire, **receiver) -> DeliveryWorker:
    who = Receiver("r", "webhook", "https://x", **receiver)
    return DeliveryWorker(who, outbox, wire, "me", clock=lambda: wire.now)


async def tell(outbox, wire, *outputs) -> None:
    for output in outputs:
        await outbox.report(report_of(output, "gw"), wire.now)


async def work(one: DeliveryWorker) -> None:
    while await one.turn() == 0.0:
        pass


async def test_an_update_above_min_severity_is_sent_as_an_opening(outbox, wire):
    """The first message of an incident is always an opening; its end follows."""
    one = delivery_worker(outbox, wire, min_severity="critical")
    await tell(outbox, wire, said(), said(1))
    await work(one)
    assert wire.sent == []
    worse = said(kind="incident.updated", severity="critical")
    await tell(outbox, wire, worse, said(kind="incident.resolved"))
    await tell(outbox, wire, said(1, "incident.resolved"))
    await work(one)
    assert wire.kinds() == [
        ("incident.opened", "inc_0"),
        ("incident.resolved", "inc_0"),
    ]


async def test_a_burst_is_folded_into_a_digest(outbox, wire):
    """Alerts above the rate limit are listed in one digest after a minute; ends are sent."""
    one = delivery_worker(outbox, wire, per_minute=2)
    await tell(outbox, wire, *(said(n) for n in range(5)))
    await tell(outbox, wire, said(0, "incident.resolved"))
    await work(one)
    assert [kind for kind, _ in wire.kinds()] == [
        "incident.opened", "incident.resolved", "incident.opened",
    ]  # fmt: skip
    wire.now += 61
    await work(one)
    digest = wire.sent[-1].payload
    assert (digest["type"], digest["ids"]) == ("digest", ["inc_2", "inc_3", "inc_4"])
    await tell(outbox, wire, said(3, "incident.resolved"))
    await work(one)
    assert wire.kinds()[-1] == ("incident.resolved", "inc_3")


async def test_a_failed_message_is_retried_until_it_is_dead(outbox, wire):
    """A failed message is retried on schedule; later messages of its chain wait, other
    chains do not.
    """
    one = delivery_worker(outbox, wire, retries=(5.0,))
    wire.answers = [Answer("answered 500"), Answer(), Answer("answered 500")]
    await tell(outbox, wire, said(0), said(1), said(0, "incident.resolved"))
    await work(one)
    assert wire.kinds() == [("incident.opened", "inc_1")]
    wire.now += 6
    await work(one)
    assert wire.kinds()[1:] == [("incident.resolved", "inc_0")]
    (letter,) = await outbox.listed("r", "dead", 9)
    assert (letter.attempts, letter.error) == (2, "answered 500")


async def test_a_receiver_that_answers_410_is_disabled(outbox, wire):
    """A receiver that answers 410 gets nothing until its target changes."""
    one = delivery_worker(outbox, wire)
    wire.answers = [Answer("answered 410", gone=True)]
    await tell(outbox, wire, said(0), said(1))
    await work(one)
    assert (wire.sent, (await outbox.counts("r")).dead) == ([], 2)
    other = Receiver("r", "webhook", "https://y")
    moved = DeliveryWorker(other, outbox, wire, "me", clock=lambda: wire.now)
    await tell(outbox, wire, said(2))
    await work(moved)
    assert wire.kinds() == [("incident.opened", "inc_2")]


async def test_open_incidents_are_sent_to_a_new_receiver(outbox, wire):
    """Open incidents are sent to a new receiver although their events are older than
    LOOK_BACK_S.
    """
    await tell(outbox, wire, said(0), said(1))
    await tell(outbox, wire, said(1, "incident.resolved"))
    wire.now += 3600
    await work(delivery_worker(outbox, wire))
    assert wire.kinds() == [("incident.opened", "inc_0")]


async def test_an_end_is_sent_behind_the_digest_with_its_beginning(outbox, wire):
    """The end waits while the digest is collected, and until it is delivered."""
    one = delivery_worker(outbox, wire, per_minute=1)
    await tell(outbox, wire, *(said(n) for n in range(3)))
    await work(one)
    wire.now += 59
    await tell(outbox, wire, said(1, "incident.resolved"))
    await work(one)
    wire.now += 2
    wire.answers = [Answer("answered 500")]
    await work(one)
    await tell(outbox, wire, said(2, "incident.resolved"))
    await work(one)
    assert wire.kinds() == [("incident.opened", "inc_0")]
    wire.now += 10
    await work(one)
    digest, end = wire.sent[1:]
    listed = [(each["type"], each["id"]) for each in digest.payload["items"]]
    assert listed == [
        ("incident.opened", "inc_1"),
        ("incident.opened", "inc_2"),
        ("incident.resolved", "inc_1"),
    ]
    assert (end.payload["type"], end.topic) == ("incident.resolved", "inc_2")


async def test_ends_of_folded_alerts_are_folded_as_well(outbox, wire):
    """A burst that ends all at once causes no second burst of messages."""
    one = delivery_worker(outbox, wire, per_minute=2)
    await tell(outbox, wire, *(said(n) for n in range(9)))
    await work(one)
    for _ in range(2):
        wire.now += 61
        await work(one)
    wire.sent.clear()
    await tell(outbox, wire, *(said(n, "incident.resolved") for n in range(2, 9)))
    await work(one)
    kinds = sorted(kind for kind, _ in wire.kinds())
    assert kinds == ["digest", "incident.resolved", "incident.resolved"]


async def test_delivery_states_of_long_expired_blocks_are_deleted(outbox, wire):
    """The delivery state of a long expired block is deleted, because the gateway that
    would report its end is gone.
    """
    one = delivery_worker(outbox, wire, events=("client.*",))
    for n, lasts_s in enumerate((60, 86_400)):
        until = format_time(NOW + lasts_s)
        line = said(n, "client.blocked", action="block", until=until)
        await outbox.log_event(client_event_of(line, "gw"), NOW)
    await work(one)
    assert len(await outbox.all_delivery_states("r")) == len(wire.sent) == 2
    wire.now += 2 * TIDY_S
    await work(one)
    (left,) = (await outbox.all_delivery_states("r")).values()
    assert left.payload["id"] == "inc_1"


async def test_a_clock_that_is_set_back_delays_nothing(outbox, wire):
    """After the clock is set back, rate limit, breaker and periodic work continue."""
    one = delivery_worker(outbox, wire, per_minute=3, retries=(1.0,) * 9)
    wire.answers = [Answer("answered 500")] * 3
    await tell(outbox, wire, *(said(n) for n in range(4)))
    await work(one)
    wire.now -= 86_400
    await tell(outbox, wire, said(5))
    await work(one)
    assert ("incident.opened", "inc_5") in wire.kinds()
    await tell(outbox, wire, said(5, "incident.resolved"))
    await work(one)
    assert wire.kinds()[-1] == ("incident.resolved", "inc_5")


async def test_a_resent_message_is_not_buried_by_a_stale_disabled_state(outbox, wire):
    """The worker reads the state again before it gives up on a message."""
    one = delivery_worker(outbox, wire)
    wire.answers = [Answer("answered 410", gone=True)]
    await tell(outbox, wire, said(0), said(1))
    await work(one)
    assert await outbox.resend("r", [], wire.now) == 2
    assert await outbox.state("r") == ""
    await work(one)
    assert len(wire.sent) == 2


class Forgetful(SqliteOutbox):
    """An outbox that fails to record attempts while ``away``."""

    away = False

    async def finish(self, *args, **kwargs):
        if self.away:
            raise OutboxUnavailable
        return await super().finish(*args, **kwargs)


async def test_a_sent_message_is_not_repeated_when_it_could_not_be_recorded(wire):
    """The worker remembers its id and records it later."""
    outbox = Forgetful()
    one = delivery_worker(outbox, wire)
    await tell(outbox, wire, said(0))
    outbox.away = True
    with pytest.raises(OutboxUnavailable):
        await work(one)
    outbox.away = False
    await work(one)
    assert len(wire.sent) == 1
    assert (await outbox.counts("r")).pending == 0


class Slow(Wire):
    """A sender that answers when ``let`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def send(self, message: AlertMessage, now: float) -> Answer:
        self.asked.set()
        await self.let.wait()
        return await super().send(message, now)


async def test_a_stopped_worker_completes_its_attempt(outbox):
    """A reload repeats no message; the lease is given back after the attempt."""
    wire = Slow()
    one = delivery_worker(outbox, wire)
    await tell(outbox, wire, said(0))
    async with asyncio.TaskGroup() as group:
        group.create_task(one.run())
        await wire.asked.wait()
        one.stop()
        await asyncio.sleep(0)
        assert not one.ended
        wire.let.set()
    assert one.ended
    assert (await outbox.counts("r")).pending == 0


class Newer(SqliteOutbox):
    """An outbox with a message that this version cannot read."""

    async def due(self, receiver):
        return msgspec.json.decode(b"{}", type=AlertMessage)


async def test_a_message_of_another_version_does_not_end_the_worker(wire):
    """A message of another version is shown as an error, and the worker continues."""
    one = delivery_worker(Newer(), wire)
    task = asyncio.get_running_loop().create_task(one.run())
    while not one.last_error:  # noqa: ASYNC110 - nobody signals it
        await asyncio.sleep(0)
    assert "cannot be read" in one.last_error
    one.stop()
    await task


# -- without the store -----------------------------------------------------------------------


def down(n=0.0, kind="gateway.degraded") -> StandaloneEvent:
    return gateway_event(kind, "gw", "no answer", NOW + n)


async def alone(one: DeliveryWorker) -> None:
    while await one.turn_alone() == 0.0:
        pass


async def test_an_event_sent_without_the_store_is_not_sent_again_from_it(outbox, wire):
    """Offering is idempotent; the stored copy has the same id and counts as sent."""
    one = delivery_worker(outbox, wire)
    for _ in range(3):
        one.offer(down(), NOW)
        await alone(one)
    (first,) = wire.sent
    await outbox.log_event(down(), wire.now)
    await work(one)
    assert len(wire.sent) == 1
    (listed,) = await outbox.listed("r", "sent", 9)
    assert listed.id == first.id
    await outbox.log_event(down(9.0, "gateway.recovered"), wire.now)
    await work(one)
    assert [kind for kind, _ in wire.kinds()] == [
        "gateway.degraded",
        "gateway.recovered",
    ]


async def test_another_gateway_delivers_the_stored_copy_under_the_same_id(outbox, wire):
    """Another gateway sends the stored copy as a duplicate, which the receiver
    recognises by its id.
    """
    sender, other = delivery_worker(outbox, wire), delivery_worker(outbox, wire)
    sender.offer(down(), NOW)
    await alone(sender)
    await outbox.log_event(down(), wire.now)
    await work(other)
    first, second = wire.sent
    assert first.id == second.id
    assert first.payload == second.payload


async def test_without_the_store_an_end_is_sent_only_after_its_beginning(outbox, wire):
    """The order holds although neither is in the store."""
    one = delivery_worker(outbox, wire)
    one.offer(down(0.0, "gateway.recovered"), NOW)
    await alone(one)
    assert wire.sent == []
    for n, kind in enumerate(("degraded", "recovered", "degraded")):
        one.offer(down(float(n), f"gateway.{kind}"), NOW + n)
    await alone(one)
    assert [kind.partition(".")[2] for kind, _ in wire.kinds()] == [
        "degraded",
        "recovered",
        "degraded",
    ]


async def test_events_sent_without_the_store_are_limited(outbox, wire):
    """The rate limit holds; old events and unwanted types are not sent."""
    one = delivery_worker(outbox, wire, per_minute=3)
    for n in range(MAX_WAITING + MAX_SENT):
        one.offer(down(float(n)), NOW + n)
    await alone(one)
    assert len(wire.sent) == 3
    late = delivery_worker(outbox, wire)
    late.offer(down(-KEEP_S), NOW - KEEP_S)
    deaf = delivery_worker(outbox, wire, events=("incident.opened",))
    deaf.offer(down(), NOW)
    for each in (late, deaf):
        await alone(each)
    assert len(wire.sent) == 3


async def test_without_the_store_failures_are_retried_and_410_disables(outbox, wire):
    """Retries follow the receiver's schedule; events that get too old are dropped."""
    one = delivery_worker(outbox, wire, retries=(5.0,))
    wire.answers = [Answer("answered 500"), Answer("answered 410", gone=True)]
    one.offer(down(), NOW)
    await alone(one)
    await alone(one)
    assert (len(wire.answers), wire.sent) == (1, [])
    wire.now += 6.0
    await alone(one)
    assert (one.disabled, wire.answers) == ("answered 410", [])
    wire.now += KEEP_S
    one.disabled = ""
    await alone(one)
    assert wire.sent == []


async def test_without_the_store_too_only_public_addresses_are_reached(outbox):
    """The address check is the sender's and applies to both ways."""
    who = Receiver("r", "webhook", "http://127.0.0.1:9/", ("whsec_a2V5",))
    sender = open_sender(who)
    one = DeliveryWorker(who, outbox, sender, "me", clock=lambda: NOW)
    one.offer(down(), NOW)
    await one.turn_alone()
    await sender.close()
    assert "is private" in one.last_error
