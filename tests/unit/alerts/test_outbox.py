"""The contract of every outbox, run against SQLite and a real server."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.alerts import outbox as limits
from gateway.alerts.model import AlertMessage, DeliveryState, client_event_of, report_of
from gateway.alerts.outbox import EventDecision
from gateway.alerts.redis_outbox import RedisOutbox
from gateway.alerts.sqlite_outbox import SqliteOutbox
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time
from tests.engines import engine_binaries, running_engine

NOW = 1_767_600_000.0
ENGINES = engine_binaries()
_prefixes = itertools.count()


def said(id_="inc_a", kind="incident.opened", **changes) -> Output:
    """An output of a detector."""
    moment = format_time(NOW)
    line = Output(
        type=kind, id=id_, ts=moment, severity="warning", cls="cost_spike", score=4.5,
        subject=Ref("user", "key_1"), tenant="acme", action="tag", until=None,
        window=EvidenceWindow(moment, moment), observed={"tokens_1m": 9e4}, expected={},
        reasons=("It costs.",), subjects=(Ref("user", "key_1"),),
    )  # fmt: skip
    return msgspec.structs.replace(line, **changes)


@pytest.fixture(name="engine", scope="module")
def _engine():
    if not ENGINES:
        pytest.skip("there is no engine on this machine")
    with running_engine(next(iter(ENGINES.values()))) as engine:
        yield engine


@pytest.fixture(name="outbox", params=["sqlite", "redis"])
async def _outbox(request, tmp_path):
    if request.param == "sqlite":
        outbox = SqliteOutbox(str(tmp_path / "alerts"))
        yield outbox
        await outbox.close()
        return
    engine = request.getfixturevalue("engine")
    client = Redis(unix_socket_path=engine.socket_path)
    yield RedisOutbox(client, f"t{next(_prefixes)}:")
    await client.aclose()


async def tell(outbox, gateway="gw1", now=NOW, **changes) -> str:
    return await outbox.report(report_of(said(**changes), gateway), now)


async def logged(outbox, receiver="r") -> list[tuple[str, str]]:
    found = await outbox.events(receiver, 1000, NOW)
    return [(one.type, one.about) for one in found]


async def test_one_cause_seen_by_three_gateways_is_one_incident(outbox):
    """An incident is opened once, under the first id; later reports join it."""
    ids = [await tell(outbox, f"gw{n}", id_=f"inc_{n}") for n in (1, 2, 3)]
    assert ids == ["inc_1"] * 3
    assert await logged(outbox) == [("incident.opened", "inc_1")]
    (one,) = await outbox.incidents()
    assert one.gateways == ("gw1", "gw2", "gw3")
    assert one.aliases == ("inc_1", "inc_2", "inc_3")


async def test_an_incident_is_resolved_when_every_gateway_reported_its_end(outbox):
    """The last report of its end resolves it, once."""
    for n in (1, 2):
        await tell(outbox, f"gw{n}", id_=f"inc_{n}")
    for n in (2, 1, 1):
        await tell(outbox, f"gw{n}", id_=f"inc_{n}", kind="incident.resolved")
    assert (await logged(outbox))[1:] == [("incident.resolved", "inc_1")]
    (one,) = await outbox.incidents()
    assert (one.state, one.gateways) == ("resolved", ())


async def test_only_a_rise_above_all_reports_is_an_update(outbox):
    """A second gateway that reaches the known severity causes no event."""
    await tell(outbox, "gw1", id_="inc_1", severity="critical")
    await tell(outbox, "gw2", id_="inc_2")
    await tell(outbox, "gw2", kind="incident.updated", id_="inc_2", severity="critical")
    await tell(outbox, "gw2", kind="incident.updated", id_="inc_2", action="block")
    assert await logged(outbox) == [
        ("incident.opened", "inc_1"),
        ("incident.updated", "inc_1"),
    ]
    (one,) = await outbox.incidents()
    assert (one.severity, one.action) == (2, 3)


async def test_crowds_of_a_tenant_are_one_cause_and_subjects_of_others_are_not(outbox):
    """Crowds of a tenant share a cause, and so do reports of one subject; a single source and a
    flood of others do not.
    """
    ids = [
        await tell(outbox, "gw1", id_="inc_0", cls="scraping"),
        await tell(
            outbox, "gw1", id_="inc_1", cls="probing", subject=Ref("tenant", "acme"),
            subjects=(),
        ),
        await tell(
            outbox, "gw2", id_="inc_2", cls="ddos", subject=Ref("tenant", "acme"),
            subjects=(),
        ),
        await tell(
            outbox, "gw2", id_="inc_3", subject=Ref("user", "key_2"), subjects=()
        ),
        await tell(outbox, "gw3", id_="inc_4", tenant="beta"),
    ]  # fmt: skip
    assert ids == ["inc_0", "inc_1", "inc_1", "inc_3", "inc_4"]


async def test_a_crowd_joins_a_single_source_of_its_class_only_of_another_gateway(
    outbox,
):
    """A gateway that reported both keeps them apart; another may see one source of a crowd."""
    crowd = {"cls": "scraping", "subject": Ref("tenant", "acme"), "subjects": ()}
    ids = [
        await tell(outbox, "gw1", id_="inc_1", cls="scraping"),
        await tell(outbox, "gw1", id_="inc_2", **crowd),
        await tell(outbox, "gw1", id_="inc_2", **crowd, kind="incident.updated"),
    ]
    assert ids == ["inc_1", "inc_2", "inc_2"]
    crowd |= {"tenant": "beta", "subject": Ref("tenant", "beta")}
    ids = [
        await tell(outbox, "gw1", id_="inc_3", cls="scraping", tenant="beta"),
        await tell(outbox, "gw2", id_="inc_4", **crowd),
    ]
    assert ids == ["inc_3", "inc_3"]


async def test_a_new_attack_after_the_end_is_a_new_incident(outbox):
    """A resolved incident is not reopened under another id."""
    await tell(outbox, id_="inc_1")
    await tell(outbox, id_="inc_1", kind="incident.resolved")
    assert await tell(outbox, "gw2", id_="inc_2") == "inc_2"


async def test_a_restarted_gateway_joins_its_incident(outbox):
    """The new id of a restarted gateway's incident becomes an alias, and the end of the
    old id does not end the incident.
    """
    await tell(outbox, id_="inc_1")
    assert await tell(outbox, id_="inc_9") == "inc_1"
    await tell(outbox, id_="inc_1", kind="incident.resolved")
    assert (await outbox.incidents())[0].state == "open"
    await tell(outbox, id_="inc_9", kind="incident.resolved")
    assert (await outbox.incidents())[0].state == "resolved"


async def test_a_gateway_that_never_comes_back_does_not_hold_it_open(outbox):
    """An incident ends when no gateway reported it for an hour."""
    await tell(outbox, id_="inc_1")
    await outbox.beat("gw1", ["inc_1"], NOW + 600)
    assert await outbox.sweep(NOW + limits.STALE_S + 1) == 0
    assert await outbox.sweep(NOW + limits.STALE_S + 601) == 1
    assert (await logged(outbox))[-1] == ("incident.resolved", "inc_1")


async def test_an_operator_acknowledges_once_and_resolves(outbox):
    """After an operator resolved it, reports of the detector do not reopen it."""
    await tell(outbox, id_="inc_1")
    assert await outbox.acknowledge("inc_1", "ann", NOW + 1)
    assert await outbox.acknowledge("inc_1", "bob", NOW + 2)
    assert await outbox.resolve("inc_1", "ann", NOW + 3)
    assert not await outbox.resolve("inc_1", "ann", NOW + 4)
    assert not await outbox.acknowledge("inc_x", "ann", NOW)
    await tell(outbox, kind="incident.updated", id_="inc_1", severity="critical")
    kinds = [kind for kind, _ in await logged(outbox)]
    assert kinds[1:] == ["incident.acknowledged", "incident.resolved"]
    (one,) = await outbox.incidents()
    assert (one.acknowledged_by, one.resolved_by) == ("ann", "ann")


async def test_a_client_blocked_by_several_gateways_is_logged_once(outbox):
    """The block and the unblocking of a client by several gateways are logged once,
    with the shared incident id.
    """
    await tell(outbox, "gw1", id_="inc_1")
    await tell(outbox, "gw2", id_="inc_2")
    until = format_time(NOW + 600)
    line = said("inc_2", "client.blocked", until=until, action="block")
    assert await outbox.log_event(client_event_of(line, "gw2"), NOW)
    assert not await outbox.log_event(client_event_of(line, "gw1"), NOW + 1)
    over = msgspec.structs.replace(line, type="client.unblocked", until=None)
    assert await outbox.log_event(client_event_of(over, "gw1"), NOW + 9)
    assert not await outbox.log_event(client_event_of(over, "gw2"), NOW + 9)
    assert await outbox.log_event(client_event_of(line, "gw1"), NOW + 10)
    blocked = (await outbox.events("r", 9, NOW))[1]
    assert blocked.payload()["id"] == "inc_1"


async def test_the_end_of_an_expired_block_is_logged(outbox):
    """The end of an expired block is logged once, and only within an hour after the
    expiry.
    """
    line = said("inc_1", "client.blocked", until=format_time(NOW + 600))
    over = msgspec.structs.replace(line, type="client.unblocked", until=None)
    for gateway in ("gw1", "gw2"):
        await outbox.log_event(client_event_of(line, gateway), NOW)
    told = [
        await outbox.log_event(client_event_of(over, f"gw{n}"), NOW + 600 + n)
        for n in (1, 2)
    ]
    assert told == [True, False]
    assert await outbox.log_event(client_event_of(line, "gw1"), NOW)
    assert not await outbox.log_event(
        client_event_of(over, "gw1"), NOW + 600 + limits.KNOWN_S
    )


async def test_a_block_after_an_expired_one_is_logged(outbox):
    """A block is logged although the end of an earlier one was not."""
    first = said("inc_1", "client.blocked", until=format_time(NOW + 600))
    again = said("inc_1", "client.blocked", until=format_time(NOW + 1_300))
    assert await outbox.log_event(client_event_of(first, "gw1"), NOW)
    assert await outbox.log_event(client_event_of(again, "gw1"), NOW + 700)
    assert not await outbox.log_event(client_event_of(again, "gw2"), NOW + 701)


async def test_open_incidents_are_bounded(outbox, monkeypatch):
    """Reports beyond the bound are dropped and counted."""
    monkeypatch.setattr(limits, "MAX_OPEN", 1)
    monkeypatch.setattr(limits, "MAX_ENDED", 1)
    await tell(outbox, id_="inc_1")
    assert await tell(outbox, id_="inc_2", tenant="b") == ""
    assert await outbox.lost_counts() == {"incidents": 1}
    await tell(outbox, id_="inc_1", kind="incident.resolved")
    assert await tell(outbox, id_="inc_2", tenant="b") == "inc_2"
    await tell(outbox, id_="inc_2", tenant="b", kind="incident.resolved", now=NOW + 1)
    assert [one.id for one in await outbox.incidents()] == ["inc_2"]


def letter(id_, chain="c", event="") -> EventDecision:
    message = AlertMessage(id_, chain, {"type": "x", "id": chain}, NOW)
    return EventDecision(event, chain, message)


async def test_messages_of_a_chain_go_in_order_and_hold_only_each_other(outbox):
    """A failed message delays later ones of its chain and no other chain."""
    await outbox.lease("r", "me", 9)
    items = [letter("m1", "a"), letter("m2", "a"), letter("m3", "b")]
    assert await outbox.deliver("r", "me", items, NOW)
    first = await outbox.due("r")
    assert first.message.id == "m1"
    first.message.attempts = 1
    assert await outbox.finish("r", "me", first.message, "retry", NOW, NOW + 5)
    other = await outbox.due("r")
    assert (other.message.id, other.at) == ("m3", NOW)
    await outbox.finish("r", "me", other.message, "sent", NOW)
    again = await outbox.due("r")
    assert (again.message.id, again.at, again.message.attempts) == ("m1", NOW + 5, 1)
    await outbox.finish("r", "me", again.message, "dead", NOW + 5)
    assert (await outbox.due("r")).message.id == "m2"
    counts = await outbox.counts("r")
    assert (counts.pending, counts.dead) == (1, 1)
    assert [one.id for one in await outbox.listed("r", "sent", 9)] == ["m3"]


async def test_dead_letters_can_be_queued_again(outbox):
    """Dead letters are queued again under their id, behind waiting messages."""
    await outbox.lease("r", "me", 9)
    await outbox.deliver("r", "me", [letter("m1"), letter("m2")], NOW)
    await outbox.finish("r", "me", letter("m1").message, "dead", NOW)
    assert [one.id for one in await outbox.listed("r", "dead", 9)] == ["m1"]
    assert await outbox.resend("r", ["nope"], NOW) == 0
    assert await outbox.resend("r", [], NOW) == 1
    assert [m.id for m in await outbox.listed("r", "pending", 9)] == ["m2", "m1"]
    assert (await outbox.counts("r")).dead == 0


async def test_resending_enables_the_receiver(outbox):
    """Resending enables the receiver in the same transaction; an unknown id changes
    nothing.
    """
    await outbox.lease("r", "me", 9)
    await outbox.set_state("r", "answered 410")
    assert await outbox.resend("r", ["nope"], NOW) == 0
    assert await outbox.state("r")
    assert await outbox.resend("r", [], NOW) == 0
    assert await outbox.state("r") == ""
    await outbox.deliver("r", "me", [letter("m1")], NOW)
    await outbox.finish("r", "me", letter("m1").message, "dead", NOW)
    await outbox.set_state("r", "answered 410")
    assert await outbox.resend("r", ["m1"], NOW) == 1
    assert await outbox.state("r") == ""


async def test_late_reports_of_a_resolved_incident_open_nothing(outbox):
    """A report older than the end, repeated after a kill or recalled, is ignored."""
    await tell(outbox, "gw1", id_="inc_1")
    await tell(outbox, "gw1", NOW + 9, id_="inc_1", kind="incident.resolved")
    for gateway in ("gw1", "gw2"):
        line = {"id_": "inc_1", "kind": "incident.updated"}
        assert await tell(outbox, gateway, NOW + 5, **line) == "inc_1"
    assert len(await logged(outbox)) == 2
    await tell(outbox, "gw1", NOW + 60, id_="inc_1")
    assert (await logged(outbox))[2:] == [("incident.opened", "inc_1")]


async def test_the_log_goes_forward_when_the_clock_is_set_back(outbox):
    """An event logged after that is still read: ids never go back."""
    await outbox.lease("r", "me", 9)
    await tell(outbox, id_="inc_1")
    (first,) = await outbox.events("r", 9, NOW)
    await outbox.deliver("r", "me", [EventDecision(first.id)], NOW)
    await tell(outbox, now=NOW - 86_400, id_="inc_2", tenant="b")
    assert await logged(outbox) == [("incident.opened", "inc_2")]


async def test_events_are_read_from_the_receivers_position(outbox):
    """Decided events are not read again; delivery states are kept until forgotten."""
    await outbox.lease("r", "me", 9)
    for n in (1, 2):
        await tell(outbox, id_=f"inc_{n}", tenant=f"t{n}")
    first, second = await outbox.events("r", 9, NOW)
    told = DeliveryState({"id": "inc_1"})
    await outbox.deliver("r", "me", [EventDecision(first.id, "inc_1", state=told)], NOW)
    assert [one.id for one in await outbox.events("r", 9, NOW)] == [second.id]
    assert await outbox.delivery_states("r", ["inc_1", "inc_2"]) == [told, None]
    assert await outbox.all_delivery_states("r") == {"inc_1": told}
    gone = EventDecision(second.id, "inc_1", fold={"id": "inc_1"}, forget=True)
    await outbox.deliver("r", "me", [gone], NOW)
    assert await outbox.delivery_states("r", ["inc_1"]) == [None]
    assert await outbox.folded("r", 9) == [{"id": "inc_1"}]
    message = letter("d", "digest").message
    assert await outbox.digest("r", "me", message, 1, NOW)
    assert (await outbox.folded("r", 9), (await outbox.due("r")).message.id) == (
        [],
        "d",
    )


async def test_a_repeated_call_counts_once(outbox):
    """A client that missed the answer repeats a call that was executed already."""
    await outbox.lease("r", "me", 60)
    for n in range(3):
        await tell(outbox, id_=f"inc_{n}", tenant=f"t{n}")
    events = await outbox.events("r", 9, NOW)
    items = [EventDecision(one.id, one.about, fold={"id": one.about}) for one in events]
    message = letter("d", "digest").message
    for _ in range(2):
        assert await outbox.deliver("r", "me", items, NOW)
    assert (await outbox.counts("r")).folded == 3
    for _ in range(2):
        assert await outbox.digest("r", "me", message, 1, NOW)
    counts = await outbox.counts("r")
    assert (counts.folded, counts.pending) == (2, 1)
    await outbox.finish("r", "me", message, "sent", NOW)
    assert await outbox.due("r") is None


async def test_silences_and_states_are_kept(outbox):
    """Silences and delivery states are added, replaced and removed; each change of a
    silence raises the version.
    """
    before = await outbox.version()
    assert await outbox.put_silence("s", b"x")
    assert await outbox.version() > before
    assert await outbox.silences() == {"s": b"x"}
    assert await outbox.put_silence("s", None)
    assert not await outbox.put_silence("s", None)
    await outbox.set_state("r", "it is gone")
    assert await outbox.state("r") == "it is gone"
    await outbox.set_state("r", "")
    assert await outbox.state("r") == ""


async def test_calls_without_the_lease_change_nothing(outbox):
    """A second gateway is refused until the first one gives the lease back."""
    assert await outbox.lease("r", "me", 60)
    assert not await outbox.lease("r", "you", 60)
    assert not await outbox.deliver("r", "you", [letter("m1")], NOW)
    assert await outbox.deliver("r", "me", [letter("m1")], NOW)
    await outbox.release("r", "you")
    assert not await outbox.finish("r", "you", letter("m1").message, "sent", NOW)
    await outbox.release("r", "me")
    assert await outbox.lease("r", "you", 60)
    assert (await outbox.due("r")).message.id == "m1"
