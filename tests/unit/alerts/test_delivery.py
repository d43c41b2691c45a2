"""One courier: what a receiver is told of, folded, spared, and in which order."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.alerts.delivery import TIDY_S, DeliveryWorker
from gateway.alerts.direct import KEEP_S, MAX_SENT, MAX_WAITING
from gateway.alerts.memory_outbox import MemoryOutbox
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
    """Takes messages, or answers as it is told to."""

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
        """Nothing is open."""

    def kinds(self) -> list[tuple[str, str]]:
        return [(one.payload["type"], one.payload["id"]) for one in self.sent]


@pytest.fixture(name="wire")
def _wire():
    return Wire()


@pytest.fixture(name="outbox")
def _outbox():
    return MemoryOutbox()


def delivery_worker(outbox, wire, **receiver) -> DeliveryWorker:
    who = Receiver("r", "webhook", "https://x", **receiver)
    return DeliveryWorker(who, outbox, wire, "me", clock=lambda: wire.now)


async def tell(outbox, wire, *outputs) -> None:
    for output in outputs:
        await outbox.report(report_of(output, "gw"), wire.now)


async def work(one: DeliveryWorker) -> None:
    while await one.turn() == 0.0:
        pass


async def test_a_rise_over_the_least_severity_is_an_opening(outbox, wire):
    """Whoever was not told of an incident hears first that it opened, and its end."""
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


async def test_a_storm_is_folded_into_a_digest_that_lists_it(outbox, wire):
    """A few by themselves, the rest by id after a minute; ends are never folded."""
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


async def test_a_failed_message_is_tried_until_it_is_dead(outbox, wire):
    """By the schedule; its own later ones wait, others do not."""
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


async def test_a_gone_receiver_gets_nothing_more(outbox, wire):
    """Until it is sent to elsewhere."""
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


async def test_what_is_open_is_told_to_a_receiver_that_is_new(outbox, wire):
    """Though its event is long past."""
    await tell(outbox, wire, said(0), said(1))
    await tell(outbox, wire, said(1, "incident.resolved"))
    wire.now += 3600
    await work(delivery_worker(outbox, wire))
    assert wire.kinds() == [("incident.opened", "inc_0")]


async def test_what_a_digest_opened_ends_behind_it(outbox, wire):
    """A receiver never hears of an end first: neither while the digest is collected
    nor while it is not delivered.
    """
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


async def test_ends_of_what_was_folded_are_folded_as_well(outbox, wire):
    """A storm that is over all at once is no second storm."""
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


async def test_clients_whose_block_ran_out_long_ago_are_forgotten(outbox, wire):
    """Nobody says any more that it is over: the gateway that would is gone."""
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


async def test_a_clock_that_is_set_back_holds_nothing_up(outbox, wire):
    """Neither the limit a minute, nor the breaker, nor what comes now and then."""
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


async def test_what_was_resent_is_not_buried_by_one_who_does_not_know_yet(outbox, wire):
    """Another gateway enabled the receiver; whoever delivers looks before it gives up."""
    one = delivery_worker(outbox, wire)
    wire.answers = [Answer("answered 410", gone=True)]
    await tell(outbox, wire, said(0), said(1))
    await work(one)
    assert await outbox.resend("r", [], wire.now) == 2
    assert await outbox.state("r") == ""
    await work(one)
    assert len(wire.sent) == 2


class Forgetful(MemoryOutbox):
    """Goes away when an attempt is to be noted."""

    away = False

    async def finish(self, *args, **kwargs):
        if self.away:
            raise OutboxUnavailable
        return await super().finish(*args, **kwargs)


async def test_what_was_told_is_not_told_again_when_the_store_could_not_be(wire):
    """The courier remembers for it, as long as it lives."""
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
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def send(self, message: AlertMessage, now: float) -> Answer:
        self.asked.set()
        await self.let.wait()
        return await super().send(message, now)


async def test_a_courier_that_is_stopped_ends_its_attempt(outbox):
    """So a reload tells nobody twice; the lease is free only then."""
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


class Newer(MemoryOutbox):
    """Holds what this version cannot read."""

    async def due(self, receiver):
        return msgspec.json.decode(b"{}", type=AlertMessage)


async def test_a_message_of_another_version_ends_no_courier(wire):
    """It says so, and waits for who can read it."""
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


async def test_what_was_told_past_the_store_is_not_told_again_from_it(outbox, wire):
    """Offered as often as one likes; the store's copy has the same id and is noted."""
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


async def test_another_gateway_that_delivers_it_says_it_under_the_same_id(outbox, wire):
    """It cannot know; whoever receives it can."""
    sender, other = delivery_worker(outbox, wire), delivery_worker(outbox, wire)
    sender.offer(down(), NOW)
    await alone(sender)
    await outbox.log_event(down(), wire.now)
    await work(other)
    first, second = wire.sent
    assert first.id == second.id
    assert first.payload == second.payload


async def test_an_end_is_told_past_the_store_only_after_its_beginning(outbox, wire):
    """In order, though the store saw neither."""
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


async def test_troubles_past_the_store_are_few_fresh_and_wanted(outbox, wire):
    """A minute's share of alerts, none of long ago, none that is not heard."""
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


async def test_a_failure_past_the_store_is_tried_again_and_410_is_the_end(outbox, wire):
    """By the receiver's schedule; what is too old by then is left for the store."""
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


async def test_past_the_store_too_only_public_addresses_are_reached(outbox):
    """The same sender makes the socket."""
    who = Receiver("r", "webhook", "http://127.0.0.1:9/", ("whsec_a2V5",))
    sender = open_sender(who)
    one = DeliveryWorker(who, outbox, sender, "me", clock=lambda: NOW)
    one.offer(down(), NOW)
    await one.turn_alone()
    await sender.close()
    assert "is private" in one.last_error
