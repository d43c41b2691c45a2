"""One suite for every kind of ledger: what happens as a whole, and what is promised."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.alerts import outbox as limits
from gateway.alerts.memory_outbox import MemoryLedger
from gateway.alerts.model import Message, Told, note_of, report_of
from gateway.alerts.outbox import Delivery
from gateway.alerts.redis_outbox import RedisLedger
from gateway.detect.model import Output, Ref, Window, format_time
from tests.engines import engine_binaries, running_engine

NOW = 1_767_600_000.0
ENGINES = engine_binaries()
_prefixes = itertools.count()


def said(id_="inc_a", kind="incident.opened", **changes) -> Output:
    """What a detector says."""
    moment = format_time(NOW)
    line = Output(
        type=kind, id=id_, ts=moment, severity="warning", cls="cost_spike", score=4.5,
        subject=Ref("user", "key_1"), tenant="acme", action="tag", until=None,
        window=Window(moment, moment), observed={"tokens_1m": 9e4}, expected={},
        reasons=("It costs.",), subjects=(Ref("user", "key_1"),),
    )  # fmt: skip
    return msgspec.structs.replace(line, **changes)


@pytest.fixture(name="engine", scope="module")
def _engine():
    if not ENGINES:
        pytest.skip("there is no engine on this machine")
    with running_engine(next(iter(ENGINES.values()))) as engine:
        yield engine


@pytest.fixture(name="ledger", params=["memory", "redis"])
async def _ledger(request, tmp_path):
    if request.param == "memory":
        ledger = MemoryLedger(str(tmp_path / "alerts"))
        yield ledger
        ledger.close()
        return
    engine = request.getfixturevalue("engine")
    client = Redis(unix_socket_path=engine.socket_path)
    yield RedisLedger(client, f"t{next(_prefixes)}:")
    await client.aclose()


async def tell(ledger, gateway="gw1", now=NOW, **changes) -> str:
    return await ledger.report(report_of(said(**changes), gateway), now)


async def logged(ledger, receiver="r") -> list[tuple[str, str]]:
    found = await ledger.events(receiver, 1000, NOW)
    return [(one.type, one.about) for one in found]


async def test_one_cause_seen_by_three_gateways_is_one_incident(ledger):
    """Opened once, under the first one's id; the others join it."""
    ids = [await tell(ledger, f"gw{n}", id_=f"inc_{n}") for n in (1, 2, 3)]
    assert ids == ["inc_1"] * 3
    assert await logged(ledger) == [("incident.opened", "inc_1")]
    (one,) = await ledger.incidents()
    assert one.gateways == ("gw1", "gw2", "gw3")
    assert one.aliases == ("inc_1", "inc_2", "inc_3")


async def test_it_is_resolved_when_all_who_reported_it_are_calm(ledger):
    """The last one's word ends it, once."""
    for n in (1, 2):
        await tell(ledger, f"gw{n}", id_=f"inc_{n}")
    for n in (2, 1, 1):
        await tell(ledger, f"gw{n}", id_=f"inc_{n}", kind="incident.resolved")
    assert (await logged(ledger))[1:] == [("incident.resolved", "inc_1")]
    (one,) = await ledger.incidents()
    assert (one.state, one.gateways) == ("resolved", ())


async def test_only_a_rise_over_all_is_an_update(ledger):
    """A second gateway that comes to what is known already says nothing new."""
    await tell(ledger, "gw1", id_="inc_1", severity="critical")
    await tell(ledger, "gw2", id_="inc_2")
    await tell(ledger, "gw2", kind="incident.updated", id_="inc_2", severity="critical")
    await tell(ledger, "gw2", kind="incident.updated", id_="inc_2", action="block")
    assert await logged(ledger) == [
        ("incident.opened", "inc_1"),
        ("incident.updated", "inc_1"),
    ]
    (one,) = await ledger.incidents()
    assert (one.severity, one.action) == (2, 3)


async def test_crowds_of_a_tenant_are_one_cause_and_subjects_of_others_are_not(ledger):
    """Crowds of a tenant belong together, and what names one subject; a single source and a
    flood of others do not.
    """
    ids = [
        await tell(ledger, "gw1", id_="inc_0", cls="scraping"),
        await tell(
            ledger, "gw1", id_="inc_1", cls="probing", subject=Ref("tenant", "acme"),
            subjects=(),
        ),
        await tell(
            ledger, "gw2", id_="inc_2", cls="ddos", subject=Ref("tenant", "acme"),
            subjects=(),
        ),
        await tell(
            ledger, "gw2", id_="inc_3", subject=Ref("user", "key_2"), subjects=()
        ),
        await tell(ledger, "gw3", id_="inc_4", tenant="beta"),
    ]  # fmt: skip
    assert ids == ["inc_0", "inc_1", "inc_1", "inc_3", "inc_4"]


async def test_a_crowd_joins_a_single_source_of_its_class_only_of_another_gateway(
    ledger,
):
    """Who saw both told them apart; who met one source of a crowd saw the same cause."""
    crowd = {"cls": "scraping", "subject": Ref("tenant", "acme"), "subjects": ()}
    ids = [
        await tell(ledger, "gw1", id_="inc_1", cls="scraping"),
        await tell(ledger, "gw1", id_="inc_2", **crowd),
        await tell(ledger, "gw1", id_="inc_2", **crowd, kind="incident.updated"),
    ]
    assert ids == ["inc_1", "inc_2", "inc_2"]
    crowd |= {"tenant": "beta", "subject": Ref("tenant", "beta")}
    ids = [
        await tell(ledger, "gw1", id_="inc_3", cls="scraping", tenant="beta"),
        await tell(ledger, "gw2", id_="inc_4", **crowd),
    ]
    assert ids == ["inc_3", "inc_3"]


async def test_a_new_attack_after_the_end_is_a_new_incident(ledger):
    """What is over is not taken up."""
    await tell(ledger, id_="inc_1")
    await tell(ledger, id_="inc_1", kind="incident.resolved")
    assert await tell(ledger, "gw2", id_="inc_2") == "inc_2"


async def test_a_restarted_gateway_joins_what_it_had_opened(ledger):
    """Its new id for the same cause is one more name; the old one's end is not the end."""
    await tell(ledger, id_="inc_1")
    assert await tell(ledger, id_="inc_9") == "inc_1"
    await tell(ledger, id_="inc_1", kind="incident.resolved")
    assert (await ledger.incidents())[0].state == "open"
    await tell(ledger, id_="inc_9", kind="incident.resolved")
    assert (await ledger.incidents())[0].state == "resolved"


async def test_a_gateway_that_never_comes_back_does_not_hold_it_open(ledger):
    """Unless somebody is heard of, it ends by itself."""
    await tell(ledger, id_="inc_1")
    await ledger.beat("gw1", ["inc_1"], NOW + 600)
    assert await ledger.sweep(NOW + limits.STALE_S + 1) == 0
    assert await ledger.sweep(NOW + limits.STALE_S + 601) == 1
    assert (await logged(ledger))[-1] == ("incident.resolved", "inc_1")


async def test_an_operator_acknowledges_once_and_resolves(ledger):
    """After that the detector's word on it counts no more."""
    await tell(ledger, id_="inc_1")
    assert await ledger.acknowledge("inc_1", "ann", NOW + 1)
    assert await ledger.acknowledge("inc_1", "bob", NOW + 2)
    assert await ledger.resolve("inc_1", "ann", NOW + 3)
    assert not await ledger.resolve("inc_1", "ann", NOW + 4)
    assert not await ledger.acknowledge("inc_x", "ann", NOW)
    await tell(ledger, kind="incident.updated", id_="inc_1", severity="critical")
    kinds = [kind for kind, _ in await logged(ledger)]
    assert kinds[1:] == ["incident.acknowledged", "incident.resolved"]
    (one,) = await ledger.incidents()
    assert (one.acknowledged_by, one.resolved_by) == ("ann", "ann")


async def test_a_client_blocked_by_three_gateways_is_told_once(ledger):
    """And its return, once; its incident goes by the shared id."""
    await tell(ledger, "gw1", id_="inc_1")
    await tell(ledger, "gw2", id_="inc_2")
    until = format_time(NOW + 600)
    line = said("inc_2", "client.blocked", until=until, action="block")
    assert await ledger.note(note_of(line, "gw2"), NOW)
    assert not await ledger.note(note_of(line, "gw1"), NOW + 1)
    over = msgspec.structs.replace(line, type="client.unblocked", until=None)
    assert await ledger.note(note_of(over, "gw1"), NOW + 9)
    assert not await ledger.note(note_of(over, "gw2"), NOW + 9)
    assert await ledger.note(note_of(line, "gw1"), NOW + 10)
    blocked = (await ledger.events("r", 9, NOW))[1]
    assert blocked.payload()["id"] == "inc_1"


async def test_a_block_that_ran_out_is_told_to_be_over(ledger):
    """Its end is said when its time is up, not before; once, and not for ever after."""
    line = said("inc_1", "client.blocked", until=format_time(NOW + 600))
    over = msgspec.structs.replace(line, type="client.unblocked", until=None)
    for gateway in ("gw1", "gw2"):
        await ledger.note(note_of(line, gateway), NOW)
    told = [await ledger.note(note_of(over, f"gw{n}"), NOW + 600 + n) for n in (1, 2)]
    assert told == [True, False]
    assert await ledger.note(note_of(line, "gw1"), NOW)
    assert not await ledger.note(note_of(over, "gw1"), NOW + 600 + limits.KNOWN_S)


async def test_a_block_after_one_that_ran_out_is_told(ledger):
    """Though nobody said that the first was over."""
    first = said("inc_1", "client.blocked", until=format_time(NOW + 600))
    again = said("inc_1", "client.blocked", until=format_time(NOW + 1_300))
    assert await ledger.note(note_of(first, "gw1"), NOW)
    assert await ledger.note(note_of(again, "gw1"), NOW + 700)
    assert not await ledger.note(note_of(again, "gw2"), NOW + 701)


async def test_open_incidents_are_bounded(ledger, monkeypatch):
    """Beyond the bound they are counted."""
    monkeypatch.setattr(limits, "MAX_OPEN", 1)
    monkeypatch.setattr(limits, "MAX_ENDED", 1)
    await tell(ledger, id_="inc_1")
    assert await tell(ledger, id_="inc_2", tenant="b") == ""
    assert await ledger.turned_away() == {"incidents": 1}
    await tell(ledger, id_="inc_1", kind="incident.resolved")
    assert await tell(ledger, id_="inc_2", tenant="b") == "inc_2"
    await tell(ledger, id_="inc_2", tenant="b", kind="incident.resolved", now=NOW + 1)
    assert [one.id for one in await ledger.incidents()] == ["inc_2"]


def letter(id_, chain="c", event="") -> Delivery:
    message = Message(id_, chain, {"type": "x", "id": chain}, NOW)
    return Delivery(event, chain, message)


async def test_messages_of_a_chain_go_in_order_and_hold_only_each_other(ledger):
    """A failed one makes way for other chains, not for its own later ones."""
    await ledger.lease("r", "me", 9)
    items = [letter("m1", "a"), letter("m2", "a"), letter("m3", "b")]
    assert await ledger.deliver("r", "me", items, NOW)
    first = await ledger.due("r")
    assert first.message.id == "m1"
    first.message.attempts = 1
    assert await ledger.finish("r", "me", first.message, "retry", NOW, NOW + 5)
    other = await ledger.due("r")
    assert (other.message.id, other.at) == ("m3", NOW)
    await ledger.finish("r", "me", other.message, "sent", NOW)
    again = await ledger.due("r")
    assert (again.message.id, again.at, again.message.attempts) == ("m1", NOW + 5, 1)
    await ledger.finish("r", "me", again.message, "dead", NOW + 5)
    assert (await ledger.due("r")).message.id == "m2"
    counts = await ledger.counts("r")
    assert (counts.pending, counts.dead) == (1, 1)
    assert [one.id for one in await ledger.listed("r", "sent", 9)] == ["m3"]


async def test_dead_letters_are_sent_again_by_hand(ledger):
    """Under their old id, behind what waits."""
    await ledger.lease("r", "me", 9)
    await ledger.deliver("r", "me", [letter("m1"), letter("m2")], NOW)
    await ledger.finish("r", "me", letter("m1").message, "dead", NOW)
    assert [one.id for one in await ledger.listed("r", "dead", 9)] == ["m1"]
    assert await ledger.resend("r", ["nope"], NOW) == 0
    assert await ledger.resend("r", [], NOW) == 1
    assert [m.id for m in await ledger.listed("r", "pending", 9)] == ["m2", "m1"]
    assert (await ledger.counts("r")).dead == 0


async def test_to_send_again_enables_the_receiver(ledger):
    """In one step with it; an id that is no dead letter's changes nothing."""
    await ledger.lease("r", "me", 9)
    await ledger.set_state("r", "answered 410")
    assert await ledger.resend("r", ["nope"], NOW) == 0
    assert await ledger.state("r")
    assert await ledger.resend("r", [], NOW) == 0
    assert await ledger.state("r") == ""
    await ledger.deliver("r", "me", [letter("m1")], NOW)
    await ledger.finish("r", "me", letter("m1").message, "dead", NOW)
    await ledger.set_state("r", "answered 410")
    assert await ledger.resend("r", ["m1"], NOW) == 1
    assert await ledger.state("r") == ""


async def test_old_news_of_an_incident_that_ended_opens_nothing(ledger):
    """Said again after a kill, or recalled by another gateway from the shared memory."""
    await tell(ledger, "gw1", id_="inc_1")
    await tell(ledger, "gw1", NOW + 9, id_="inc_1", kind="incident.resolved")
    for gateway in ("gw1", "gw2"):
        line = {"id_": "inc_1", "kind": "incident.updated"}
        assert await tell(ledger, gateway, NOW + 5, **line) == "inc_1"
    assert len(await logged(ledger)) == 2
    await tell(ledger, "gw1", NOW + 60, id_="inc_1")
    assert (await logged(ledger))[2:] == [("incident.opened", "inc_1")]


async def test_the_log_goes_forward_when_the_clock_is_set_back(ledger):
    """What is said then is not taken for what was heard."""
    await ledger.lease("r", "me", 9)
    await tell(ledger, id_="inc_1")
    (first,) = await ledger.events("r", 9, NOW)
    await ledger.deliver("r", "me", [Delivery(first.id)], NOW)
    await tell(ledger, now=NOW - 86_400, id_="inc_2", tenant="b")
    assert await logged(ledger) == [("incident.opened", "inc_2")]


async def test_events_are_read_from_the_receivers_position(ledger):
    """What was decided does not come again; what is told is remembered."""
    await ledger.lease("r", "me", 9)
    for n in (1, 2):
        await tell(ledger, id_=f"inc_{n}", tenant=f"t{n}")
    first, second = await ledger.events("r", 9, NOW)
    told = Told({"id": "inc_1"})
    await ledger.deliver("r", "me", [Delivery(first.id, "inc_1", told=told)], NOW)
    assert [one.id for one in await ledger.events("r", 9, NOW)] == [second.id]
    assert await ledger.told("r", ["inc_1", "inc_2"]) == [told, None]
    assert await ledger.all_told("r") == {"inc_1": told}
    gone = Delivery(second.id, "inc_1", fold={"id": "inc_1"}, forget=True)
    await ledger.deliver("r", "me", [gone], NOW)
    assert await ledger.told("r", ["inc_1"]) == [None]
    assert await ledger.folded("r", 9) == [{"id": "inc_1"}]
    message = letter("d", "digest").message
    assert await ledger.digest("r", "me", message, 1, NOW)
    assert (await ledger.folded("r", 9), (await ledger.due("r")).message.id) == (
        [],
        "d",
    )


async def test_what_the_client_sends_twice_counts_once(engine):
    """An answer that came too late is asked for again, of a store that has done it."""
    async with Redis(unix_socket_path=engine.socket_path) as client:
        ledger = RedisLedger(client, "twice:")
        await ledger.lease("r", "me", 60)
        for n in range(3):
            await tell(ledger, id_=f"inc_{n}", tenant=f"t{n}")
        events = await ledger.events("r", 9, NOW)
        items = [Delivery(one.id, one.about, fold={"id": one.about}) for one in events]
        message = letter("d", "digest").message
        for _ in range(2):
            assert await ledger.deliver("r", "me", items, NOW)
        assert (await ledger.counts("r")).folded == 3
        for _ in range(2):
            assert await ledger.digest("r", "me", message, 1, NOW)
        counts = await ledger.counts("r")
        assert (counts.folded, counts.pending) == (2, 1)
        await ledger.finish("r", "me", message, "sent", NOW)
        assert await ledger.due("r") is None


async def test_silences_and_states_are_kept(ledger):
    """Put, replaced, removed; each change is seen by the version."""
    before = await ledger.version()
    assert await ledger.put_silence("s", b"x")
    assert await ledger.version() > before
    assert await ledger.silences() == {"s": b"x"}
    assert await ledger.put_silence("s", None)
    assert not await ledger.put_silence("s", None)
    await ledger.set_state("r", "it is gone")
    assert await ledger.state("r") == "it is gone"
    await ledger.set_state("r", "")
    assert await ledger.state("r") == ""


async def test_what_a_courier_without_the_lease_does_counts_nothing(engine):
    """Two processes, one store: the second is turned away until the first gives up."""
    async with Redis(unix_socket_path=engine.socket_path) as client:
        ledger = RedisLedger(client, "fence:")
        assert await ledger.lease("r", "me", 60)
        assert not await ledger.lease("r", "you", 60)
        assert not await ledger.deliver("r", "you", [letter("m1")], NOW)
        assert await ledger.deliver("r", "me", [letter("m1")], NOW)
        await ledger.release("r", "you")
        assert not await ledger.finish("r", "you", letter("m1").message, "sent", NOW)
        await ledger.release("r", "me")
        assert await ledger.lease("r", "you", 60)
        assert (await ledger.due("r")).message.id == "m1"


async def test_a_killed_process_leaves_everything_in_the_file(tmp_path, monkeypatch):
    """Snapshot and journal together are the state; a torn last entry is left out."""
    monkeypatch.setattr("gateway.alerts.memory_outbox.COMPACT_CHANGES", 4)
    path = str(tmp_path / "alerts")
    ledger = MemoryLedger(path)
    for n in range(6):
        await tell(ledger, id_=f"inc_{n}", tenant=f"t{n}")
    await ledger.deliver("r", "me", [letter("m1"), letter("m2")], NOW)
    await ledger.finish("r", "me", letter("m1").message, "dead", NOW)
    await ledger.put_silence("s", b"x")
    with (tmp_path / "alerts").open("ab") as file:
        file.write(b"\0\0\1\0torn")
    ledger.close()
    again = MemoryLedger(path)
    assert await again.incidents() == await ledger.incidents()
    assert await again.events("r", 99, NOW) == await ledger.events("r", 99, NOW)
    assert (await again.due("r")).message.id == "m2"
    assert await again.silences() == {"s": b"x"}
    again.close()
